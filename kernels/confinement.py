"""What a child process may see and do: the profiles of confinement, and the command line that brings one about.

Both profiles show the system read-only, what a kernel needs of the service, and what the operator mounts. `hardened`
takes the network away, and holds a kernel by more means. Both are made by bubblewrap around a process; what a
process does to itself is in `inside/confine.py`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

from kernels.cgroups import Cgroups, Group, Quota
from kernels.home import Home, on_disk
from kernels.mounts import Exposure
from kernels.seccomp import program
from kernels.views import SMALL, View

Profile = Literal["off", "default", "hardened"]

INSIDE = Path(__file__).parent / "inside"
# In a process's environment: what it has to apply to itself before anything else. Users' code does not see it.
RULES = "AIGBB_RULES"
# In a sandboxed kernel's environment until it looks: an open file that stands for the service's process.
SERVICE = "AIGBB_SERVICE"
MIB = 1024 * 1024
NOBODY = "65534"
# The first version of Landlock that holds signals back.
SIGNALS = 6


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much one kernel may take. Bytes; None where nothing is said. processes and processors take cgroups."""

    file_size: int = 16 * 1024 * MIB
    files: int = 8192
    memory: int | None = None
    processes: int = 256
    processors: float | None = None

    def rlimits(self, *, grouped: bool, counted: bool) -> dict[str, int]:
        """As resource limits, by name. grouped: memory is counted for a group, and no address space.

        counted: its processes are counted apart from the user's others. Linux does not count those of root.
        """
        found = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": self.file_size, "RLIMIT_NOFILE": self.files}
        found |= {"RLIMIT_NPROC": self.processes} if counted else {}
        return found | ({"RLIMIT_AS": self.memory} if self.memory and not grouped else {})


@dataclass(frozen=True)
class Entered:
    """A command line that confines, and the open files that it has to be started with.

    Where there is a group for the process, it waits behind a gate until it is admitted.
    """

    argv: list[str]
    pass_fds: tuple[int, ...] = ()
    gate: Gate | None = None

    async def admit(self, group: Group | None) -> None:
        """The process is started: put it into its group, and let it go on. Raises OSError."""
        if self.gate is not None and group is not None:
            await on_disk(self.gate.admit, group)


@dataclass
class Gate:
    """Holds a process of bubblewrap back until it is in its group: what it starts is in it then, too."""

    told: tuple[int, int] = field(default_factory=os.pipe)
    waits: tuple[int, int] = field(default_factory=os.pipe)

    def admit(self, group: Group) -> None:
        """Raises OSError."""
        os.close(self.told[1])
        self.told = self.told[0], -1
        said = b""
        while b"}" not in said and (more := os.read(self.told[0], 4096)):
            said += more
        if said:  # else it has ended, and says itself why
            group.add(int(json.loads(said)["child-pid"]))

    def close(self) -> None:
        """Let it go on, and be gone."""
        for descriptor in (*self.told, *self.waits):
            if descriptor >= 0:
                os.close(descriptor)


