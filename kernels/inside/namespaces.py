"""Namespaces of a kernel that was forked: its own files, shared memory and, where it has no network, its own `lo`.

The warm parent and its forks are in one sandbox, which is in one user namespace. A fork enters a user namespace of its
own, in which it may mount, and gives all privileges up once it has. Processes of another user namespace of the same
level can neither trace it nor read its memory, environment and open files.

`python -I -S namespaces.py JSON` enters them and ends: a trial of whether that works on a machine.
"""

import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

# As linux/sched.h, linux/mount.h, linux/prctl.h and linux/capability.h have them.
USER, MOUNTS, IPC, NETWORK = 0x10000000, 0x00020000, 0x08000000, 0x40000000
READ_ONLY, NO_SUID, NO_DEVICES, REMOUNT, BIND, RECURSIVE = 1, 2, 4, 32, 4096, 16384
DROP_BOUND, SET_SECCOMP, FILTER, NO_NEW_PRIVILEGES = 24, 22, 2, 38
VERSION_3 = 0x20080522
# Files and folders of one `/tmp` or `/dev/shm`: each takes memory, though it be empty.
ENTRIES = 16384
TEMPORARY, SHARED = "/tmp", "/dev/shm"  # noqa: S108
SET_FLAGS, UP = 0x8914, 1  # of a network interface


def enter(wanted: Mapping[str, Any]) -> None:
    """Enter namespaces of one's own, in a process with one thread. Raises OSError.

    wanted: "own", folders of which the folder around is covered; "kept", what else is shown in `/tmp`; "size", bytes of
    `/tmp` and of `/dev/shm`; "alone", whether the network is its own.
    """
    user, group = os.geteuid(), os.getegid()
    checked(libc().unshare(USER | MOUNTS | IPC | (NETWORK if wanted["alone"] else 0)))
    # A process is not dumpable when its privileges have changed, and its files in /proc are root's then.
    checked(libc().prctl(4, 1, 0, 0, 0))
    write("setgroups", "deny")
    write("uid_map", f"{user} {user} 1")
    write("gid_map", f"{group} {group} 1")
    cover(wanted["own"], wanted["kept"], wanted["size"])
    if wanted["alone"]:
        bring_up("lo")
    Path("/proc/sys/user/max_user_namespaces").write_text("0")


def give_up() -> None:
    """Drop every capability, for good."""
    library, number = libc(), 0
    while library.prctl(DROP_BOUND, number, 0, 0, 0) == 0:  # up to the last that Linux has
        number += 1
    header, none = (ctypes.c_uint32 * 2)(VERSION_3, 0), (ctypes.c_uint32 * 6)()
    checked(libc().capset(header, none))
    checked(libc().prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0))


class Program(ctypes.Structure):
    """A filter of system calls, as Linux takes it."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse_calls(program: bytes) -> None:
    """Be bound by a filter of system calls. Raises OSError."""
    filter_ = Program(len(program) // 8, program)
    checked(libc().prctl(SET_SECCOMP, FILTER, ctypes.byref(filter_), 0, 0))


def cover(own: Sequence[str], kept: Sequence[str], size: int) -> None:
    """Have `/tmp` and `/dev/shm` alone, and see nothing beside what is its own."""
    with ExitStack() as opened:
        shown = [(path, at(path, opened)) for path in (*kept, *own)]
        for folder in (TEMPORARY, SHARED):
            mount("tmpfs", folder, NO_SUID | NO_DEVICES, f"size={size},nr_inodes={ENTRIES},mode=1777")
        covers = [folder for folder in around(own) if not Path(folder).is_relative_to(TEMPORARY)]
        for folder in covers:
            mount("tmpfs", folder, NO_SUID | NO_DEVICES, "size=64k,nr_inodes=64,mode=755")
        for path, descriptor in shown:
            show(path, descriptor)
        for folder in covers:
            mount("", folder, REMOUNT | BIND | READ_ONLY | NO_SUID | NO_DEVICES)


def around(own: Sequence[str]) -> Iterator[str]:
    """The folders that its own folders are in, each once."""
    yield from dict.fromkeys(str(Path(path).parent) for path in own)


def at(path: str, opened: ExitStack) -> int:
    """An open file that stands for a path, whatever is mounted there later."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    opened.callback(os.close, descriptor)
    return descriptor


def show(path: str, descriptor: int) -> None:
    """Mount what was at a path there again, with all that is mounted in it."""
    source = f"/proc/self/fd/{descriptor}"
    if not os.path.exists(path):  # noqa: PTH110
        if os.path.isdir(source):  # noqa: PTH112
            Path(path).mkdir(parents=True)
        else:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).touch()
    mount(source, path, BIND | RECURSIVE)


def bring_up(name: str) -> None:
    """Have a network interface carry packets."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh14x", name.encode(), UP))


def mount(source: str, target: str, flags: int, options: str = "") -> None:
    """As mount(2). Raises OSError."""
    kind = source if source == "tmpfs" else ""
    parts = [part.encode() for part in (source, target, kind)]
    checked(libc().mount(*parts, ctypes.c_ulong(flags), options.encode()), target)


def write(name: str, text: str) -> None:
    """Write a file of the process's own in /proc at once. Raises OSError."""
    descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def libc() -> ctypes.CDLL:
    """The C library of this process."""
    return ctypes.CDLL(None, use_errno=True)


def checked(result: int, name: str | None = None) -> None:
    """Raises OSError for a call that failed."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)


if __name__ == "__main__":
    enter(json.loads(sys.argv[1]))
    give_up()
