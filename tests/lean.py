"""Services whose kernels have few packages by default. `python -m tests.lean` is `python -m server` for such a one."""

from __future__ import annotations

from pathlib import Path

from kernels import packages

LEAN = Path(__file__).with_name("lean_requirements.txt")


def make_lean() -> None:
    """Give the environments of this process's services only what kernels cannot do without."""
    packages.DEFAULT_REQUIREMENTS = LEAN


if __name__ == "__main__":
    from server.cli import main

    make_lean()
    main()
