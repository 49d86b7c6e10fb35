"""A file system for each node that can lose its power or its space (root on Linux only).

ext4 on a file. Its ``SHUTDOWN`` ioctl ends all writing at once, the journal's too: what is there
when it is mounted again is what a machine finds whose power was cut. A mount is seen by this
process and its children alone, and ends with them.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

_EXT4_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2
_CLONE_NEWNS = 0x00020000
SIZE_MB = 96
BALLAST = "ballast"
LEFT_BYTES = 64 * 1024
UMOUNT_TRIES = 100


def available() -> bool:
    """Whether this machine lets us mount."""
    tools = all(shutil.which(tool) for tool in ("mkfs.ext4", "mount", "umount"))
    return os.geteuid() == 0 and tools and os.path.exists("/dev/loop-control")


def own_mounts() -> None:
    """From now on what this process mounts is its own. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


class Disk:
    """One disk; ``directory`` is where it is mounted."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._image = directory.parent / "disk.ext4"
        with self._image.open("wb") as file:
            file.truncate(SIZE_MB << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", self._image], check=True)
        directory.mkdir(mode=0o700)
        self._mount()
        (directory / "lost+found").rmdir()
        directory.chmod(0o700)

    def _mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self._image, self.directory], check=True)

    def cut_power(self) -> None:
        """Nothing written from now on arrives; the process that has it open may still run."""
        fd = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def power_on(self) -> None:
        """As a machine finds it when it starts again; nobody has a file open there any more."""
        for _ in range(UMOUNT_TRIES):  # the kernel lets go of a dead process's files a little later
            if subprocess.run(["umount", self.directory], capture_output=True).returncode == 0:
                break
            time.sleep(0.05)
        self._mount()

    def fill(self) -> None:
        """Hardly anything is left."""
        space = os.statvfs(self.directory)
        size = space.f_bavail * space.f_frsize - LEFT_BYTES
        if size > 0:
            with (self.directory / BALLAST).open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)

    def free(self) -> None:
        """There is space again."""
        (self.directory / BALLAST).unlink(missing_ok=True)

    def close(self) -> None:
        """Gives it back; what was on it stays in the file beside, for whoever looks for a fault."""
        subprocess.run(["umount", "-l", self.directory], check=False)
