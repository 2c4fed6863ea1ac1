"""The folders that are one kernel's alone: where it works, and where its sockets are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import structlog

from kernels.messages import clean
from kernels.untrusted_files import read_end_of, remove_tree

log = structlog.get_logger(__name__)

# In its working folder: its temporary one, so that both go together.
TEMPORARY = ".tmp"
# Bytes of a process's output at its start that a failure reports.
LAST_BYTES = 4000


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
        return {
            "HOME": str(folder),
            "IPYTHONDIR": str(folder / ".ipython"),
            "MPLCONFIGDIR": str(folder / ".config" / "matplotlib"),
            "TMPDIR": str(folder / TEMPORARY),
        }

    def open(self) -> BinaryIO:
        """Make the folders, and a file for what the process prints at its start. Raises OSError."""
        for folder in (self.workdir, self.workdir / TEMPORARY, self.sockets):
            folder.mkdir(mode=0o700, parents=True)
        return (self.workdir / ".start.log").open("xb+")

    def close_sockets(self) -> None:
        """Remove how it is reached: its sockets and the file with its key. Who is connected stays connected."""
        remove_tree(self.sockets)

    def remove(self) -> None:
        """Remove both folders, or what the kernel has put in their place."""
        for folder in self.folders:
            if not remove_tree(folder):
                log.warning("kernel.files_left", folder=str(folder))


def last_words(printed: BinaryIO) -> str:
    """Return the end of what a process printed at its start, whatever it has put in the place of the file."""
    return clean(read_end_of(printed.fileno(), LAST_BYTES).decode(errors="replace"))
