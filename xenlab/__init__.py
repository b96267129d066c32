"""Real Xen with a Linux dom0, in QEMU: where the project's Xen part is tested."""
