"""A function as a value: what may be one, and how a request, or a file, becomes one.

Nothing here runs a function's source; it is read by a child process (`server.reading`).
"""

from __future__ import annotations

import builtins
import hashlib
import json
import keyword
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from kernels import sandbox
from kernels.errors import InvalidRequirement, PythonVersionMismatch
from kernels.outputs import clean
from kernels.packages import applies, parse_requirements
from server.errors import (
    InvalidEnv,
    InvalidName,
    NoSuchDefinition,
    SourceTooLarge,
    SourceUnparsable,
    SyntaxRefused,
    UnsupportedSignature,
)

MAX_SOURCE = 256 * 1024
MAX_VALUE = 32 * 1024
READER = Path(__file__).parent / "reading.py"
READER_TIMEOUT = 10.0

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_RESERVED = {"aigbb", "aigbb_functions", "functions", "register", "execute", "con", "nul", "prn", "aux"}
# Names that a notebook has of its own, and that functions could only break.
_NOTEBOOK = {"In", "Out", "get_ipython", "display"}
_STEERING = re.compile(
    r"(PYTHON|LD_|DYLD_|JPY_|JUPYTER|IPYTHON|AIGBB_)\w*|PATH|HOME|VIRTUAL_ENV|MPLBACKEND|MPLCONFIGDIR"
)


@dataclass(frozen=True, slots=True)
class Warn:
    """Something the author should know; the registration stands."""

    code: str
    message: str


@dataclass(frozen=True)
class Draft:
    """What a caller sends: nothing is known about it yet. packages are lines, env holds values."""

    source: str
    name: str | None = None
    packages: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Function:
    """One registered function. Valid by construction: made by `parse`, or read back from the registry.

    packages are canonical requirements, env names only; parameters is the JSON Schema of its arguments.
    """

    name: str
    source: str
    packages: tuple[str, ...]
    env: tuple[str, ...]
    description: str
    signature: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """sha256 over what the author gave, hex: equal digests are the same function."""
        parts = [self.name, self.source, list(self.packages), list(self.env)]
        return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Parsed:
    """A function, and what reading it brought up. computed: parameters whose default is computed."""

    function: Function
    warnings: tuple[Warn, ...]
    computed: frozenset[str]


async def parse(draft: Draft) -> Parsed:
    """A valid function from a draft. Writes nothing, runs nothing of it.

    Raises InvalidName, SourceRefused and its children, InvalidRequirement, InvalidEnv, PythonVersionMismatch.
    """
    if draft.name is not None:
        check_name(draft.name)
    check_env(draft.env)
    source = draft.source.removeprefix("\ufeff")
    facts = await _read(source)
    definition = _choose(facts, draft.name)
    _check_signature(definition)
    packages, requires = _from_script(facts["script"])
    _check_python(requires)
    function = Function(
        name=definition["name"],
        source=source,
        packages=parse_requirements([*draft.packages, *packages]),
        env=tuple(sorted(draft.env)),
        description=clean(definition["doc"]),
        signature=definition["signature"],
    )
    computed = frozenset(p["name"] for p in definition["parameters"] if p["computed_default"])
    return Parsed(function, tuple(_warnings(function, definition)), computed)


def check_name(name: str) -> None:
    """Raises InvalidName with a reason, and a name that would do where there is one."""
    reason = _name_fault(name)
    if reason:
        candidate = re.sub(r"\W+", "_", name[:64], flags=re.ASCII).strip("_")
        usable = {"suggestion": candidate} if candidate and not _name_fault(candidate) else {}
        raise InvalidName(f"{name[:80]!r} cannot be a function's name: {_FAULTS[reason]}.", reason=reason, **usable)


_FAULTS = {
    "pattern": "it is not a plain Python name",
    "keyword": "it is a keyword of Python",
    "shadows_builtin": "it would hide Python's own",
    "reserved": "it is reserved",
}


def _name_fault(name: str) -> str | None:
    if not _NAME.fullmatch(name):
        return "pattern"
    if keyword.iskeyword(name):
        return "keyword"
    if hasattr(builtins, name):
        return "shadows_builtin"
    return "reserved" if name.lower() in _RESERVED or name in _NOTEBOOK else None


def check_env(env: Mapping[str, str]) -> None:
    """Raises InvalidEnv for names that are none, names that steer the interpreter, and values that are no text."""
    for name, value in env.items():
        if not _VARIABLE.fullmatch(name):
            raise InvalidEnv(f"{name[:80]!r} cannot be a variable's name.", name=name[:80])
        if _STEERING.fullmatch(name.upper()):
            raise InvalidEnv(f"The variable {name!r} is reserved.", name=name)
        if "\0" in value or len(value) > MAX_VALUE or clean(value) != value:
            raise InvalidEnv(f"The value of {name!r} holds a NUL, a lone surrogate, or is over 32 KiB.", name=name)


