"""What a child process may see and do: the profiles of confinement, and the command line that brings one about.

`default` keeps the machine as the user has it, less what is the service's own. `hardened` starts from nothing.
Both are made by bubblewrap around a process; what a process does to itself is in `inside/confine.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

from kernels.cgroups import Cgroups, Group, Quota
from kernels.home import Home, on_disk
from kernels.seccomp import program

Profile = Literal["off", "default", "hardened"]

INSIDE = Path(__file__).parent / "inside"
# In a process's environment: what it has to apply to itself before anything else. Users' code does not see it.
RULES = "AIGBB_RULES"
# In a sandboxed kernel's environment until it looks: an open file that stands for the service's process.
SERVICE = "AIGBB_SERVICE"
MIB = 1024 * 1024
# Bytes of `/tmp` in a hardened sandbox, which is memory.
SMALL = 64 * MIB
NOBODY = "65534"
# What root keeps in the default profile: what it takes to read and write files as before, and no more.
KEPT = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "NET_BIND_SERVICE")
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")
ETC = (
    "alternatives", "ca-certificates", "fonts", "group", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d",
    "localtime", "mime.types", "nsswitch.conf", "passwd", "pki", "protocols", "resolv.conf", "services", "ssl",
    "timezone",
)  # fmt: skip
# Graphics cards, which the default profile's small `/dev` would hide.
DEVICES = ("nvidia*", "dri", "kfd")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much one kernel may take. Bytes; None where nothing is said. processes and processors take cgroups."""

    file_size: int = 16 * 1024 * MIB
    files: int = 8192
    memory: int | None = None
    processes: int = 256
    processors: float | None = None

    def rlimits(self, *, grouped: bool) -> dict[str, int]:
        """As resource limits, by name. grouped: memory is counted for a group, and no address space."""
        found = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": self.file_size, "RLIMIT_NOFILE": self.files}
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

    hidden is not to be seen, read and write are, though they be in a hidden folder; empty are folders of which it
    has one of its own, in memory. watches: a kernel, which has to see whether the service is still there.
    """

    profile: Profile = "off"
    bubblewrap: Path | None = None
    hidden: tuple[Path, ...] = ()
    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    empty: tuple[Path, ...] = ()
    network: bool = True
    bounds: Bounds = field(default_factory=Bounds)
    cgroups: Cgroups | None = None
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
        wrapped = [str(self.bubblewrap), *self._namespaces(), *await asyncio.to_thread(self._files)]
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
        descriptor, gate = await asyncio.to_thread(_filter), Gate() if self.cgroups else None
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
        rules: dict[str, object] = {
            "limits": self.bounds.rlimits(grouped=self.cgroups is not None),
            "wrapped": self.wraps,
        }
        if self.profile == "hardened" and own:
            read = [*SYSTEM, "/etc", *map(str, self.read)]
            read += [str(path) for path in self.write if not any(_within(each, path) for each in own)]
            rules["landlock"] = {"read": read, "write": [str(path) for path in own]}
        return {RULES: json.dumps(rules)}

    def narrowed(self, *own: Path) -> Cage:
        """The same for one process alone: of the folders that others share, it sees these of its own."""
        kept = [path for path in self.write if not any(_within(each, path) for each in own)]
        return replace(self, write=(*kept, *own))

    def _namespaces(self) -> list[str]:
        found = ["--die-with-parent", "--new-session", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
        found += ["--cap-drop", "ALL"]
        if self.profile == "hardened":
            found += ["--unshare-user", "--disable-userns", "--unshare-cgroup-try", "--hostname", "kernel"]
            found += ["--uid", NOBODY, "--gid", NOBODY] if os.geteuid() == 0 else []
            found += [] if self.network else ["--unshare-net"]
        elif os.geteuid() == 0:
            found += [part for name in KEPT for part in ("--cap-add", f"CAP_{name}")]
        return found

    def _files(self) -> list[str]:
        found = self._bare() if self.profile == "hardened" else self._host()
        for path in self.read:
            found += ["--ro-bind-try", str(path.resolve()), self._at(path)]
        for path in self.write:
            found += ["--bind-try", str(path.resolve()), self._at(path)]
        for path in self.empty:
            found += ["--size", str(SMALL), "--tmpfs", self._at(path)]
        if self.profile == "hardened":
            return [*found, "--remount-ro", "/"]
        return found + [part for path in self.hidden if path.is_dir() for part in ("--remount-ro", self._at(path))]

    def _at(self, path: Path) -> str:
        """Where a path is mounted: a link can't be mounted on, but where there is no host's file there is none."""
        return str(path if self.profile == "hardened" else path.resolve())

    def _host(self) -> list[str]:
        """All that the user has, less devices, processes, and what is hidden."""
        found = ["--bind", "/", "/", "--ro-bind-try", "/sys", "/sys", "--dev", "/dev", "--proc", "/proc"]
        devices = sorted(device for pattern in DEVICES for device in Path("/dev").glob(pattern))
        found += [part for device in devices for part in ("--dev-bind-try", str(device), str(device))]
        for path in self.hidden:
            if path.is_dir():
                found += ["--tmpfs", self._at(path)]
            elif path.exists():
                found += ["--ro-bind", os.devnull, self._at(path)]
        return found

    def _bare(self) -> list[str]:
        """The system's programs and libraries, Python, and nothing else."""
        found: list[str] = []
        for name in SYSTEM:
            if (path := Path(name)).is_symlink():
                found += ["--symlink", str(path.readlink()), name]
            else:
                found += ["--ro-bind-try", name, name]
        for name in ETC:
            found += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
        return [*found, "--proc", "/proc", "--dev", "/dev", "--size", str(SMALL), "--tmpfs", "/tmp"]  # noqa: S108


