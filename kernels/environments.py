"""Generations: immutable environments, built aside, numbered, and never installed into again."""

from __future__ import annotations

import asyncio
import csv
import fcntl
import json
import os
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from packaging.utils import canonicalize_name

from kernels.bytecode import Bytecode, is_current, is_linked
from kernels.confinement import Confinement
from kernels.errors import BuildFailed, IndexUnavailable, InsufficientStorage
from kernels.font_lists import FontLists
from kernels.home import Home, on_disk, write_atomically
from kernels.inspecting import inspect
from kernels.packages import Lock, Uv, faulty_package
from kernels.progress import Report, Step
from kernels.sandbox import Finished
from kernels.storage import refusal, says_full
from kernels.untrusted_files import remove_tree

KERNEL_PREFIX = "aigbb_functions_kernel_"


@dataclass(frozen=True)
class Generation:
    """Environment N with its lock, on disk and complete.

    compiled: it has just been built, and has all compiled files of another one that was made from the same lock.
    """

    number: int
    folder: Path
    lock: Lock
    compiled: bool = False

    @property
    def kernel_name(self) -> str:
        """The kernelspec's name."""
        return f"{KERNEL_PREFIX}{self.number}"

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.folder / "venv" / "bin" / "python"

    @property
    def pointer(self) -> Path:
        """A file with the path of the snapshot that its kernels show; replaced, never edited."""
        return self.folder / "snapshot"

    @property
    def bytecode(self) -> Path:
        """Where imports leave compiled files before it serves: beside the sources they may not write."""
        return self.folder / "bytecode"

    @property
    def kernelspecs(self) -> Path:
        """A shelf with its own kernelspec alone: what our pool starts it by."""
        return self.folder / "kernelspecs"

    @property
    def built_from(self) -> str | None:
        """The text of the lock that it was made from; None if that cannot be read."""
        try:
            return (self.folder / "lock.txt").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def in_use(self) -> bool:
        """Whether a kernel of it runs, ours or a notebook's."""
        with self.claimed() as idle:
            return not idle

    @property
    def works(self) -> bool:
        """Whether its interpreter is there."""
        return os.access(self.python, os.X_OK)

    def parts(self) -> tuple[Path, ...]:
        """The folders in which something comes or goes when an installed package does, or the interpreter."""
        return (self.python.parent, *self.folder.glob("venv/lib/python3*/site-packages"))

    def missing(self) -> str | None:
        """The first file of an installed package that is gone or has another length; None if there is none."""
        folders = list(self.folder.glob("venv/lib/python3*/site-packages"))
        there = {canonicalize_name(p.name.partition("-")[0]) for f in folders for p in f.glob("*.dist-info")}
        if lost := sorted({canonicalize_name(name) for name in self.lock.pins} - there):
            return lost[0]
        records = (record for folder in folders for record in folder.glob("*.dist-info/RECORD"))
        return next((name for record in records for name in _lost(record)), None)

    @contextmanager
    def claimed(self) -> Iterator[bool]:
        """Whether no kernel of it runs. Each holds a shared lock on the folder, so none can begin meanwhile."""
        try:
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield True
            return
        try:
            yield _lock(descriptor)
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class Environments:
    """Builds, finds and deletes generations under one home."""

    home: Home
    uv: Uv
    confinement: Confinement = field(default_factory=Confinement)

    async def build(self, number: int, lock: Lock, previous: Generation | None, report: Report) -> Generation:
        """Install `lock` into a fresh environment and give it its number.

        It is made under another name and renamed when complete, so a folder with a number is whole.
        Raises BuildFailed, InvalidPackage, UnsafePackage, IndexUnavailable, InsufficientStorage, StorageFailed; what
        was begun is removed.
        """
        aside = self.home.generations / f".building-{number}"
        final = self.home.generations / str(number)
        await on_disk(_remove, aside, final)
        try:
            await on_disk(_begin, aside, lock)
            await self._install(aside, report)
            compiled = await on_disk(self._carry_bytecode, lock, previous, aside)
            await on_disk(aside.rename, final)
        except OSError as error:
            raise refusal("The environment could not be written", error) from error
        finally:
            await on_disk(_remove, aside)
        return Generation(number, final, lock, compiled)

    async def _install(self, folder: Path, report: Report) -> None:
        report(Step("install", "Creating the environment"))
        venv, python = folder / "venv", folder / "venv" / "bin" / "python"
        cage = await asyncio.to_thread(self.confinement.installs, self.home, folder)
        made = await self.uv.run("venv", "-q", "--relocatable", "--python", self.uv.python, venv, cage=cage)
        _raise_for(made)
        arguments = ("--require-hashes", "--no-build", "--python", python, folder / "lock.txt")
        report(Step("download", "Fetching what is not cached"))
        _raise_for(await self.uv.run("pip", "sync", *arguments, report=report, cage=cage))
        await asyncio.to_thread(inspect, venv)

    def find(self, number: int, lock: Lock) -> Generation | None:
        """The generation if its folder is there with a working interpreter and was made from this lock, else None."""
        generation = self.at(number, lock)
        return generation if generation.works and generation.built_from == lock.text else None

    def at(self, number: int, lock: Lock | None = None) -> Generation:
        """The generation of a number, there or not."""
        return Generation(number, self.home.generations / str(number), lock or Lock(""))

    def numbers(self) -> Iterator[int]:
        """The numbers on disk."""
        return (int(f.name) for f in self.home.generations.iterdir() if f.name.isdecimal())

    def sweep(self, committed: Collection[int]) -> None:
        """Delete what a killed service left: half-built folders, and whole ones that never came to serve."""
        for left in self.home.generations.glob(".*/"):
            _remove(left)
        for number in set(self.numbers()) - set(committed):
            _remove(self._doom(number))

    def doom(self, keep: Collection[int], newest: int) -> list[int]:
        """Take generations older than `newest` away that are neither kept nor in use. Returns their numbers.

        What is left of them, and of those before, is in `doomed` and may be deleted whenever there is time.
        """
        removed = []
        for number in sorted(n for n in self.numbers() if n < newest and n not in keep):
            with self.at(number).claimed() as idle:
                if idle:
                    self._doom(number)
                    removed.append(number)
        return removed

    @property
    def doomed(self) -> list[Path]:
        """Folders to delete, which no generation has any more."""
        return sorted(self.home.generations.glob(".removing-*"))

    def gather(self, generation: Generation, *, keep: bool) -> None:
        """Give a generation the compiled files that an import left in its `bytecode`. Raises OSError.

        keep: also for the first generation of another home that has the same cache and the same lock.
        """
        FontLists(generation.bytecode).move_into(generation.folder)
        Bytecode(generation.bytecode).move_into(generation.folder / "venv")
        if keep:
            with suppress(OSError):  # another service does the same, or the cache is on another disk
                self._kept(generation.lock).keep(generation.folder)

    def _carry_bytecode(self, lock: Lock, previous: Generation | None, folder: Path) -> bool:
        """Whether all is there that the packages of this very lock were compiled to."""
        if previous is not None:
            Bytecode(previous.folder / "venv").link_into(folder / "venv", is_linked)
            if previous.lock.pins.get("matplotlib") == lock.pins.get("matplotlib"):
                FontLists(previous.folder).link_into(folder)
            return False
        kept = self._kept(lock)
        try:
            FontLists(kept.folder).link_into(folder)
            return kept.folder.is_dir() and kept.link_into(folder / "venv", is_current) == 0
        except OSError:  # the cache is on another disk
            return False

    def _kept(self, lock: Lock) -> Bytecode:
        return Bytecode(self.home.cache / "bytecode" / lock.digest)

    def _doom(self, number: int) -> Path:
        """Renamed first: a folder with a number is whole, even when we are killed in between."""
        doomed = self.home.generations / f".removing-{number}"
        _remove(doomed)
        return self.at(number).folder.rename(doomed)


