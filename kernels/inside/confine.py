"""What a process does to itself before any of users' code runs in it: limits, and Landlock's rules.

AIGBB_RULES in its environment says what, as JSON: {"limits": {name: number}, "wrapped": whether a sandbox is around
it, "landlock": {"read": paths, "write": paths}}, the last where there is to be a domain of its own.
"""

import ctypes
import json
import os
import resource
import stat
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from typing import Any

RULES = "AIGBB_RULES"

# System calls by number: the same on all machines.
CREATE, ADD, RESTRICT = 444, 445, 446
NO_NEW_PRIVILEGES = 38
VERSION = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
IOCTL = 1 << 15
# All rights there are, by the first version of Landlock that has that many; since the sixth, it holds signals back too.
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
SCOPES = {6: 0b11}  # abstract sockets, and signals, to who is outside
READ = EXECUTE | READ_FILE | READ_DIR
DEVICES = ("/proc", "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx",
           "/dev/pts")  # fmt: skip
SHARED = "/dev/shm"  # noqa: S108  # of all kernels of a parent: names there are random, and can't be listed
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | 1 << 14 | IOCTL


def take(environment: MutableMapping[str, str]) -> dict[str, Any]:
    """The rules, which leave the environment."""
    found: dict[str, Any] = json.loads(environment.pop(RULES, "{}"))
    return found


def apply(rules: MutableMapping[str, Any]) -> None:
    """Be bound by them from now on, and with all that is started from here. Raises OSError, ValueError."""
    for name, wanted in rules.get("limits", {}).items():
        kind = getattr(resource, name)
        _, most = resource.getrlimit(kind)
        value = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(kind, (value, value))
    if (paths := rules.get("landlock")) is not None:
        restrict(paths["read"], paths["write"])


def version() -> int:
    """Landlock's on this machine, 0 where there is none."""
    with suppress(OSError, AttributeError):
        return call(CREATE, None, 0, VERSION)
    return 0


def restrict(read: Sequence[str], write: Sequence[str]) -> None:
    """Only these paths from now on, and no signal to, or look into, a process that is not started from here."""
    has = version()
    if not has:
        raise OSError("this machine has no Landlock")
    rights = RIGHTS[max(since for since in RIGHTS if since <= has)]
    scopes = next((scope for since, scope in SCOPES.items() if since <= has), 0)
    ruleset = call(CREATE, (ctypes.c_uint64 * 3)(rights, 0, scopes), 24 if has >= 6 else 16 if has >= 4 else 8, 0)
    try:
        for path in read:
            allow(ruleset, path, READ, rights)
        for path in DEVICES:
            allow(ruleset, path, READ | WRITE_FILE | IOCTL, rights)
        allow(ruleset, SHARED, rights & ~READ_DIR, rights)
        for path in write:
            allow(ruleset, path, rights, rights)
        libc().prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        call(RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


class Beneath(ctypes.Structure):
    """What is allowed beneath an open folder."""

    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("parent", ctypes.c_int32))


def allow(ruleset: int, path: str, access: int, rights: int) -> None:
    """Add a rule; one about what is not there says nothing."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= OF_FILES
        rule = Beneath(access & rights, descriptor)
        call(ADD, ruleset, 1, ctypes.byref(rule), 0)
    finally:
        os.close(descriptor)


def libc() -> ctypes.CDLL:
    """The C library of this process."""
    return ctypes.CDLL(None, use_errno=True)


def call(number: int, *arguments: Any) -> int:
    """A system call that the library has no name for. Raises OSError."""
    result: int = libc().syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
