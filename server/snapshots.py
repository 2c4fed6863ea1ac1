"""Active functions as files: a snapshot's package for kernels, and the projection that people read and edit.

A snapshot is a folder with `aigbb_functions/` (one module a function and an `__init__` that imports each by
itself), `manifest.json` (version and digest of each) and `environment.json` (the variables' values, mode 0600).
It is written once and never changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from kernels.errors import InvalidRequirement
from kernels.home import write_atomically
from kernels.packages import parse_requirements
from server.call_policy import Confirm, Effects
from server.errors import InvalidRequest
from server.functions import Declared, Draft, Function

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


@dataclass(frozen=True)
class SnapshotContents:
    """Every file of a snapshot, by its path in there, and what it holds: the manifest, the variables, the package.

    It is made of what the registry holds, so it is what a folder is held against, and rebuilt from.
    """

    files: Mapping[str, bytes]

    @classmethod
    def of(
        cls,
        functions: Collection[Function],
        variables: Mapping[str, str],
        numbers: Mapping[str, int] | None = None,
        secrets: Mapping[str, Sequence[str]] | None = None,
    ) -> SnapshotContents:
        """Return them for active functions. numbers are their versions by name, secrets the names that each needs."""
        listed = sorted(functions, key=lambda f: f.name)
        manifest = {f.name: _known(f, numbers or {}, secrets or {}) for f in listed}
        sources = {f"{PACKAGE}/{f.name}.py": f.source.encode() for f in listed}
        return cls(
            {
                **sources,
                f"{PACKAGE}/__init__.py": render_init(f.name for f in listed).encode(),
                _MANIFEST: json.dumps(manifest, sort_keys=True).encode(),
                _VARIABLES: json.dumps(dict(variables), sort_keys=True).encode(),
            }
        )

    def write(self, folder: Path, previous: Path | None = None) -> None:
        """Write them under another name, then rename that: a folder with a number is whole. Raises OSError.

        previous is a snapshot most of whose files are the same: those are linked, not written.
        """
        aside = folder.with_name(f".writing-{folder.name}")
        for left in (aside, folder):
            shutil.rmtree(left, ignore_errors=not left.exists())
        try:
            (aside / PACKAGE).mkdir(parents=True, mode=0o700)
            linked = set() if previous is None else self._link(previous / PACKAGE, aside / PACKAGE)
            for name in self.files.keys() - linked:
                _put(f"{aside}/{name}", self.files[name])
            # Not forced to the disk: after a power cut, `fault` tells what has to be written again.
            aside.rename(folder)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)  # on a full disk every byte counts
            raise

    def _link(self, previous: Path, package: Path) -> set[str]:
        """Link what another snapshot's package holds of them. Returns the names of those files.

        What became of a file after it was written is not passed on. All by open folders: this is done for each
        function at each registration.
        """
        linked: set[str] = set()
        if not previous.is_dir():
            return linked
        with _opened(previous) as source, _opened(package) as target:
            for name in self.files.keys() - _OWN:
                file = name.removeprefix(f"{PACKAGE}/")
                try:
                    os.link(file, file, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
                except OSError:  # a disk without links, or a file that somebody took away: it is written
                    continue
                if _holds(file, self.files[name], target):
                    linked.add(name)
                else:
                    os.unlink(file, dir_fd=target)  # never written to: others share it
        return linked

    def fault(self, folder: Path) -> str | None:
        """Return the first file that is gone, holds something else, or is not of the snapshot; None if it is whole."""
        for name, data in self.files.items():
            if not _holds(f"{folder}/{name}", data):
                return name
        return next((name for name in _modules(folder) if name not in self.files), None)


# What no snapshot shares with another.
_MANIFEST, _VARIABLES = "manifest.json", "environment.json"
_OWN = frozenset({_MANIFEST, _VARIABLES, f"{PACKAGE}/__init__.py"})


def write_snapshot(
    folder: Path,
    functions: Collection[Function],
    variables: Mapping[str, str],
    numbers: Mapping[str, int] | None = None,
    previous: Path | None = None,
    *,
    secrets: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write a snapshot of functions. See `SnapshotContents`."""
    SnapshotContents.of(functions, variables, numbers, secrets).write(folder, previous)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """Open a folder, so that its files are found without its path. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _put(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _modules(folder: Path) -> Iterator[str]:
    """What can be imported from a snapshot: kernels have it first on their path. Data that a function keeps is none."""
    for place in ("", f"{PACKAGE}/"):
        with os.scandir(f"{folder}/{place}") as entries:
            names = [entry.name for entry in entries if not entry.name.endswith(".json")]
        for name in (n for n in names if n not in (PACKAGE, "__pycache__")):
            if name.endswith((".py", ".pyc", ".so")) or Path(folder, place, name, "__init__.py").exists():
                yield f"{place}{name}"


def _known(function: Function, numbers: Mapping[str, int], secrets: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What a kernel is told of a function: whether it has to load it again, and how calls are to be checked."""
    return {
        "version": numbers.get(function.name, 0),
        "digest": digest_of(function.source),
        "uses": PACKAGE in function.source,
        "written": list(function.written),
        "declared": function.declared.parameters is not None,
        **({"secrets": list(secrets[function.name])} if function.name in secrets else {}),
    }


