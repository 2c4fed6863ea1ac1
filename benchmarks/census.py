"""What a service holds: processes, descriptors, sockets, folders, memory. Two counts at rest are to be the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from server.publishing import RECENT_SNAPSHOTS

SETTLE_SECONDS = 120.0
# Descriptors of caches, and of connections that are about to close, come and go.
MORE_DESCRIPTORS = 16
# Python's own memory grows in the first thousands of requests whatever is done; then it may not.
MORE_MEMORY = 1.25, 48.0


@dataclass(frozen=True)
class Census:
    """One count. memory: MiB of the service itself, and of the warm parents of its kernels."""

    processes: int
    strays: int
    descriptors: int
    sockets: int
    work: int
    generations: int
    snapshots: int
    temporary: int
    memory: float
    parents: float

    def leaks(self, before: Census, keep: int) -> Iterator[str]:
        """A sentence for each thing that there is more of than there was. keep: environments that may be kept."""
        for name, more in (("processes", 0), ("sockets", 0), ("work", 0), ("temporary", 0)):
            was, now = getattr(before, name), getattr(self, name)
            if now > was + more:
                yield f"{name}: {was} before, {now} after"
        if self.strays:
            yield f"{self.strays} processes of kernels are left that nobody owns"
        if self.descriptors > before.descriptors + MORE_DESCRIPTORS:
            yield f"descriptors: {before.descriptors} before, {self.descriptors} after"
        if self.generations > keep:
            yield f"{self.generations} environments are kept, {keep} may be"
        if self.snapshots > RECENT_SNAPSHOTS + 1 + keep:
            yield f"{self.snapshots} snapshots are kept, {RECENT_SNAPSHOTS + 1 + keep} may be"
        if self.memory > before.memory * MORE_MEMORY[0] + MORE_MEMORY[1]:
            yield f"memory: {before.memory:.0f} MiB before, {self.memory:.0f} MiB after"

    def rows(self, before: Census) -> Mapping[str, tuple[float, float]]:
        """Each figure before and after."""
        old = asdict(before)
        return {name: (old[name], value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Place:
    """Where a service is: its process, its home, and the folder for temporary files that is its own."""

    process: psutil.Process
    home: Path
    temporary: Path

    def count(self) -> Census:
        """Count once."""
        children = self.process.children(recursive=True)
        known = {self.process.pid, *(child.pid for child in children)}
        strays = [pid for pid in self._of_kernels() if pid not in known]
        return Census(
            processes=len(children),
            strays=len(strays),
            descriptors=self.process.num_fds(),
            sockets=len(list((self.home / "runtime").glob("*"))),
            work=len(list((self.home / "work").glob("*"))),
            generations=len([f for f in (self.home / "generations").glob("*") if f.name.isdecimal()]),
            snapshots=len(list((self.home / "snapshots").glob("*"))),
            temporary=len(list(self.temporary.glob("*"))),
            memory=_mebibytes(self.process),
            parents=sum(_mebibytes(child) for child in children if _is_parent(child)),
        )

    def at_rest(self, quiet: Callable[[], bool], keep: int) -> Census:
        """The count once nothing runs and two counts in a row are alike; the last one where that never comes."""
        last, deadline = self.count(), time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.5)
            now = self.count()
            if quiet() and not now.strays and now.generations <= keep and _alike(last, now):
                return now
            last = now
        return last

    def _of_kernels(self) -> Iterator[int]:
        """Every process of this home, whoever its parent is."""
        mark = str(self.home / "generations").encode()
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if mark in Path(f"/proc/{process.pid}/environ").read_bytes() and process.status() != "zombie":
                    yield process.pid


def _alike(one: Census, other: Census) -> bool:
    names = ("processes", "sockets", "work", "temporary", "snapshots", "descriptors")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _mebibytes(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        return float(round(process.memory_info().rss / 2**20, 1))
    return 0.0


def _is_parent(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "--warm" in process.cmdline()
    return False
