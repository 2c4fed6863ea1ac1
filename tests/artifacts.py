"""What is made once for many runs of the tests: it stays in the temporary folder, under a name made of the sources.

Nothing in it is written to by a test: what tests change, they get as a copy of their own, most of whose files are
links.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from tests.lean import LEAN

ROOT = Path(__file__).parents[1]
# Of older sources, that many are left: a developer goes back and forth.
OLDER = 2


@dataclass(frozen=True)
class ArtifactCache:
    """The folder of the current sources."""

    folder: Path

    @classmethod
    def beside(cls, runs: Path) -> ArtifactCache:
        """Return the one in a folder with runs of pytest, and delete old ones."""
        found = cls(runs / f"aigbb-{digest_of_sources()}")
        with FileLock(runs / "aigbb.lock"):
            others = sorted((path for path in runs.glob("aigbb-*") if path.is_dir()), key=lambda p: p.stat().st_mtime)
            found.folder.mkdir(mode=0o700, exist_ok=True)
            if not found.cache.exists():
                found._take_cache([cls(path) for path in others if (path / "cache.made").exists()])
            found.folder.touch()
            for old in [path for path in others if path != found.folder][:-OLDER]:
                shutil.rmtree(old)
        return found

    @property
    def cache(self) -> Path:
        """The installer's cache that all of it is made with."""
        return self.folder / "cache"

    def _take_cache(self, older: Sequence[ArtifactCache]) -> None:
        """Begin with the newest one's, as packages are the same for all sources, or with an empty one."""
        aside = self.folder / "cache.aside"
        shutil.rmtree(aside, ignore_errors=not aside.exists())
        if older:
            link_tree(older[-1].cache, aside)
        else:
            aside.mkdir()
        aside.rename(self.cache)

    def finish_cache(self) -> None:
        """Say that nothing is added to the cache any more, so that it can be linked from."""
        (self.folder / "cache.made").touch()

    def made(self, name: str, make: Callable[[Path], object]) -> Path:
        """Return a folder, made now if no run has done so, or one has not come to its end."""
        folder = self.folder / name
        with FileLock(f"{folder}.lock"):
            if not (folder / ".made").exists():
                shutil.rmtree(folder, ignore_errors=not folder.exists())
                folder.mkdir()
                make(folder)
                (folder / ".made").touch()
        return folder


def link_tree(template: Path, copy: Path) -> None:
    """Make another folder whose files are links to those of the first."""
    shutil.copytree(template, copy, copy_function=os.link, symlinks=True)


@functools.cache
def digest_of_sources() -> str:
    """Return a name for the sources, the Python and the place that homes of services depend on."""
    digest = hashlib.sha256(f"{sys.version} {ROOT}".encode())
    for path in _sources():
        digest.update(f"{path.relative_to(ROOT)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _sources() -> Iterator[Path]:
    for folder in ("kernels", "server", "aigbb_functions", "tests/javascript"):
        paths = (path for path in (ROOT / folder).rglob("*") if {"__pycache__", "node_modules"}.isdisjoint(path.parts))
        yield from sorted(path for path in paths if path.is_file())
    yield from (ROOT / "requirements.lock", LEAN)