def _holds(path: str, data: bytes, folder: int | None = None) -> bool:
    """Whether a file holds this. Asked for each function at each registration: nothing is buffered."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return False
    try:
        return os.read(descriptor, len(data) + 1) == data
    except OSError:
        return False
    finally:
        os.close(descriptor)


def doom_snapshots(folder: Path, keep: Collection[int], newest: int) -> list[Path]:
    """Take the snapshots up to `newest` away that are not kept. Returns all that can be deleted at any time now."""
    for path in folder.iterdir():
        if path.name.isdecimal() and int(path.name) <= newest and int(path.name) not in keep:
            doomed = path.with_name(f".removing-{path.name}")
            shutil.rmtree(doomed, ignore_errors=not doomed.exists())
            path.rename(doomed)
    return sorted(folder.glob(".removing-*"))


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
    """The functions' folder and `extra-requirements.txt` beside it: what people see, edit and keep in git.

    What a function has beside its source (tags, bound names, names of secrets, a declared description, schema or
    effects) is in a file of its name that ends in `.json`; most have none.
    """

    folder: Path

    @property
    def requirements(self) -> Path:
        """The file with the packages that registrations added."""
        return self.folder.parent / "extra-requirements.txt"

    def write(
        self, functions: Collection[Function], before: Mapping[str, str], names: Collection[str] | None = None
    ) -> dict[str, str]:
        """Bring both up to date. `before` has the digests of what was written last; the answer what was now.

        names are those that changed or went, None for all. A file that somebody edited since is left alone: the
        next start, or `aigbb sync`, registers it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        now = {name: digest_of(source + self._beside(name)) for name, source in self.sources(names).items()}
        untouched = {name for name, digest in now.items() if before.get(name) == digest}
        for name in untouched - {f.name for f in functions}:
            (self.folder / f"{name}.py").unlink()
            (self.folder / f"{name}.json").unlink(missing_ok=True)
        written = {}
        for function in (f for f in functions if names is None or f.name in names):
            digest = digest_of(function.source + beside(function))
            if function.name not in now or function.name in untouched:
                self._put(function)
                written[function.name] = digest
            elif now[function.name] == digest:
                written[function.name] = digest
        write_if_other(self.folder / "__init__.py", render_init(f.name for f in functions))
        write_if_other(self.requirements, self._render_requirements(functions))
        return written

    def edited(self, functions: Mapping[str, Function], before: Mapping[str, str]) -> list[str]:
        """The names of files that are new or that somebody changed: not active, not written by us."""
        return [
            name
            for name, text in ((name, source + self._beside(name)) for name, source in self.sources().items())
            if before.get(name) != digest_of(text)
            and (name not in functions or functions[name].source + beside(functions[name]) != text)
        ]

    def sources(self, names: Collection[str] | None = None) -> dict[str, str]:
        """The functions' files as they are, by name: all, or some. Others in that folder are not looked at."""
        found = self.folder.glob("*.py") if names is None else (self.folder / f"{name}.py" for name in names)
        paths = sorted(p for p in found if p.is_file() and not p.name.startswith(("_", ".")))
        return {p.stem: p.read_bytes().decode("utf-8", "surrogateescape") for p in paths}

    def files(self) -> list[Path]:
        """All that is there of what `write` writes, but the generated `__init__.py`."""
        paths = [self.folder / f"{name}{ending}" for name in self.sources() for ending in (".py", ".json")]
        return [path for path in (*paths, self.requirements) if path.is_file()]

    def texts(self) -> dict[str, dict[str, str]]:
        """By function, the text of its file, and of the one beside it if there is one, each by the file's name."""
        return {
            name: {f"{name}.py": source} | ({f"{name}.json": text} if (text := self._beside(name)) else {})
            for name, source in self.sources().items()
        }

    def drafts(self, names: Collection[str]) -> dict[str, Draft | InvalidRequest]:
        """The files of these names, each with the packages that the requirements say it uses, or why there is none."""
        packages = self.packages()
        found: dict[str, Draft | InvalidRequest] = {}
        for name, source in self.sources(names).items():
            try:
                told = _Beside.model_validate_json(self._beside(name) or "{}")
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]
                where = ".".join(map(str, first["loc"]))
                found[name] = InvalidRequest(f"{name}.json is not valid. {where}: {first['msg']}", hint=_BESIDE_HINT)
            else:
                declared = Declared(told.description, told.input_schema, told.responses)
                told_of = (told.tags, told.bound, declared, told.effects, told.confirm, tuple(told.secrets))
                found[name] = Draft(source, name, packages.get(name, ()), {}, *told_of, told.network)
        return found

    def _beside(self, name: str) -> str:
        """The text of its `.json` file; as we would write it, if it is sound: people write it in other ways."""
        path = self.folder / f"{name}.json"
        text = path.read_bytes().decode("utf-8", "surrogateescape") if path.is_file() else ""
        try:
            return _rendered(_Beside.model_validate_json(text)) if text else ""
        except ValidationError:
            return text

    def _put(self, function: Function) -> None:
        write_if_other(self.folder / f"{function.name}.py", function.source)
        path, text = self.folder / f"{function.name}.json", beside(function)
        if text:
            write_if_other(path, text)
        else:
            path.unlink(missing_ok=True)

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
        """Raises InvalidRequirement."""
        try:
            return self.requirements.read_text(encoding="utf-8") if self.requirements.exists() else ""
        except UnicodeDecodeError as error:
            raise InvalidRequirement(f"{self.requirements.name} is no text in UTF-8.") from error

    def _render_requirements(self, functions: Collection[Function]) -> str:
        users: dict[str, list[str]] = {}
        for function in sorted(functions, key=lambda f: f.name):
            for requirement in function.packages:
                users.setdefault(requirement, []).append(function.name)
        text = self._text().removeprefix(_HEADER)
        lines = [line for line in text.splitlines() if line.strip() and not _USED_BY.search(line)]
        lines += [f"{r}  # used by: {', '.join(names)}" for r, names in sorted(users.items())]
        return _HEADER + "".join(f"{line}\n" for line in lines)


class _Beside(BaseModel):
    """What a function's `.json` file may hold."""

    model_config = ConfigDict(extra="forbid")

    tags: list[str] = []
    bound: list[str] = []
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    responses: dict[str, Any] | None = None
    effects: Effects | None = None
    confirm: Confirm = "policy"
    secrets: list[str] = []
    network: bool = False


_BESIDE_HINT = f"It may hold {', '.join(_Beside.model_fields)}, as a registration does."


def beside(function: Function) -> str:
    """The text of a function's `.json` file; empty if it needs none."""
    declared = function.declared
    all_of_it = {
        "tags": list(function.tags),
        "bound": list(function.bound),
        "description": declared.description,
        "input_schema": declared.parameters,
        "responses": declared.returns,
        "effects": function.declared_effects,
        "confirm": function.confirm,
        "secrets": list(function.secrets),
        "network": function.network,
    }
    return _rendered(_Beside.model_validate(all_of_it))


def _rendered(beside: _Beside) -> str:
    told = beside.model_dump(exclude_defaults=True)
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n" if told else ""


def write_if_other(path: Path, text: str) -> None:
    """Write a file unless that is what it holds."""
    if not path.exists() or path.read_bytes() != text.encode("utf-8"):
        write_atomically(path, text)