@dataclass(frozen=True)
class Cage:
    """What one process, or a parent with its forks, is confined to. `Confinement` makes it; the default is nothing.

    view: the files that it sees. landlock: the version that the machine has. nests: a parent whose forks enter
    namespaces of their own. watches: a kernel, which has to see whether the service is still there.
    """

    profile: Profile = "off"
    bubblewrap: Path | None = None
    view: View = field(default_factory=View)
    network: bool = True
    bounds: Bounds = field(default_factory=Bounds)
    cgroups: Cgroups | None = None
    landlock: int = 0
    nests: bool = False
    watches: bool = False

    def group(self, *, kernels: int = 1) -> Group | None:
        """A new group for the limits of one kernel, or of a parent that has so many of them at a time."""
        if self.cgroups is None:
            return None
        bounds = self.bounds
        memory = bounds.memory * kernels if bounds.memory else None
        return self.cgroups.group(Quota(memory, bounds.processes * kernels, bounds.processors))

    @property
    def has_more(self) -> bool:
        """Whether there is the network where the profile gives none by itself."""
        return self.network and self.profile == "hardened"

    @property
    def wraps(self) -> bool:
        """Whether the process gets a sandbox, and with it process numbers that are not ours."""
        return self.bubblewrap is not None

    @asynccontextmanager
    async def entered(self, argv: Sequence[str | Path]) -> AsyncIterator[Entered]:
        """The command line around this one. The files that it is started with are closed at the end."""
        if self.bubblewrap is None:
            yield Entered([str(part) for part in argv])
            return
        wrapped = [str(self.bubblewrap), *self._namespaces(), *await asyncio.to_thread(self.view.arguments)]
        with self._service() as service:
            wrapped += [part for number in service for part in ("--setenv", SERVICE, str(number))]
            if self.profile != "hardened":
                yield Entered([*wrapped, "--", *map(str, argv)], service)
                return
            async with self._filtered(wrapped, argv, service) as entered:
                yield entered

    @contextmanager
    def _service(self) -> Iterator[tuple[int, ...]]:
        """An open file that stands for this process, for a child that may be started while this one dies.

        Bubblewrap asks to die with us, but only once it runs: who was killed before is survived.
        """
        if not self.watches:
            yield ()
            return
        descriptor = os.pidfd_open(os.getpid())
        try:
            yield (descriptor,)
        finally:
            os.close(descriptor)

    @asynccontextmanager
    async def _filtered(
        self, wrapped: list[str], argv: Sequence[str | Path], service: tuple[int, ...]
    ) -> AsyncIterator[Entered]:
        descriptor, gate = await asyncio.to_thread(_filter, nests=self.nests), Gate() if self.cgroups else None
        try:
            wrapped += ["--seccomp", str(descriptor)]
            doors = (gate.told[1], gate.waits[0]) if gate else ()
            wrapped += ["--info-fd", str(doors[0]), "--block-fd", str(doors[1])] if doors else []
            yield Entered([*wrapped, "--", *map(str, argv)], (descriptor, *doors, *service), gate)
        finally:
            os.close(descriptor)
            if gate is not None:
                gate.close()

    def rules(self, *own: Path) -> Mapping[str, str]:
        """What a process is to apply to itself, for its environment; `own` are the folders that are its alone."""
        if self.profile == "off":
            return {}
        limits = self.bounds.rlimits(grouped=self.cgroups is not None, counted=self.wraps and not self.nests)
        rules: dict[str, object] = {"limits": limits, "wrapped": self.wraps}
        rules["scoped"] = self.wraps and self.landlock >= SIGNALS
        if self.wraps and own:
            rules["namespaces"] = self._own_namespaces(own)
        if self.profile == "hardened" and own:
            shared = {str(path.parent) for path in own}
            read = [path for path in self.view.readable() if path not in shared]
            rules["landlock"] = {"read": read, "write": [*self.view.writable(), *map(str, own)]}
        return {RULES: json.dumps(rules)}

    def _own_namespaces(self, own: tuple[Path, ...]) -> dict[str, object]:
        """What a fork sets up for itself; see `inside/namespaces.py`."""
        hardened, shared = self.profile == "hardened", {path.parent for path in own}
        shown = (*self.view.read, *self.view.write, *(mount.path for mount in self.view.mounts))
        kept = [str(path) for path in shown if path.is_relative_to("/tmp") and path not in shared]  # noqa: S108
        return {
            "own": [str(path) for path in own],
            "kept": kept,
            "size": SMALL,
            "alone": hardened and not self.network,
            "filter": base64.b64encode(program()).decode() if hardened else "",
        }

    def narrowed(self, *own: Path) -> Cage:
        """The same for one process alone: of the folders that others share, it sees these of its own."""
        shared = {path.parent for path in own}
        kept = tuple(path for path in self.view.write if path not in shared)
        return replace(self, view=replace(self.view, write=(*kept, *own)))

    def nesting(self) -> Cage:
        """The same for a parent, whose forks are narrowed by themselves."""
        return replace(self, nests=True)

    def _namespaces(self) -> list[str]:
        found = ["--die-with-parent", "--new-session", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
        found += ["--unshare-user", "--unshare-cgroup-try", "--cap-drop", "ALL"]
        found += ["--hostname", "kernel"] if self.profile == "hardened" else []
        found += [] if self.nests else ["--disable-userns"]
        # An unprivileged user keeps its number. Root's would be owner of all files of the system.
        found += ["--uid", NOBODY, "--gid", NOBODY] if os.geteuid() == 0 else []
        return found + ([] if self.network else ["--unshare-net"])


@dataclass(frozen=True)
class Confinement:
    """How all processes of a service that run users' code are confined. `machine.confine` makes it.

    reasons says, by part, why one that could be there is not. exposure is what of the host is shown, python the
    folders of the environments' Python. unforkable says why kernels are started one by one, where a fork can't have
    namespaces of its own.
    """

    profile: Profile = "off"
    bubblewrap: Path | None = None
    landlock: int = 0
    bounds: Bounds = field(default_factory=Bounds)
    exposure: Exposure = field(default_factory=Exposure)
    python: tuple[Path, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    cgroups: Cgroups | None = None
    unforkable: str = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.cgroups is not None:
            await on_disk(self.cgroups.close)

    def kernels(self, home: Home, runtime: Path, *, network: bool = False) -> Cage:
        """For kernels, and for the parent that they are forked from; `sockets(runtime)` is there for them."""
        write = (home.work, sockets(runtime))
        read = (home.generations, home.snapshots, INSIDE)
        return replace(self._cage(View(read, write, mounts=self.exposure.mounts), network=network), watches=True)

    def probes(self, home: Home, bytecode: Path | None = None) -> Cage:
        """For a child that imports functions, or packages alone: then there is a folder for their bytecode."""
        write = (bytecode,) if bytecode else ()
        mounts = tuple(replace(mount, writable=False) for mount in self.exposure.mounts)
        return self._cage(View((home.generations, home.snapshots, INSIDE), write, (home.work,), mounts))

    def readers(self, *files: Path) -> Cage:
        """For a child that reads sources: Python, and its own files."""
        return replace(self._cage(View(files)), network=False)

    def installs(self, home: Home, folder: Path) -> Cage:
        """For the installer: the machine as it is, and of the home its cache and the folder of the new environment.

        They stay where they are, and are not mounted: files can't be linked from one mount to another.
        """
        if self.bubblewrap is None:
            return Cage()
        kept = {home.generations, home.cache, folder}
        others = [path for path in (*home.path.iterdir(), *home.generations.iterdir()) if path not in kept]
        # A file with a dot is being written, and gone before it could be covered.
        hidden = [path for path in others if path.is_dir() or not path.name.startswith(".")]
        return Cage("default", self.bubblewrap, View(hidden=(*hidden, *self.exposure.secret), host=True))

    @property
    def missing(self) -> str:
        """Why nothing confines kernels although it was not switched off; empty where something does."""
        return self.reasons.get("bubblewrap", "") if self.profile == "default" and not self.wraps else ""

    @property
    def wraps(self) -> bool:
        """Whether processes get a sandbox."""
        return self.bubblewrap is not None

    def state(self) -> dict[str, str]:
        """What there is and what is not, in words, by part."""
        on = self.profile == "hardened"
        network = "as the machine has it" if not on else "none, but for functions that are registered with it"
        warning = {"warning": "Kernels are not confined: bubblewrap is missing."} if self.missing else {}
        return warning | {
            "profile": self.profile,
            "bubblewrap": "on" if self.bubblewrap else self.reasons.get("bubblewrap", "off"),
            "landlock": self._landlock(),
            "seccomp": "on" if on else "off",
            "cgroup": "on" if self.cgroups else self.reasons.get("cgroup", "off"),
            "network": network,
        }

    def _landlock(self) -> str:
        if self.profile == "hardened":
            return f"on (ABI {self.landlock})"
        scoped = self.bubblewrap is not None and self.landlock >= SIGNALS
        return f"signals and abstract sockets (ABI {self.landlock})" if scoped else "off"

    def _cage(self, view: View, *, network: bool = False) -> Cage:
        """With Python, and nothing of the service that the view does not name."""
        hardened = self.profile == "hardened"
        read = (*self.python, *self.exposure.certificates, *view.read)
        return Cage(
            self.profile,
            self.bubblewrap,
            view=replace(view, read=read, hidden=self.exposure.hidden, hardware=not hardened),
            network=network or not hardened,
            bounds=self.bounds,
            cgroups=self.cgroups,
            landlock=self.landlock,
        )


def sockets(runtime: Path) -> Path:
    """The folder of a runtime folder in which kernels have theirs; what is beside it is the service's."""
    return runtime / "k"


def exit_code(code: int, cage: Cage) -> int:
    """How the process in a cage ended, as `subprocess` says it: bubblewrap says signals as shells do."""
    return 128 - code if cage.wraps and code > 128 else code


def _filter(*, nests: bool) -> int:
    """An open file with the list of what system calls are refused."""
    descriptor = os.memfd_create("seccomp")
    os.write(descriptor, program(nests=nests))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
