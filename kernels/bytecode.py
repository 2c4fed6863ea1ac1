"""Compiled files of environments: gathered from an import that may not write beside the sources, and carried on.

Compiling what the default packages import takes five times as long as importing it.
"""

from __future__ import annotations

import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kernels.font_lists import FontLists
from kernels.untrusted_files import plain_files, remove_tree

FOLDER = "__pycache__"
# Bytes of a compiled file that is taken.
LARGEST = 64 * 1024 * 1024
_LIBRARY = Path("lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")


@dataclass(frozen=True)
class Bytecode:
    """The compiled files below one folder, which need not have the sources: an environment, or what was gathered."""

    folder: Path

    def link_into(self, venv: Path, fits: Callable[[Path, Path], bool]) -> int:
        """Link what an environment lacks. fits is asked of a file here and its place there. Raises OSError.

        Returns how many files are here and not there all the same.
        """
        left = 0
        for compiled in self._files():
            there = venv / compiled.relative_to(self.folder)
            if there.exists():
                continue
            if fits(compiled, there):
                there.parent.mkdir(exist_ok=True)
                os.link(compiled, there)
            else:
                left += 1
        return left

    def keep(self, generation: Path) -> None:
        """Take a link to all that an environment has, in place of what was here. Raises OSError."""
        venv = generation / "venv"
        aside = self.folder.with_name(f".{self.folder.name}.{os.getpid()}")
        try:
            for compiled in Bytecode(venv)._files():
                there = aside / compiled.relative_to(venv)
                there.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.link(compiled, there)
            FontLists(generation).link_into(aside)
            shutil.rmtree(self.folder, ignore_errors=True)
            aside.rename(self.folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def move_into(self, venv: Path) -> None:
        """Put what was gathered where Python looks for it, and remove the rest. Raises OSError.

        It was written by packages: only plain files are taken, where there is a source and no compiled file.
        """
        for here, path in plain_files(self.folder, max_size=LARGEST):
            there = venv / path
            if path.is_relative_to(_LIBRARY) and path.parent.name == FOLDER and _source(there).is_file():
                there.parent.mkdir(exist_ok=True)
                if not there.exists():
                    os.rename(path.name, there, src_dir_fd=here)
        remove_tree(self.folder)

    def _files(self) -> Iterator[Path]:
        for folder, _, files in os.walk(self.folder / _LIBRARY):
            if Path(folder).name == FOLDER:
                yield from (Path(folder, name) for name in files)


def is_linked(compiled: Path, there: Path) -> bool:
    """Both environments link to the installer's cache: same inode, same source. A package that moved has another."""
    try:
        return _source(compiled).samefile(_source(there))
    except FileNotFoundError:
        return False


def is_current(compiled: Path, there: Path) -> bool:
    """Both come from one lock, so what is there is the same; but Python looks at the source's time and size."""
    try:
        source = _source(there).stat()
        with compiled.open("rb") as file:
            flags, seconds, size = struct.unpack("<III", file.read(16)[4:])
    except (OSError, struct.error):
        return False
    return (flags, seconds, size) == (0, int(source.st_mtime) & 0xFFFFFFFF, source.st_size & 0xFFFFFFFF)


def _source(compiled: Path) -> Path:
    return compiled.parents[1] / f"{compiled.name.split('.')[0]}.py"
