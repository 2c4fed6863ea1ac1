"""What the packages of a new environment may not do: run at every start, replace each other's modules, or pose as ours.

Read off the files, before anything of them runs.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from kernels.errors import UnsafePackage

# Start-up hooks that are known, by file, and whose they are: uv's own, of no package, and setuptools'.
KNOWN_HOOKS = {"_virtualenv.pth": "", "distutils-precedence.pth": "setuptools"}
AT_EVERY_START = ("sitecustomize", "usercustomize", "_virtualenv")
OURS = ("aigbb_functions", "aigbb_inside")
MODULES = (".py", ".pyc", ".so", ".pyd", ".dylib")
# Files that an installer adds to a package, or that its list of files does not have.
UNLISTED = ("RECORD.jws", "RECORD.p7s", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json")
CLEAN = re.compile(r"(?:[^/.][^/]*/|\.[^/.][^/]*/)*[^/]*[^/.]")  # a path that leads nowhere else
MOST = 20  # findings that are told


@dataclass(frozen=True)
class InstalledFile:
    """A file of a package. path is seen from `site-packages`, digest is that of its list of files."""

    path: str
    package: str
    digest: str
    info: str

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The names of the path; a compiled file counts as beside its source."""
        return tuple(part for part in self.path.split("/") if part != "__pycache__")

    @cached_property
    def module(self) -> str:
        """The dotted name it is imported by; empty for other files."""
        *folders, name = self.parts
        if folders[:1] == [".."] or not name.endswith(MODULES):
            return ""
        stem = name.partition(".")[0]
        return ".".join(folders if stem == "__init__" else [*folders, stem])

    @cached_property
    def is_package(self) -> bool:
        """Whether its folder is a package because of it."""
        return bool(self.module) and self.parts[-1].partition(".")[0] == "__init__"


