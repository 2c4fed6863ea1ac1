"""The files that a sandbox shows, as arguments of bubblewrap."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kernels.mounts import Mount

MIB = 1024 * 1024
# Bytes of `/tmp` and of `/dev/shm`, each. Both are memory.
SMALL = 64 * MIB
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")
# Names of `/etc`. Private keys lie beside certificates there, so folders of both are not shown as a whole.
ETC = (
    "alternatives", "ca-certificates", "fonts", "gai.conf", "group", "host.conf", "hosts", "ld.so.cache",
    "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types", "nsswitch.conf", "passwd", "pki/ca-trust",
    "pki/tls/cert.pem", "pki/tls/certs", "pki/tls/openssl.cnf", "protocols", "resolv.conf", "services",
    "ssl/cert.pem", "ssl/certs", "ssl/openssl.cnf", "timezone",
)  # fmt: skip
# What the default profile shows besides: more programs, and the machine's hardware with its graphics cards.
MORE = ("/opt", "/sys/block", "/sys/bus", "/sys/class", "/sys/dev", "/sys/devices")
DEVICES = ("nvidia*", "dri", "kfd")


@dataclass(frozen=True)
class View:
    """Starts from nothing: the system's programs and libraries, and what is named.

    hardware: also `/opt`, `/sys` and graphics cards. read and write are folders, mounts come from the operator;
    empty are folders of which the sandbox has one of its own, in memory. hidden are covered wherever they would be
    shown. host: starts from all that the host has instead, less what is hidden.
    """

    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    empty: tuple[Path, ...] = ()
    mounts: tuple[Mount, ...] = ()
    hidden: tuple[Path, ...] = ()
    hardware: bool = False
    host: bool = False

    def arguments(self) -> list[str]:
        """In the order in which they are mounted: what is mounted later covers what was there before."""
        found = self._host() if self.host else [*self._system(), *self._mounts()]
        covers = list(self._covers())
        for cover in covers:
            found += ["--tmpfs", str(cover)] if cover.is_dir() else ["--ro-bind", os.devnull, str(cover)]
        for path in self.read:
            found += ["--ro-bind-try", str(path.resolve()), str(path)]
        for path in self.write:
            found += ["--bind-try", str(path.resolve()), str(path)]
        for path in self.empty:
            found += ["--size", str(SMALL), "--tmpfs", str(path)]
        for cover in covers:
            found += ["--remount-ro", str(cover)] if cover.is_dir() else []
        return found if self.host else [*found, "--remount-ro", "/"]

    def readable(self) -> list[str]:
        """All that may be read, for Landlock."""
        shown = [*SYSTEM, "/etc", *(MORE if self.hardware else ())]
        return [*shown, *map(str, (*self.read, *self.write)), *(str(mount.path) for mount in self.mounts)]

    def writable(self) -> list[str]:
        """What the operator lets kernels write."""
        return [str(mount.path) for mount in self.mounts if mount.writable]

    def _host(self) -> list[str]:
        """All that the user has, less devices and processes."""
        return ["--bind", "/", "/", "--ro-bind-try", "/sys", "/sys", *_devices(), "--proc", "/proc"]

    def _system(self) -> Iterator[str]:
        for name in SYSTEM:
            if (path := Path(name)).is_symlink():
                yield from ("--symlink", str(path.readlink()), name)
            else:
                yield from ("--ro-bind-try", name, name)
        for name in (*(f"/etc/{name}" for name in ETC), *(MORE if self.hardware else ())):
            yield from ("--ro-bind-try", name, name)
        yield from ("--proc", "/proc", *_devices(cards=self.hardware))
        yield from ("--size", str(SMALL), "--tmpfs", "/tmp")  # noqa: S108

    def _mounts(self) -> Iterator[str]:
        """Outer ones first: an inner one may be writable in one that is not."""
        for mount in sorted(self.mounts, key=lambda mount: len(mount.path.parts)):
            yield from ("--bind" if mount.writable else "--ro-bind", str(mount.source), str(mount.path))

    def _covers(self) -> Iterator[Path]:
        """Where hidden paths would be seen: on the host as they are, else in a folder that is shown."""
        for hidden in (path.resolve() for path in self.hidden):
            if self.host and hidden.exists():
                yield hidden
            elif hidden.exists():
                trees = [(Path(name), Path(name)) for name in (*SYSTEM, *(MORE if self.hardware else ()))]
                trees += [(mount.source, mount.path) for mount in self.mounts]
                yield from (at / hidden.relative_to(tree) for tree, at in trees if tree in hidden.parents)


def _devices(*, cards: bool = True) -> Iterator[str]:
    """A `/dev` that can't be filled, with a small `/dev/shm`."""
    yield from ("--dev", "/dev", "--size", str(SMALL), "--tmpfs", "/dev/shm")  # noqa: S108
    for device in sorted(found for pattern in DEVICES if cards for found in Path("/dev").glob(pattern)):
        yield from ("--dev-bind-try", str(device), str(device))
    yield from ("--remount-ro", "/dev")
