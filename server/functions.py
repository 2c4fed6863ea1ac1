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
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from kernels.errors import AigbbError, InvalidRequirement, ProcessUnavailable, PythonVersionMismatch
from kernels.messages import clean
from kernels.packages import applies, parse_requirements
from kernels.suggestions import suggestions
from server import schemas
from server.call_policy import Confirm, Effects
from server.errors import (
    InvalidBound,
    InvalidEnv,
    InvalidName,
    InvalidSecret,
    InvalidTag,
    NoSuchDefinition,
    SourceTooLarge,
    SourceUnparsable,
    SyntaxRefused,
    UnsupportedSignature,
)
from server.source_reader import MAX_SOURCE, READ_AT_ONCE, Reader, read_sources, size_of, start_reader
from server.variables import check_env

MAX_TAGS = 20
MAX_SECRETS = 50

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MAGIC = re.compile(r"(?m)^([ \t]*)[%!].*$")
_RESERVED = {"aigbb", "aigbb_functions", "functions", "register", "execute", "con", "nul", "prn", "aux"}
# Names that a notebook has of its own, and that functions could only break.
_NOTEBOOK = {"In", "Out", "get_ipython", "display"}


@dataclass(frozen=True, slots=True)
class Warn:
    """Something the author should know; the registration stands."""

    code: str
    message: str


@dataclass(frozen=True)
class Declared:
    """What the author says of a function in so many words; it wins over what is inferred.

    parameters and returns are JSON Schemas, of the arguments as one object and of the result.
    """

    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    returns: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Draft:
    """What a caller sends: nothing is known about it yet. packages are lines, env holds values.

    bound names the parameters that callers of models fill in, and that models never see. effects is None where
    the author says nothing of them. secrets are the names of those that it is granted. network: it gets one where
    kernels have none.
    """

    source: str
    name: str | None = None
    packages: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    tags: Sequence[str] = ()
    bound: Sequence[str] = ()
    declared: Declared = Declared()
    effects: Effects | None = None
    confirm: Confirm = "policy"
    secrets: Sequence[str] = ()
    network: bool = False


