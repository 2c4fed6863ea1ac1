"""The folders that are one kernel's alone: where it works, and where its sockets are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kernels.home import remove_all
from kernels.messages import clean

# In its working folder: its temporary one, so that both go together.
TEMPORARY = ".tmp"


@dataclass(frozen=True)
class Workplace:
    """Made by `open`, gone with `remove`."""

    workdir: Path
    sockets: Path

    @property
    def folders(self) -> tuple[Path, Path]:
        """Both."""
        return self.workdir, self.sockets

    @property
    def connection_file(self) -> Path:
        """How to reach it; its sockets are beside."""
        return self.sockets / "kernel.json"

    @property
    def environment(self) -> dict[str, str]:
        """Where it keeps what is its own, as variables."""
        folder = self.workdir
        return {"HOME": str(folder), "IPYTHONDIR": str(folder / ".ipython"), "TMPDIR": str(folder / TEMPORARY)}

    @property
    def _words(self) -> Path:
        return self.workdir / ".start.log"

    def open(self) -> BinaryIO:
        """Make the folders; a file for what the process says at its start."""
        for folder in (self.workdir, self.workdir / TEMPORARY, self.sockets):
            folder.mkdir(mode=0o700, parents=True)
        return self._words.open("wb")

    def last_words(self) -> str:
        """The end of what it said."""
        return clean(self._words.read_bytes()[-4000:].decode(errors="replace"))

    def remove(self) -> None:
        """Both folders, and what is in them."""
        for folder in self.folders:
            remove_all(folder)