def _lost(record: Path) -> Iterator[str]:
    """What of a package is not as its list of files says, the list itself included."""
    site = record.parents[1]
    try:
        with record.open(encoding="utf-8", newline="") as file:
            for name, _, size in csv.reader(file):
                length = _length(f"{site}/{name}")
                if length < 0 or (size and length != int(size)):
                    yield name
    except (OSError, ValueError, csv.Error):
        yield record.name


def _length(path: str) -> int:
    """Bytes in a file, -1 if there is none."""
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return -1


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _begin(folder: Path, lock: Lock) -> None:
    folder.mkdir(mode=0o700)
    (folder / "bytecode").mkdir(mode=0o700)
    write_atomically(folder / "lock.txt", lock.text)
    facts = {"python": sys.version.split()[0], "digest": lock.digest}
    write_atomically(folder / "generation.json", json.dumps(facts))


def _remove(*folders: Path) -> None:
    for folder in folders:  # packages have written into `bytecode`
        remove_tree(folder)


def _raise_for(finished: Finished) -> None:
    if finished.returncode == 0 and not finished.timed_out:
        return
    log = finished.stderr.strip()[-4000:]
    if says_full(log):
        raise InsufficientStorage("The disk is full.", log=log)
    if faulty := faulty_package(log):
        raise faulty
    if re.search("Failed to fetch|error sending request|Failed to download", log):
        raise IndexUnavailable("A package could not be downloaded.", log=log)
    raise BuildFailed("The environment could not be installed.", log=log)