@dataclass(frozen=True)
class Confinement:
    """How all processes of a service that run users' code are confined. `machine.confine` makes it.

    reasons says, by part, why one that could be there is not. hidden are files of the service outside of its home,
    python the folders of the environments' Python.
    """

    profile: Profile = "off"
    bubblewrap: Path | None = None
    landlock: int = 0
    bounds: Bounds = field(default_factory=Bounds)
    hidden: tuple[Path, ...] = ()
    python: tuple[Path, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    cgroups: Cgroups | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.cgroups is not None:
            await on_disk(self.cgroups.close)

    def kernels(self, home: Home, runtime: Path, *, network: bool = False) -> Cage:
        """For kernels, and for the parent that they are forked from; `sockets(runtime)` is there for them."""
        write = (home.work, sockets(runtime))
        read = (home.generations, home.snapshots, INSIDE)
        cage = self._cage(home, hidden=(runtime,), read=read, write=write, network=network)
        return replace(cage, watches=True)

    def probes(self, home: Home, bytecode: Path | None = None) -> Cage:
        """For a child that imports functions, or packages alone: then there is a folder for their bytecode."""
        write = (bytecode,) if bytecode else ()
        read = (home.generations, home.snapshots, INSIDE)
        return self._cage(home, read=read, write=write, empty=(home.work,))

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
        return Cage("default", self.bubblewrap, (*hidden, *self.hidden))

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
            "landlock": f"on (ABI {self.landlock})" if on else "off",
            "seccomp": "on" if on else "off",
            "cgroup": "on" if self.cgroups else self.reasons.get("cgroup", "off"),
            "network": network,
        }

    def _cage(
        self,
        home: Home,
        *,
        read: tuple[Path, ...],
        write: tuple[Path, ...],
        hidden: tuple[Path, ...] = (),
        empty: tuple[Path, ...] = (),
        network: bool = False,
    ) -> Cage:
        unseen = (home.path, *hidden, *self.hidden)
        shared = network or self.profile != "hardened"
        return Cage(
            self.profile,
            self.bubblewrap,
            unseen,
            (*self.python, *read),
            write,
            empty,
            shared,
            self.bounds,
            self.cgroups,
        )


def sockets(runtime: Path) -> Path:
    """The folder of a runtime folder in which kernels have theirs; what is beside it is the service's."""
    return runtime / "k"


def exit_code(code: int, cage: Cage) -> int:
    """How the process in a cage ended, as `subprocess` says it: bubblewrap says signals as shells do."""
    return 128 - code if cage.wraps and code > 128 else code


def _filter() -> int:
    """An open file with the list of what system calls are refused."""
    descriptor = os.memfd_create("seccomp")
    os.write(descriptor, program())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _within(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents
