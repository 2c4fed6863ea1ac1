"""Limits on memory, processes and processors for groups of processes: Linux' cgroups, of both versions.

A service makes a folder in its own group, with one group for each kernel in it. That takes root, or a group that was
delegated to the service's user, as systemd does with `Delegate=yes`.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from uuid import uuid4

MOUNT = Path("/sys/fs/cgroup")
CONTROLLERS = ("memory", "pids", "cpu")
PREFIX = "aigbb-"
# Seconds that a killed process may take to end.
ENDS = 2.0
PERIOD = 100_000  # microseconds, in which a share of the processors is counted


@dataclass(frozen=True, slots=True)
class Quota:
    """What one group may use at most: bytes, swap included; processes and threads; processors. None: all there is."""

    memory: int | None = None
    processes: int | None = None
    processors: float | None = None


@dataclass(frozen=True)
class Group:
    """One group, a folder for each controller, or one for all. It is there from its first process on."""

    folders: Mapping[str, Path]
    quota: Quota

    def add(self, pid: int) -> None:
        """Put a process into it, and what that starts from now on. Raises OSError."""
        folders = set(self.folders.values())
        if not all(folder.exists() for folder in folders):
            self._make(folders)
        for folder in folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def _make(self, folders: set[Path]) -> None:
        for folder in folders:
            folder.mkdir(exist_ok=True)
        self.fill()

    def fill(self) -> None:
        """Write down its limits. Raises OSError."""
        old, new = _settings(self.quota)
        for controller, file, value in old if len(set(self.folders.values())) > 1 else new:
            path = self.folders[controller] / file
            if path.exists():  # that of swap is not always there
                path.write_text(value)

    def oom_killed(self) -> bool:
        """Whether Linux has ended a process of it because the group had no memory left."""
        found = False
        for name in ("memory.oom_control", "memory.events"):
            with suppress(OSError):
                lines = (self.folders["memory"] / name).read_text().splitlines()
                found = found or any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in lines)
        return found

    def remove(self) -> None:
        """End what is left in it, and the group. Safe to repeat."""
        for _ in range(100):  # what is being ended may start something yet
            left = {int(pid) for folder in self.folders.values() for pid in _processes(folder)}
            for pid in left:
                _end(pid)
            if not left:
                break
        for folder in set(self.folders.values()):
            with suppress(OSError):  # one that is still ending: whoever starts next tidies up
                folder.rmdir()


@dataclass(frozen=True)
class Cgroups:
    """Where groups can be made, by controller. `find` makes it, `close` ends it."""

    folders: Mapping[str, Path]

    @classmethod
    def find(cls, mount: Path = MOUNT, own: str | None = None) -> Self:
        """A folder for groups in our own. own: what /proc/self/cgroup says. Raises OSError where none can be made."""
        lines = (Path("/proc/self/cgroup").read_text() if own is None else own).splitlines()
        paths = {name: path for _, names, path in (line.split(":", 2) for line in lines) for name in names.split(",")}
        if all(name in paths for name in CONTROLLERS):
            parents = {name: _under(mount / name, paths[name]) for name in CONTROLLERS}
        else:
            parent = _delegated(_under(mount, paths.get("", "/")))
            parents = dict.fromkeys(CONTROLLERS, parent)
        mark = f"{PREFIX}{uuid4().hex[:8]}"
        for parent in set(parents.values()):
            _tidy(parent)
            (parent / mark).mkdir()
        found = cls({name: parent / mark for name, parent in parents.items()})
        if len(set(parents.values())) == 1:
            _enable(parents["memory"] / mark)
        return found

    def group(self, quota: Quota) -> Group:
        """A new one. Nothing is made yet."""
        name = uuid4().hex[:12]
        return Group({controller: folder / name for controller, folder in self.folders.items()}, quota)

    def close(self) -> None:
        """End every group."""
        folders = set(self.folders.values())
        for name in {path.name for folder in folders for path in folder.glob("*/")}:
            Group({controller: folder / name for controller, folder in self.folders.items()}, Quota()).remove()
        for folder in folders:
            with suppress(OSError):
                folder.rmdir()


def _settings(quota: Quota) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """The files to write, by controller, of the first version and of the second."""
    old: list[tuple[str, str, str]] = []
    new: list[tuple[str, str, str]] = []
    if quota.memory:
        old += [("memory", f"memory.{kind}limit_in_bytes", str(quota.memory)) for kind in ("", "memsw.")]
        old += [("memory", "memory.swappiness", "0")]
        new += [("memory", "memory.max", str(quota.memory)), ("memory", "memory.swap.max", "0")]
    if quota.processes:
        old += [("pids", "pids.max", str(quota.processes))]
        new += [("pids", "pids.max", str(quota.processes))]
    if quota.processors:
        share = str(int(quota.processors * PERIOD))
        old += [("cpu", "cpu.cfs_period_us", str(PERIOD)), ("cpu", "cpu.cfs_quota_us", share)]
        new += [("cpu", "cpu.max", f"{share} {PERIOD}")]
    return old, new


def _under(mount: Path, path: str) -> Path:
    """Our own group; in a container its path is another machine's, and the mount is what we have."""
    own = mount / path.lstrip("/")
    return own if own.is_dir() else mount


def _delegated(own: Path) -> Path:
    """Of the second version, a group has processes or groups in it: ours get a group of their own. Raises OSError."""
    missing = set(CONTROLLERS) - set((own / "cgroup.controllers").read_text().split())
    if missing:
        raise OSError(f"{', '.join(sorted(missing))} not delegated")
    if not _enabled(own):
        (own / "service").mkdir(exist_ok=True)
        for pid in _processes(own):
            (own / "service" / "cgroup.procs").write_text(pid)
        _enable(own)
    return own


def _enabled(folder: Path) -> bool:
    return set(CONTROLLERS) <= set((folder / "cgroup.subtree_control").read_text().split())


def _enable(folder: Path) -> None:
    (folder / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in CONTROLLERS))


def _processes(folder: Path) -> list[str]:
    with suppress(OSError):
        return (folder / "cgroup.procs").read_text().split()
    return []


def _end(pid: int) -> None:
    """Kill a process, and wait for its end."""
    with suppress(ProcessLookupError, PermissionError):
        descriptor = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            select.select([descriptor], [], [], ENDS)
        finally:
            os.close(descriptor)


def _tidy(parent: Path) -> None:
    """Remove what a killed service left, as far as nothing runs there."""
    for left in sorted(parent.glob(f"{PREFIX}*/**/"), reverse=True):
        with suppress(OSError):
            left.rmdir()
