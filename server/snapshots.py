"""Active functions as files: a snapshot's package for kernels, and the projection that people read and edit.

A snapshot is a folder with `aigbb_functions/` (one module a function and an `__init__` that imports each by
itself) and `environment.json` (the variables' values, mode 0600). It is written once and never changed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kernels.home import write_atomically
from kernels.packages import parse_requirements
from server.functions import Draft, Function

PACKAGE = "aigbb_functions"

_INIT = '''"""Every registered function, by name. Generated: what is written here is replaced."""

import importlib as _importlib
import sys as _sys
import traceback as _traceback

_names = {names}
__all__ = []


class _Package(type(_sys)):
    def __setattr__(self, name, value):
        # Importing a function's file would bind the module here; the name is the function's.
        if name not in _names or not isinstance(value, type(_sys)):
            super().__setattr__(name, value)


_sys.modules[__name__].__class__ = _Package


def _load(name):
    function = getattr(_importlib.import_module("{package}." + name), name)
    globals()[name] = function
    return function


def __getattr__(name):
    # A function's file may import another function, before or after its turn below.
    if name in _names:
        return _load(name)
    raise AttributeError("{package} has no function " + repr(name))


for _name in _names:
    try:
        _load(_name)
    except (Exception, SystemExit) as _error:
        _reason = _traceback.format_exception_only(_error)[-1].strip().partition("\\n")[0]
        print("{package}: " + _name + " is not available (" + _reason + ")", file=_sys.stderr)
    else:
        __all__.append(_name)
'''

_HEADER = """\
# Packages that registered functions asked for. Written by the service at each registration;
# a line without "used by" is yours: add one, restart, and every kernel has it.
"""
_USED_BY = re.compile(r"\s+# used by: (?P<names>[\w, ]+)$")


def render_init(names: Iterable[str]) -> str:
    """The package's `__init__.py`."""
    listed = "".join(f'    "{name}",\n' for name in sorted(names))
    return _INIT.format(names=f"(\n{listed})" if listed else "()", package=PACKAGE)


def write_snapshot(folder: Path, functions: Collection[Function], variables: Mapping[str, str]) -> None:
    """Write a snapshot under a name of its own, then rename it: a folder with a number is whole."""
    aside = folder.with_name(f".writing-{folder.name}")
    for left in (aside, folder):
        shutil.rmtree(left, ignore_errors=not left.exists())
    package = aside / PACKAGE
    package.mkdir(parents=True, mode=0o700)
    for function in functions:
        (package / f"{function.name}.py").write_text(function.source, encoding="utf-8", newline="")
    (package / "__init__.py").write_text(render_init(f.name for f in functions), encoding="utf-8")
    write_atomically(aside / "environment.json", json.dumps(dict(variables)), mode=0o600)
    aside.rename(folder)


def prune_snapshots(folder: Path, keep: Collection[int], newest: int) -> None:
    """Delete the snapshots up to `newest` that are not kept."""
    for path in folder.iterdir():
        if path.name.isdecimal() and int(path.name) <= newest and int(path.name) not in keep:
            shutil.rmtree(path)


def sweep_snapshots(folder: Path, newest: int) -> None:
    """Delete what a killed service left: half-written ones, and whole ones that were never committed."""
    for path in folder.iterdir():
        if path.is_dir() and (not path.name.isdecimal() or int(path.name) > newest):
            shutil.rmtree(path)


def digest_of(source: str) -> str:
    """sha256 of a file's text, hex."""
    return hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True)
class Projection:
    """The functions' folder and `extra-requirements.txt` beside it: what people see, edit and keep in git."""

    folder: Path

    @property
    def requirements(self) -> Path:
        """The file with the packages that registrations added."""
        return self.folder.parent / "extra-requirements.txt"

    def write(self, functions: Collection[Function], before: Mapping[str, str]) -> dict[str, str]:
        """Bring both up to date. `before` has the digests that the last call returned; so does the answer.

        A file that somebody edited since is left alone: the next start registers it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        now = {name: digest_of(source) for name, source in self.sources().items()}
        untouched = {name for name, digest in now.items() if before.get(name) == digest}
        for name in untouched - {f.name for f in functions}:
            (self.folder / f"{name}.py").unlink()
        written = {}
        for function in functions:
            if function.name not in now or function.name in untouched:
                write_if_other(self.folder / f"{function.name}.py", function.source)
                written[function.name] = digest_of(function.source)
            elif now[function.name] == (digest := digest_of(function.source)):
                written[function.name] = digest
        write_if_other(self.folder / "__init__.py", render_init(f.name for f in functions))
        write_if_other(self.requirements, self._render_requirements(functions))
        return written

    def edited(self, functions: Mapping[str, Function], before: Mapping[str, str]) -> list[str]:
        """The names of files that are new or that somebody changed: not active, not written by us."""
        return [
            name
            for name, source in self.sources().items()
            if before.get(name) != digest_of(source) and (name not in functions or functions[name].source != source)
        ]

    def sources(self) -> dict[str, str]:
        """The functions' files as they are, by name. Files that cannot be functions are not looked at."""
        paths = sorted(p for p in self.folder.glob("*.py") if p.is_file() and not p.name.startswith(("_", ".")))
        return {p.stem: p.read_bytes().decode("utf-8", "surrogateescape") for p in paths}

    def drafts(self, names: Collection[str]) -> list[Draft]:
        """The files of these names, each with the packages that the requirements say it uses."""
        packages = self.packages()
        sources = self.sources()
        return [Draft(sources[name], name, packages.get(name, ())) for name in names]

    def packages(self) -> dict[str, list[str]]:
        """Requirement lines by the function that uses them; "" holds those that people added."""
        found: dict[str, list[str]] = {}
        for line in self._lines():
            match = _USED_BY.search(line)
            for name in match["names"].split(", ") if match else [""]:
                found.setdefault(name, []).append(_USED_BY.sub("", line))
        return found

    def own_requirements(self) -> tuple[str, ...]:
        """What people added by hand, for every kernel. Raises InvalidRequirement."""
        return parse_requirements(self.packages().get("", ()))

    def _lines(self) -> list[str]:
        return [line for line in self._text().splitlines() if line.strip() and not line.startswith("#")]

    def _text(self) -> str:
        return self.requirements.read_text(encoding="utf-8") if self.requirements.exists() else ""

    def _render_requirements(self, functions: Collection[Function]) -> str:
        users: dict[str, list[str]] = {}
        for function in sorted(functions, key=lambda f: f.name):
            for requirement in function.packages:
                users.setdefault(requirement, []).append(function.name)
        text = self._text().removeprefix(_HEADER)
        lines = [line for line in text.splitlines() if line.strip() and not _USED_BY.search(line)]
        lines += [f"{r}  # used by: {', '.join(names)}" for r, names in sorted(users.items())]
        return _HEADER + "".join(f"{line}\n" for line in lines)


def write_if_other(path: Path, text: str) -> None:
    """Write a file unless that is what it holds."""
    if not path.exists() or path.read_bytes() != text.encode("utf-8"):
        write_atomically(path, text)
