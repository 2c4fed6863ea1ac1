"""The list of system calls that a hardened kernel is refused, as a program for Linux' seccomp filter."""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Sequence

AF_VSOCK = 40  # a door to the machine's host, which no namespace closes

# By name: the call's number on x86-64, and on arm64. What these are for is not a function's business.
DENIED = {
    # mounts and namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    # the kernel itself
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "lookup_dcookie": (212, 18), "nfsservctl": (180, 42), "syslog": (103, 116),
    # keys that processes of a user share
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # the machine
    "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "settimeofday": (164, 170), "clock_settime": (227, 112), "vhangup": (153, 58),
    "clock_adjtime": (305, 266), "adjtimex": (159, 171), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
}  # fmt: skip
# What it takes to enter a namespace, and to cover files in it.
NESTING = ("mount", "unshare")
# x86-64's own: ports, and calls that are long gone.
DENIED_X86 = {"iopl": 172, "ioperm": 173, "uselib": 134, "_sysctl": 156, "modify_ldt": 154}
X32 = 0x40000000  # another numbering of the same calls

# By machine: the number that the kernel knows it by, the column above, and the number of `socket`.
MACHINES = {"x86_64": (0xC000003E, 0, 41), "aarch64": (0xC00000B7, 1, 198)}

# Classic BPF: load a word of the call; jump if equal, or at least; return.
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in the call's record
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM


def is_known() -> bool:
    """Whether there is a list for this machine."""
    return platform.machine() in MACHINES


def program(*, nests: bool = False) -> bytes:
    """The filter, as Linux reads it: what is listed fails with EPERM. Raises KeyError; see `is_known`.

    nests: for a process whose forks enter namespaces of their own, and the whole filter after that.
    """
    architecture, column, socket = MACHINES[platform.machine()]
    denied = [call[column] for name, call in DENIED.items() if not (nests and name in NESTING)]
    numbers = denied + (list(DENIED_X86.values()) if column == 0 else [])
    return _assemble(architecture, sorted(numbers), socket, x32=column == 0)


def _assemble(architecture: int, numbers: Sequence[int], socket: int, *, x32: bool) -> bytes:
    """Every refusal jumps to the last instruction, every other call runs into the one before it."""
    lines: list[tuple[int, int, str, str]] = [
        (LOAD, ARCHITECTURE, "", ""),
        (EQUAL, architecture, "", "refuse"),
        (LOAD, NUMBER, "", ""),
        *([(AT_LEAST, X32, "refuse", "")] if x32 else []),
        *((EQUAL, number, "refuse", "") for number in numbers),
        (EQUAL, socket, "", "allow"),
        (LOAD, FIRST_ARGUMENT, "", ""),
        (EQUAL, AF_VSOCK, "refuse", ""),
        (RETURN, ALLOW, "", ""),
        (RETURN, REFUSE, "", ""),
    ]
    ends = {"": 0, "allow": len(lines) - 2, "refuse": len(lines) - 1}
    code = b""
    for at, (operation, value, yes, no) in enumerate(lines):
        jumps = (ends[goal] - at - 1 if goal else 0 for goal in (yes, no))
        code += struct.pack("=HBBI", operation, *jumps, value)
    return code