@dataclass(frozen=True)
class Function:
    """One registered function. Valid by construction: made by `parse`, or read back from the registry.

    packages are canonical requirements, env names only; parameters is the JSON Schema of its arguments,
    returns that of its result, empty where nothing is known. written lists the parameters as the source has
    them: name, kind, typed, optional, computed_default. uses are the identifiers of a source that imports other
    functions, None in versions of an older service. effects are those declared, or else what the source lets
    one infer; declared_effects is None in that case.
    """

    name: str
    source: str
    packages: tuple[str, ...]
    env: tuple[str, ...]
    description: str
    signature: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    returns: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    bound: tuple[str, ...] = ()
    declared: Declared = Declared()
    written: tuple[Mapping[str, Any], ...] = ()
    effects: Effects = "unknown"
    confirm: Confirm = "policy"
    declared_effects: Effects | None = None
    secrets: tuple[str, ...] = ()
    network: bool = False
    uses: tuple[str, ...] | None = None

    @cached_property
    def digest(self) -> str:
        """sha256 over what the author gave, hex: equal digests are the same function."""
        parts = [self.name, self.source, self.packages, self.env, self.tags, self.bound, asdict(self.declared)]
        if self.declared_effects is not None or self.confirm != "policy":  # else as it was before there were these
            parts.append([self.declared_effects or "", self.confirm])
        if self.secrets:
            parts.append({"secrets": self.secrets})
        if self.network:
            parts.append({"network": True})
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Written:
    """What else the source says, before anything has run.

    texts are what the docstring says of each parameter, result of the result; imports are modules that it
    needs in any case.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    result: str = ""
    imports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parsed:
    """A function, and what reading its source brought up."""

    function: Function
    warnings: tuple[Warn, ...]
    written: Written


async def parse(draft: Draft) -> Parsed:
    """A valid function from a draft. Writes nothing, runs nothing of it.

    Raises InvalidName, SourceRefused and its children, InvalidRequirement, InvalidEnv, InvalidSecret, InvalidSchema,
    InvalidTag, InvalidBound, PythonVersionMismatch.
    """
    [found] = await parse_all([draft])
    if isinstance(found, AigbbError):
        raise found
    return found


async def parse_all(drafts: Sequence[Draft], reader: Reader = start_reader) -> list[Parsed | AigbbError]:
    """For each draft its function, or what is wrong with it. One process, from `reader`, reads the sources of many."""
    sources = [draft.source.removeprefix("\ufeff") for draft in drafts]
    found: list[Parsed | AigbbError] = []
    for start in range(0, len(drafts), READ_AT_ONCE):
        part = slice(start, start + READ_AT_ONCE)
        found += map(_parsed, drafts[part], sources[part], await read_sources(sources[part], reader))
    return found


async def read_identifiers(code: str, reader: Reader = start_reader) -> set[str]:
    """Return the identifiers of a cell's code; lines that are IPython's own have none, nor has what is no Python."""
    plain = _MAGIC.sub(r"\1pass", code)
    [facts] = await read_sources([f"import aigbb_functions\n{plain}"], reader)
    return set(facts.get("uses", ()))


def _parsed(draft: Draft, source: str, facts: Mapping[str, Any]) -> Parsed | AigbbError:
    try:
        return _parse(draft, source, facts)
    except AigbbError as error:
        return error


def _parse(draft: Draft, source: str, facts: Mapping[str, Any]) -> Parsed:
    if draft.name is not None:
        check_name(draft.name)
    check_env(draft.env)
    _check_secrets(draft)
    _check_tags(draft.tags)
    _check_declared(draft.declared)
    _check_readable(source, facts)
    definition = _choose(facts, draft.name)
    if draft.declared.parameters is None:
        _check_signature(definition)
    _check_bound(draft, definition)
    packages, requires = _from_script(facts["script"])
    _check_python(requires)
    function = Function(
        name=definition["name"],
        source=source,
        packages=parse_requirements([*draft.packages, *packages]),
        env=tuple(sorted(draft.env)),
        description=clean(draft.declared.description or definition["description"]).strip(),
        signature=definition["signature"],
        tags=tuple(sorted(set(draft.tags))),
        bound=tuple(sorted(set(draft.bound))),
        declared=draft.declared,
        written=tuple(definition["parameters"]),
        effects=draft.effects or ("unknown" if facts["changes"] else "read"),
        confirm=draft.confirm,
        declared_effects=draft.effects,
        secrets=tuple(sorted(set(draft.secrets))),
        network=draft.network,
        uses=tuple(facts["uses"]),
    )
    return Parsed(function, tuple(_warnings(function, facts, definition)), _written(facts, definition))


def _written(facts: Mapping[str, Any], definition: Mapping[str, Any]) -> Written:
    needed = (m for m in facts["imports"] if m not in sys.stdlib_module_names and m != "aigbb_functions")
    return Written(
        texts={name: clean(text) for name, text in definition["texts"].items()},
        result=clean(definition["result"]),
        imports=tuple(needed),
    )


def check_name(name: str) -> None:
    """Raises InvalidName with a reason, and a name that would do where there is one."""
    reason = _name_fault(name)
    if reason:
        candidate = re.sub(r"\W+", "_", name[:64], flags=re.ASCII).strip("_")
        usable = candidate if candidate and not _name_fault(candidate) else None
        fix = {"name": usable} if usable else None
        raise InvalidName(f"{name[:80]!r} cannot be a function's name: {_FAULTS[reason]}.", fix=fix, reason=reason)


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


def _check_secrets(draft: Draft) -> None:
    """Raises InvalidSecret for names that are none, and for one that is a variable of the same function too."""
    if len(draft.secrets) > MAX_SECRETS:
        raise InvalidSecret(f"More than {MAX_SECRETS} secrets.", hint="Put what belongs together into one, as JSON.")
    for name in draft.secrets:
        try:
            check_env({name: ""})
        except InvalidEnv as error:
            raise InvalidSecret(error.detail) from error
        if name in draft.env:
            hint = "Leave it out of `env`: its value would be in every kernel."
            raise InvalidSecret(f"{name} is a secret and a variable.", hint=hint)


def _check_tags(tags: Sequence[str]) -> None:
    wrong = [tag for tag in tags if not _TAG.fullmatch(tag)]
    if wrong or len(tags) > MAX_TAGS:
        raise InvalidTag(f"{wrong[0][:80]!r} cannot be a tag." if wrong else f"More than {MAX_TAGS} tags.")


def _check_declared(declared: Declared) -> None:
    if declared.parameters is not None:
        schemas.check(declared.parameters)
    if declared.returns is not None:
        schemas.check({"type": "object", "properties": {"result": declared.returns}})


def _check_bound(draft: Draft, definition: Mapping[str, Any]) -> None:
    """Bound names are parameters: a misspelt one would leave the real one to the model."""
    declared = draft.declared.parameters
    names = [p["name"] for p in definition["parameters"]] if declared is None else list(declared.get("properties", {}))
    for name in draft.bound:
        if name not in names:
            near = suggestions(name, names)
            fix = {"rename": {name[:80]: near[0]}} if near else None
            raise InvalidBound(f"{name[:80]!r} is bound, but is no parameter.", fix=fix, parameters=names)


def _check_readable(source: str, facts: Mapping[str, Any]) -> None:
    """Raises SourceTooLarge, SourceUnparsable, SyntaxRefused, ProcessUnavailable."""
    if (size := size_of(source)) > MAX_SOURCE:
        raise SourceTooLarge(f"The source has {size:,} bytes; {MAX_SOURCE:,} are allowed.")
    if clean(source) != source:
        raise SourceUnparsable("The source holds a lone surrogate.")
    if facts.get("error") == "syntax_error":
        location = {k: facts[k] for k in ("line", "column", "text")}
        raise SyntaxRefused(f"Line {facts['line']}: {facts['message']}.", location=location)
    if facts.get("error") == ProcessUnavailable.code:
        raise ProcessUnavailable(f"The source could not be read: {facts['message']}.", retry_after=5)
    if "error" in facts:
        raise SourceUnparsable(f"The source cannot be parsed: {facts['message']}.")


def _choose(facts: Mapping[str, Any], name: str | None) -> dict[str, Any]:
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
    near = suggestions(name, public) or (public if len(public) == 1 else [])
    fix = {"name": near[0]} if near else None
    raise NoSuchDefinition(f"The source defines no function {name!r}.", fix=fix, candidates=candidates)


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


def _warnings(function: Function, facts: Mapping[str, Any], definition: Mapping[str, Any]) -> list[Warn]:
    found = []
    if not function.description:
        found.append(Warn("missing_docstring", "Without a docstring, models will not know when to call it."))
    if function.name in sys.stdlib_module_names:
        found.append(Warn("shadows_module", f"{function.name!r} is also a module of Python's library."))
    if function.declared.parameters is None:
        found += [warning for parameter in definition["parameters"] for warning in _parameter_warnings(parameter)]
    if function.effects == "unknown" and function.declared_effects is None:
        found.append(_undeclared(facts["changes"]))
    unused = [r for r in function.packages if not applies(r)]
    return found + [Warn("requirement_not_applicable", f"{r!r} does not apply here.") for r in unused]


def _undeclared(changes: Sequence[Mapping[str, Any]]) -> Warn:
    listed = [f"line {one['line']}: {clean(one['name'])}" for one in changes[:5]] + ["..."] * (len(changes) > 5)
    said = f"It could change something ({'; '.join(listed)}), so a model's call of it waits for a person."
    return Warn("undeclared_effects", f"{said} Declare `effects`: read or write.")


def _parameter_warnings(parameter: Mapping[str, Any]) -> list[Warn]:
    found, name = [], parameter["name"]
    if not parameter["typed"]:
        found.append(Warn("untyped_parameter", f"Parameter {name!r} has no type; anything is accepted."))
    if parameter["computed_default"]:
        found.append(Warn("dynamic_default", f"The default of {name!r} is computed, and not shown."))
    return found