async def _read(source: str) -> dict[str, Any]:
    try:
        data = source.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SourceUnparsable("The source holds a lone surrogate.") from error
    if len(data) > MAX_SOURCE:
        raise SourceTooLarge(f"The source has {len(data):,} bytes; {MAX_SOURCE:,} are allowed.")
    argv = [sys.executable, "-I", "-S", str(READER)]
    done = await sandbox.run(argv, env={"LANG": "C.UTF-8"}, timeout=READER_TIMEOUT, stdin=data)
    if done.returncode != 0 or done.timed_out:
        raise SourceUnparsable("Python's parser did not survive the source.")
    try:
        facts: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise SourceUnparsable("What the source defines is too much to read.") from error
    if "error" in facts:
        _refuse(facts)
    return facts


def _refuse(facts: dict[str, Any]) -> NoReturn:
    if facts["error"] == "syntax_error":
        location = {k: facts[k] for k in ("line", "column", "text")}
        raise SyntaxRefused(f"Line {facts['line']}: {facts['message']}.", location=location)
    raise SourceUnparsable(f"The source cannot be parsed: {facts['message']}.")


def _choose(facts: dict[str, Any], name: str | None) -> dict[str, Any]:
    """The definition that is meant; the last one of a name wins, as in Python."""
    found: dict[str, dict[str, Any]] = {d["name"]: d for d in facts["definitions"]}
    public = [n for n in found if not n.startswith("_")]
    if name is None and len(public) == 1:
        check_name(public[0])
        return found[public[0]]
    if name is not None and name in found:
        return found[name]
    candidates = public or [n for n in facts["others"] if not n.startswith("_")]
    if name is None:
        raise NoSuchDefinition(
            f"The source defines {len(public)} public functions.",
            hint="Say which one is meant in `name`, or give the others a leading underscore.",
            candidates=candidates,
        )
    raise NoSuchDefinition(f"The source defines no function {name!r}.", candidates=candidates)


def _check_signature(definition: dict[str, Any]) -> None:
    wrong = [{"parameter": p["name"], "kind": p["kind"]} for p in definition["parameters"] if p["kind"] != "named"]
    if wrong:
        listed = ", ".join(f"{w['parameter']} ({w['kind']})" for w in wrong)
        raise UnsupportedSignature(f"{definition['name']} takes {listed}.", parameters=wrong)


def _from_script(script: dict[str, Any] | None) -> tuple[list[str], str | None]:
    if script is None:
        return [], None
    if extra := sorted(script.keys() - {"dependencies", "requires-python"}):
        raise InvalidRequirement(
            f"The script block holds {', '.join(extra)}.",
            hint="Only dependencies and requires-python are read; indexes and sources are the operator's.",
        )
    dependencies, requires = script.get("dependencies", []), script.get("requires-python")
    if not isinstance(dependencies, list) or not all(isinstance(d, str) for d in dependencies):
        raise InvalidRequirement("`dependencies` in the script block is not a list of texts.")
    return dependencies, None if requires is None else str(requires)


def _check_python(requires: str | None) -> None:
    if requires is None:
        return
    ours = platform.python_version()
    try:
        fits = SpecifierSet(requires).contains(ours, prereleases=True)
    except InvalidSpecifier as error:
        raise InvalidRequirement(f"requires-python {requires[:80]!r} is not a version range.") from error
    if not fits:
        raise PythonVersionMismatch(f"The source needs Python {requires}; kernels run {ours}.")


def _warnings(function: Function, definition: dict[str, Any]) -> list[Warn]:
    found = []
    if not function.description:
        found.append(Warn("missing_docstring", "Without a docstring, models will not know when to call it."))
    if function.name in sys.stdlib_module_names:
        found.append(Warn("shadows_module", f"{function.name!r} is also a module of Python's library."))
    for parameter in definition["parameters"]:
        found += _parameter_warnings(parameter)
    unused = [r for r in function.packages if not applies(r)]
    return found + [Warn("requirement_not_applicable", f"{r!r} does not apply here.") for r in unused]


def _parameter_warnings(parameter: Mapping[str, Any]) -> list[Warn]:
    found, name = [], parameter["name"]
    if not parameter["typed"]:
        found.append(Warn("untyped_parameter", f"Parameter {name!r} has no type; anything is accepted."))
    if parameter["computed_default"]:
        found.append(Warn("dynamic_default", f"The default of {name!r} is computed, and not shown."))
    return found
