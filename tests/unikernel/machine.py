"""The image itself under QEMU, on a real tap."""

import os
import re
import select
import shutil
import subprocess
from pathlib import Path
from time import monotonic

from unikernel.guest import UNIKERNEL

IMAGE = UNIKERNEL.parent / "src" / "jitsu" / "images" / "hello.elf"
TIMEOUT = 20


def why_not() -> str | None:
    """What keeps virtual machines from running here, if anything."""
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun"
    for program in ("qemu-system-x86_64", "ip", "curl"):
        if shutil.which(program) is None:
            return f"needs {program}"
    return None


class Machine:
    """A running guest on a namespace's tap, and its client there or in another.

    Its console is a pipe.
    """

    def __init__(
        self,
        image: Path,
        namespace: str,
        cmdline: str,
        accelerator: str = "tcg",
        memory: int = 8,
        client: str | None = None,
    ) -> None:
        self.client = client or namespace
        self.said = ""
        command = ["ip", "netns", "exec", namespace, "qemu-system-x86_64"]
        command += ["-accel", accelerator, "-nodefaults", "-no-user-config", "-no-reboot"]
        command += ["-M", "microvm,acpi=off,pic=off,pit=off,rtc=off,isa-serial=off"]
        command += [
            "-display",
            "none",
            "-m",
            str(memory),
            "-kernel",
            str(image),
            "-append",
            cmdline,
        ]
        command += ["-chardev", "stdio,id=console,signal=off"]
        command += ["-device", "isa-debugcon,iobase=0xe9,chardev=console"]
        command += ["-global", "virtio-mmio.force-legacy=false"]
        command += ["-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no"]
        command += ["-device", "virtio-net-device,netdev=n0,mac=02:00:00:00:00:10"]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdout
        self._console = self.process.stdout.fileno()

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait until the console has said it."""
        end = monotonic() + TIMEOUT
        while not (found := re.search(pattern, self.said)):
            ready, _, _ = select.select([self._console], [], [], max(0, end - monotonic()))
            data = os.read(self._console, 4096) if ready else b""
            assert data, f"no {pattern!r} in {self.said!r}"
            self.said += data.decode()
        return found

    def run(self, *command: str) -> bytes:
        """Run a program of the client; what it printed."""
        full = ["ip", "netns", "exec", self.client, *command]
        return subprocess.run(full, check=True, timeout=60, stdout=subprocess.PIPE).stdout

    def curl(self, *arguments: str) -> bytes:
        return self.run("curl", "-sS", "--max-time", "50", *arguments)

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.process.kill()
        with self.process:  # closes the pipe and waits
            pass
