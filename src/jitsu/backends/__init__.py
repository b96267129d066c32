"""One hypervisor a file, all behind the contract in `base`."""
