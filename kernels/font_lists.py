"""Lists of fonts, which Matplotlib makes once per environment: taken from where an import left them, and carried on."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kernels.untrusted_files import plain_files

# Below an environment, what was gathered, and the cache; `inside/fonts.py` has the same name.
FOLDER: Final = "matplotlib"
# Bytes of a list that is taken.
LARGEST = 16 * 1024 * 1024
_NAME = re.compile(r"fontlist-v[0-9.]{1,20}\.json")


@dataclass(frozen=True)
class FontLists:
    """The lists in the folder of an environment, of what was gathered for it, or of the cache."""

    owner: Path

    def __bool__(self) -> bool:
        return self.folder.is_dir()

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self.owner / FOLDER

    def move_into(self, owner: Path) -> None:
        """Give an environment what packages have left here: plain files with the name of a list. Raises OSError."""
        for here, path in plain_files(self.folder, max_size=LARGEST):
            if len(path.parts) == 1 and _NAME.fullmatch(path.name):
                there = owner / FOLDER / path.name
                there.parent.mkdir(mode=0o700, exist_ok=True)
                os.rename(path.name, there, src_dir_fd=here)
                there.chmod(0o400)

    def link_into(self, owner: Path) -> None:
        """Link them into another folder, as they never change. Raises OSError."""
        for found in self.folder.iterdir() if self else ():
            there = owner / FOLDER / found.name
            there.parent.mkdir(mode=0o700, exist_ok=True)
            if not there.exists():
                os.link(found, there)
