"""One lab: QEMU with Xen, dom0, and one job in it.

The job is a line of shell, `job` in its folder /lab/job, that dom0's init runs when all is up;
afterwards dom0 powers off. What the job says comes by ports of a virtio console, each a socket
here, apart from what Xen and the kernels write to the serial line, which goes to a log file:

    lab.output     what the job prints
    lab.report     lines of JSON for the host; the last is the job's exit code
    a terminal     instead of lab.output, when a person is to use it: /dev/hvc1

Facts that cost an hour each: TCG's SMAP and RDTSCP are not enough for Xen's dom0 and guests; the
cloud kernel cannot be dom0; a disk reaches dom0 by virtio, for Linux under Xen gives devices true
addresses.
"""

import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from xenlab.cache import cache, forget
from xenlab.errors import LabError
from xenlab.image import Image, image
from xenlab.tree import ROOT, environment, foreign, tree

MEMORY_MIB = 4096
DOM0_MIB = 1024
_LOGS_KEPT = 40
_DISKS = ("root", "environment", "tree")


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab that runs; `output` and `report` end when it does."""

    process: subprocess.Popen[bytes]
    log: Path
    output: socket.socket
    report: socket.socket

    def console(self, lines: int = 30) -> str:
        """Return the last lines that Xen and the kernels have written."""
        text = self.log.read_text(errors="replace").replace("\r", "")
        return "\n".join(text.splitlines()[-lines:])


def unavailable() -> str:
    """Return why there can be no lab on this host, or nothing."""
    needed = {
        "qemu-system-x86_64": "./scripts/packages installs it",
        "apt-get": "the lab is made of Debian's packages",
        "dpkg-deb": "the lab is made of Debian's packages",
    }
    missing = [f"no {tool} ({what})" for tool, what in needed.items() if not shutil.which(tool)]
    return "; ".join([*missing, *filter(None, [foreign()])])


@contextmanager
def lab(
    job: str,
    *,
    store: str = "oxenstored",
    files: Iterable[Path] = (),
    terminal: bool = False,
    cpus: int = 1,
) -> Iterator[Lab]:
    """Start a lab that runs `job`; it is gone, with its files, when the context ends.

    `files` and folders are copied to the job's folder. Raises LabError.
    """
    if reason := unavailable():
        raise LabError(f"there can be no lab here: {reason}")
    base, venv = image(), environment()
    with ExitStack() as stack:
        staging = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="xenlab-")))
        folder = staging / "job"
        folder.mkdir()
        (folder / "job").write_text(job + "\n")
        for file in files:
            _copy(file, folder)
        disks = (base.root, venv, tree(folder, staging))
        log = _log()
        output, its_output = socket.socketpair()
        report, its_report = socket.socketpair()
        for end in (output, its_output, report, its_report):
            stack.enter_context(end)
        argv = command(base, disks, f"lab.tree={ROOT} lab.store={store}", log, cpus=cpus) + ports(
            its_output.fileno(), its_report.fileno(), terminal=terminal
        )
        with log.open("ab") as errors:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=(its_output.fileno(), its_report.fileno()),
                env={**os.environ, "TMPDIR": str(staging)},  # for what dom0 writes to its disks
            )
        stack.callback(_end, process)
        its_output.close()
        its_report.close()
        yield Lab(process, log, output, report)


def command(base: Image, disks: Sequence[Path], words: str, log: Path, *, cpus: int) -> list[str]:
    """Return QEMU's command line, but for the ports."""
    kernel = f"{base.kernel} console=hvc0 loglevel=4 nokaslr mitigations=off panic=-1 {words}"
    xen = (
        f"console=com1 com1=115200,8n1 dom0_mem={DOM0_MIB}M,max:{DOM0_MIB}M dom0_max_vcpus=1 "
        "sched=credit loglvl=warning guest_loglvl=warning bootscrub=0"
    )
    argv = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot"]
    argv += ["-display", "none"]
    argv += ["-machine", "pc", "-accel", "tcg,thread=multi", "-cpu", "max,-smap,-rdtscp"]
    argv += ["-m", str(MEMORY_MIB), "-smp", str(cpus)]
    argv += ["-kernel", str(base.xen), "-append", xen]
    argv += ["-initrd", f"{kernel},{base.initramfs}"]  # multiboot modules, each with its arguments
    argv += ["-chardev", f"file,id=console,path={log}", "-serial", "chardev:console"]
    for name, disk in zip(_DISKS, disks, strict=True):
        argv += ["-drive", f"id={name},if=none,format=raw,file={disk},snapshot=on"]
        argv += ["-device", f"virtio-blk-pci,drive={name}"]
    return argv


def ports(output: int, report: int, *, terminal: bool) -> list[str]:
    """Return the part of QEMU's command line that has the job's ports, on these sockets."""
    device = "virtconsole" if terminal else "virtserialport"
    return [
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=output,fd={output}"),
        *("-device", f"{device},chardev=output,name=lab.output"),
        *("-chardev", f"socket,id=report,fd={report}"),
        *("-device", "virtserialport,chardev=report,name=lab.report"),
    ]


def shell_line(argv: Sequence[str]) -> str:
    """Return the job that runs a command, and reports its exit code."""
    return (
        f"{shlex.join(argv)} </dev/null >/dev/lab.output 2>&1\n"
        'echo "{\\"exit\\": $?}" >/dev/lab.report'
    )


def _copy(file: Path, folder: Path) -> None:
    """Copy a file or a folder; raises LabError."""
    try:
        if file.is_dir():
            shutil.copytree(file, folder / file.name)
        else:
            shutil.copy2(file, folder)
    except OSError as error:
        raise LabError(f"{file} cannot be copied to the lab: {error.strerror}") from error


def _log() -> Path:
    """Return the path of a new log, and remove the oldest ones."""
    logs = cache() / "log"
    logs.mkdir(parents=True, exist_ok=True)
    forget("log/*", _LOGS_KEPT)
    return logs / f"{time.strftime('%Y%m%d-%H%M%S')}-{time.monotonic_ns() % 10**9:09}.log"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End QEMU, which may have ended by itself."""
    process.kill()
    process.wait()
