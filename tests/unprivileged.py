"""Run a command as another user, who can read the folder of Python wherever that is: `unprivileged.py USER COMMAND`.

To be started by root. Where Python is in root's own home, only that folder of it is there for the command.
"""

from __future__ import annotations

import os
import pwd
import sys
from contextlib import ExitStack
from pathlib import Path

from kernels.inside.namespaces import MOUNTS, RECURSIVE, at, checked, libc, mount, show

PRIVATE = 1 << 18


def main() -> None:
    """Cover the home, become somebody else, and go on as the command."""
    user, python, home = int(sys.argv[1]), Path(sys.base_prefix), Path(pwd.getpwuid(0).pw_dir)
    checked(libc().unshare(MOUNTS))
    mount("", "/", RECURSIVE | PRIVATE)
    if python.is_relative_to(home):
        with ExitStack() as opened:
            descriptor = at(str(python), opened)
            mount("tmpfs", str(home), 0, "size=1m,mode=755")
            show(str(python), descriptor)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
