"""Folders and files of the host that kernels may see: what `AIGBB_MOUNTS` names, and what it may not name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kernels.errors import InvalidMount

# Parts of the system. None of them may be written, and those of the second list not even be shown.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/etc", "/boot")
UNSHOWN = ("/proc", "/sys", "/dev", "/run", "/var/run")


@dataclass(frozen=True, slots=True)
class Mount:
    """A path of the host that is shown in kernels at the same path, read-only unless `writable`."""

    path: Path
    writable: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """A mount as the setting spells it: a path, with `:rw` behind it for one that is writable."""
        path = text.removesuffix(":rw")
        return cls(Path(path.strip()).expanduser(), path != text)

    @property
    def source(self) -> Path:
        """The path with its symbolic links resolved."""
        return self.path.resolve()

    def __str__(self) -> str:
        return f"{self.path}{':rw' if self.writable else ''}"


@dataclass(frozen=True, slots=True)
class Exposure:
    """What of the host a sandbox shows, and what it never does.

    hidden are folders and files of the service: not shown, though they be in a folder that is. kept may be seen, but
    not written. secret are files that the installer must not see either. certificates are what kernels are told of.
    """

    mounts: tuple[Mount, ...] = ()
    hidden: tuple[Path, ...] = ()
    kept: tuple[Path, ...] = ()
    secret: tuple[Path, ...] = ()
    certificates: tuple[Path, ...] = ()

    def check(self) -> None:
        """Raises InvalidMount for the first mount that does not exist, or would open what is protected."""
        for mount in self.mounts:
            if reason := self._refusal(mount) or _overlap(mount, self.mounts):
                raise InvalidMount(f"AIGBB_MOUNTS: {mount} can't be shown in kernels: {reason}.", mount=str(mount))

    def _refusal(self, mount: Mount) -> str | None:
        if not mount.path.is_absolute():
            return "the path is relative"
        if not mount.path.exists():
            return "the path does not exist"
        source, hidden = mount.source, [path.resolve() for path in self.hidden]
        if source == Path("/") or (found := _first(source, map(Path, UNSHOWN))):
            return f"it overlaps with {'/' if source == Path('/') else found}"
        private = (path for path in hidden if within(source, path))
        if mount.writable:
            kept = [path.resolve() for path in self.kept]
            found = _first(source, (*hidden, *kept, *map(Path, SYSTEM)))
            return f"it overlaps with {found}, which kernels may not write" if found else None
        return next((f"{path} is hidden from kernels" for path in private), None)


def within(path: Path, folder: Path) -> bool:
    """Whether a path is a folder or lies in it."""
    return path == folder or folder in path.parents


def _first(path: Path, others: Iterable[Path]) -> Path | None:
    """The first of the other paths that contains, equals or lies in this one."""
    return next((other for other in others if within(path, other) or within(other, path)), None)


def _overlap(mount: Mount, mounts: Sequence[Mount]) -> str | None:
    """Why not to mount into a folder that kernels may write: they could put a symbolic link in the way."""
    for other in mounts:
        if other is not mount and other.writable and within(mount.source, other.source):
            return f"it lies in {other}"
    return None