@dataclass
class Inspection:
    """The files of an environment, by path, by module, and by package folder."""

    site: Path
    paths: dict[str, InstalledFile] = field(default_factory=dict)
    modules: dict[str, InstalledFile] = field(default_factory=dict)
    packages: dict[str, dict[str, InstalledFile]] = field(default_factory=dict)
    findings: list[dict[str, str]] = field(default_factory=list)

    def look(self) -> list[dict[str, str]]:
        """Return what is wrong: package, file and reason."""
        files = [file for record in sorted(self.site.glob("*.dist-info/RECORD")) for file in _files(record)]
        for file in files:
            clash = self._clash(file)
            self._say(file, _refused(file) or clash)
            if file.is_package:
                self.packages.setdefault(file.module, {})[file.package] = file
        for file in files:
            self._say(file, self._intrudes(file))
        for hook in self.site.glob("*.pth"):
            owner = self.paths[hook.name].package if hook.name in self.paths else ""
            if owner.partition("==")[0] != KNOWN_HOOKS.get(hook.name, "-") and _runs(hook):
                self._add(owner, hook.name, "runs code at every start of Python")
        self._look_for_others()
        return self.findings

    def _say(self, file: InstalledFile, reason: str) -> None:
        if reason:
            self._add(file.package, file.path, reason)

    def _add(self, package: str, path: str, reason: str) -> None:
        self.findings.append({"package": package, "file": path, "reason": reason})

    def _clash(self, file: InstalledFile) -> str:
        """Say whose file or module it is already, unless both have the same file."""
        first = self.paths.setdefault(file.path, file)
        if first.package != file.package:
            same = bool(file.digest) and first.digest == file.digest == _digest(self.site / file.path)
            return "" if same else f"is also {first.package}'s, with another content"
        if not file.module:
            return ""
        first = self.modules.setdefault(file.module, file)
        replaced = first.package != file.package and first.path != file.path
        return f"is imported as {file.module}, as {first.path} of {first.package} is" if replaced else ""

    def _intrudes(self, file: InstalledFile) -> str:
        """Say whose package it is in, unless that is a namespace package, or its own as well."""
        folders = file.parts[:-1]
        if folders[:1] == ("..",):
            return ""
        for depth in range(1, len(folders) + 1):
            owners = self.packages.get(".".join(folders[:depth]), {})
            if owners and file.package not in owners:
                other = next(iter(owners.values()))
                if not self._is_namespace(other):
                    return f"is in the package {other.module} of {other.package}"
        return ""

    def _is_namespace(self, file: InstalledFile) -> bool:
        """Whether a package is one that several distributions share, as pkgutil and setuptools know them."""
        try:
            text = (self.site / file.path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        return "extend_path" in text or "declare_namespace" in text

    def _look_for_others(self) -> None:
        """Find links, and files that no package has in its list."""
        left = [""]
        while left:
            folder = left.pop()
            with os.scandir(self.site / folder) as entries:
                for entry in entries:
                    inner = folder + entry.name
                    if entry.is_symlink():
                        self._add(_owner(inner), inner, "is a link")
                    elif entry.is_dir():
                        left.append(f"{inner}/")
                    elif inner not in self.paths and not _is_expected(inner):
                        self._add(_owner(inner), inner, "is in no package's list of files")


def inspect(venv: Path) -> None:
    """Raise UnsafePackage, which says of which package and why, for an environment that nothing has run in."""
    [site] = venv.glob("lib/python*/site-packages")
    if found := Inspection(site).look():
        first = found[0]
        raise UnsafePackage(
            f"{first['package'] or 'A package'} is refused: its file {first['file']} {first['reason']}.",
            findings=found[:MOST],
        )


def _files(record: Path) -> Iterator[InstalledFile]:
    """Yield what a package has installed."""
    site, info = record.parents[1], record.parent.name
    with record.open(encoding="utf-8", errors="replace", newline="") as file:
        for row in csv.reader(file):
            if row:
                path = row[0] if CLEAN.fullmatch(row[0]) else os.path.relpath(site / row[0], site)
                yield InstalledFile(path, _package(info), row[1] if len(row) > 1 else "", info)


def _owner(inner: str) -> str:
    """Say whose metadata a file is in, if it is in any."""
    info = inner.partition("/")[0]
    return _package(info) if info.endswith(".dist-info") else ""


def _package(info: str) -> str:
    return info.removesuffix(".dist-info").replace("-", "==")


def _refused(file: InstalledFile) -> str:
    top, path = file.parts[0], file.path
    if top.partition(".")[0] in AT_EVERY_START:
        return "is run at every start of Python"
    if top.partition(".")[0] in OURS:
        return "poses as a part of the service"
    if top.endswith(".dist-info") and top != file.info:
        return "is in the metadata of another package"
    if path.count("../") > len(("lib", "python", "site-packages")):
        return "is outside of the environment"
    return _refused_beside(path) if top == ".." else ""


def _refused_beside(path: str) -> str:
    """Say what a file of the environment that is no module replaces or steers."""
    inner = path.lstrip("./")
    if inner == "pyvenv.cfg" or inner.startswith(("bin/python", "bin/activate")):
        return "replaces the environment's own program"
    if inner.startswith(("etc/ipython/", "share/ipython/")):
        return "is run at every start of a kernel"
    return ""


def _is_expected(inner: str) -> bool:
    """Whether a file that no package lists is the installer's, or compiled."""
    folder, _, name = inner.rpartition("/")
    own = folder.endswith(".dist-info") and "/" not in folder and name in UNLISTED
    return own or inner in ("_virtualenv.py", "_virtualenv.pth", ".lock")


def _digest(path: Path) -> str:
    """Return the digest of a file as lists of files have it."""
    try:
        found = hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return ""
    return "sha256=" + base64.urlsafe_b64encode(found).rstrip(b"=").decode()


def _runs(hook: Path) -> bool:
    """Whether a `.pth` file has a line that is code; others only add folders."""
    lines = hook.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return any(line.startswith(("import ", "import\t")) for line in lines)
