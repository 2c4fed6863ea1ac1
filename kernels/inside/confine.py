"""What a process does to itself before any of users' code runs in it: limits, and Landlock's rules.

AIGBB_RULES in its environment says what, as JSON: {"limits": {name: number}, "wrapped": whether a sandbox is around
it, "scoped": whether Landlock holds back signals and abstract sockets to processes outside,
"landlock": {"read": paths, "write": paths}, where there is to be a domain of its own,
"namespaces": what `namespaces.enter` takes, for a kernel that is forked, and "filter", a program in base64 that refuses
system calls}.
"""

import base64
import ctypes
import json
import os
import resource
import stat
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

from . import namespaces

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
OWN = ("/dev/shm", "/tmp")  # noqa: S108  # private in a sandbox
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | 1 << 14 | IOCTL


def take(environment: MutableMapping[str, str]) -> dict[str, Any]:
    """The rules, which leave the environment."""
    found: dict[str, Any] = json.loads(environment.pop(RULES, "{}"))
    return found


def apply(rules: MutableMapping[str, Any], *, forked: bool = False) -> None:
    """Be bound by them from now on, and with all that is started from here. Raises OSError, ValueError.

    forked: from a warm parent, whose sandbox this process shares with others until it has namespaces of its own.
    """
    own = rules.get("namespaces") if forked else None
    if own is not None:
        enter_own(own)
    for name, wanted in rules.get("limits", {}).items():
        kind = getattr(resource, name)
        _, most = resource.getrlimit(kind)
        value = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(kind, (value, value))
    if own is not None:
        namespaces.give_up()
    if (paths := rules.get("landlock")) is not None:
        restrict(paths["read"], paths["write"])
    elif rules.get("scoped"):
        scope()
    if own is not None and own["filter"]:
        namespaces.refuse_calls(base64.b64decode(own["filter"]))


def enter_own(wanted: Mapping[str, Any]) -> None:
    """Enter namespaces. Raises OSError that says what it was for: the kernel's last words."""
    try:
        namespaces.enter(wanted)
    except OSError as error:
        raise OSError(error.errno, f"the kernel's own namespaces could not be set up: {error}") from error


def scope() -> None:
    """No signal and no abstract socket to a process that is not started from here, and all else as before."""
    scopes = next((found for since, found in SCOPES.items() if since <= version()), 0)
    if scopes:
        bind(call(CREATE, (ctypes.c_uint64 * 3)(0, 0, scopes), 24, 0))


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
        for path in (*OWN, *write):
            allow(ruleset, path, rights, rights)
    except BaseException:
        os.close(ruleset)
        raise
    bind(ruleset)


def bind(ruleset: int) -> None:
    """Enter the domain of a ruleset, and close that."""
    try:
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
