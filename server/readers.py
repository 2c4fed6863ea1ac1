"""The process that reads sources without running them: `reading.py`, in a sandbox."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import docstring_parser

from kernels.confinement import Confinement
from kernels.sandbox import Child
from server.reading import FILES, HERE

PROGRAM = HERE / "reading.py"
_PARSER = Path(docstring_parser.__file__).parent
# In a sandbox there is no virtual environment, but the Python that it was made from.
_PYTHON = Path(sys.executable).resolve()
_UNCONFINED = Confinement()

# Starts a process that reads sources.
Reader = Callable[[], Awaitable[Child]]


async def start_reader(confinement: Confinement = _UNCONFINED) -> Child:
    """Start one, which waits for sources. It sees Python, its own files, and what reads docstrings."""
    argv: list[str | Path] = [_PYTHON, "-I", "-S", str(PROGRAM), str(_PARSER.parent)]
    return await Child.start(argv, env={"LANG": "C.UTF-8"}, cage=confinement.readers(*FILES, _PARSER))
