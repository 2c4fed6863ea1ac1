"""Asks a generation's own Python whether functions work in it, and what their contracts are.

The functions' code runs in a child process with a kernel's environment, never in the service.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kernels import sandbox
from kernels.confinement import Cage
from kernels.environments import Generation
from kernels.errors import (
    ImportFailed,
    ImportTimeout,
    MissingDependency,
    ProbeCrashed,
    ProbeError,
    SchemaError,
)
from kernels.messages import clean, clean_json
from kernels.packages import DISTRIBUTION_OF

LAUNCH = Path(__file__).parent / "inside" / "launch.py"
# Under -P no folder of ours, and not the working one, is on the module path.
BOOTSTRAP = "import runpy, sys; runpy.run_path(sys.argv[1])['become_importable']()"
PROBE = f"{BOOTSTRAP}; from aigbb_inside.probe import main; main()"
PROBE_AHEAD = f"{BOOTSTRAP}; from aigbb_inside import contract; from aigbb_inside.probe import main; main()"
# Seconds more, for what is imported and compiled for the first time.
WARMING = 60.0
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Described:
    """A function as imported: the JSON Schemas of its arguments, as one object, and of its result.

    Empty where nothing can be said. hidden: its parameters are not those that the source lists. signature: as text.
    """

    parameters: Mapping[str, Any]
    returns: Mapping[str, Any]
    hidden: bool
    signature: str


@dataclass
class Findings:
    """contracts: what was described, by function. failures: what is wrong, by function; empty when all is well."""

    contracts: dict[str, Described] = field(default_factory=dict)
    failures: dict[str, ProbeError] = field(default_factory=dict)


@dataclass(frozen=True)
class Probe:
    """How to ask. env is the child's whole environment; timeout is in seconds for all imports together.

    mask takes secrets out of what messages say, and home is a path that none needs to. cage is what the child is
    confined to.
    """

    env: Mapping[str, str]
    workdir: Path
    timeout: float
    mask: Callable[[str], str] = str
    home: str = ""
    cage: Cage = field(default_factory=Cage)

    async def ask(
        self,
        generation: Generation,
        snapshot: Path,
        names: Sequence[str],
        *,
        describe: Mapping[str, Mapping[str, Any]] = _NOTHING,
        imports: Mapping[str, Sequence[str]] = _NOTHING,
        secrets: Mapping[str, Mapping[str, str]] = _NOTHING,
        child: sandbox.Child | None = None,
    ) -> Findings:
        """Import each of `names` from a snapshot; give the contracts of those to describe.

        describe has, by function, its "parameters" as `server.reading` lists them, and whether the author
        "declared" a schema. imports has the top-level modules that each imports anywhere: they must be there.
        secrets has variables, by function, that are there while it is looked at. child: one that `ahead` has started.
        """
        request = {
            "snapshot": str(snapshot),
            "names": list(names),
            "describe": {name: dict(spec) for name, spec in describe.items()},
            "imports": {name: list(modules) for name, modules in imports.items()},
            "secrets": {name: dict(values) for name, values in secrets.items()},
        }
        child = child or await self._start(generation, PROBE)
        return self._read(await child.finish(json.dumps(request).encode(), self.timeout))

    async def warm(
        self, generation: Generation, snapshot: Path, needed: Sequence[str], used: Sequence[str]
    ) -> ProbeError | None:
        """Import packages' modules; their bytecode is in `generation.bytecode` then. Why one of `needed` is broken.

        What is wrong with those that functions use is theirs to say, when they are asked.
        """
        request = {"snapshot": str(snapshot), "needed": list(needed), "used": list(used)}
        request["bytecode"] = str(generation.bytecode)
        child = await self._start(generation, PROBE)
        finished = await child.finish(json.dumps(request).encode(), self.timeout + WARMING)
        return self._read(finished).failures.get("")

    async def ahead(self, generation: Generation) -> sandbox.Child:
        """Start a child for `ask` before it is known what there is to ask: what it needs is imported meanwhile."""
        return await self._start(generation, PROBE_AHEAD)

    async def _start(self, generation: Generation, program: str) -> sandbox.Child:
        argv: list[str | Path] = [generation.python, "-s", "-P", "-c", program, str(LAUNCH)]
        return await sandbox.Child.start(argv, env=self.env, cwd=self.workdir, cage=self.cage)

    def _read(self, finished: sandbox.Finished) -> Findings:
        findings, importing, done = Findings(), "", False
        for line in _lines(finished.stdout):
            match line:
                case {"importing": str(name)}:
                    importing = name
                case {"broken": str(module)}:
                    findings.failures.setdefault("", self._broken(module, line))
                case {"failed": str(name)}:
                    findings.failures[name] = self._failure(name, line)
                case {"contract": str(name), "parameters": dict(parameters), "returns": dict(returns)}:
                    schemas = self._public(clean_json(parameters)), self._public(clean_json(returns))
                    findings.contracts[name] = Described(
                        *schemas, hidden=line.get("hidden") is True, signature=self._mask(line.get("signature"))
                    )
                case {"unfit": str(name)}:
                    findings.failures[name] = self._unfit(name, line)
                case {"done": True}:
                    done = True
        if not done:
            findings.failures[importing] = self._no_answer(importing, finished)
        return findings

    def _failure(self, name: str, line: Mapping[str, Any]) -> ProbeError:
        kind, message = self._mask(line.get("ename")), self._mask(line.get("evalue"))
        frames = [self._mask(frame) for frame in line.get("traceback") or []]
        extra: dict[str, Any] = {"exception": f"{kind}: {message}", "traceback": frames, "function": name}
        module = self._mask(line.get("module")).split(".")[0]
        if module and module != "aigbb_functions":
            package = DISTRIBUTION_OF.get(module, module)
            return MissingDependency(
                f"{name} imports {module!r}, which none of its packages provides.",
                hint=f"If {package!r} is the package that you mean, add it to `packages`.",
                fix={"packages": [package]},
                **extra,
            )
        return ImportFailed(f"Importing {name} raised {kind}: {message}", **extra)

    def _broken(self, module: str, line: Mapping[str, Any]) -> ProbeError:
        said = f"{self._mask(line.get('ename'))}: {self._mask(line.get('evalue'))}"
        return ImportFailed(
            f"With these packages, {module} itself does not import any more: {said}",
            hint="Nothing was changed. Ask for other versions, or leave the versions out.",
        )

    def _unfit(self, name: str, line: Mapping[str, Any]) -> ProbeError:
        parameter, annotation = self._mask(line.get("parameter")), self._mask(line.get("annotation"))
        reason = self._mask(line.get("reason"))
        where = f"parameter {parameter!r} of {name}" if parameter else name
        extra: dict[str, Any] = {"function": name, "parameter": parameter, "annotation": annotation, "reason": reason}
        hint = _unresolved_hint(self._mask(line.get("unresolved")))
        typed = f", {annotation}," if parameter and annotation else ""
        return SchemaError(f"The type of {where}{typed} has no JSON form.", hint=hint, **extra)

    def _no_answer(self, name: str, finished: sandbox.Finished) -> ProbeError:
        said = self._mask(finished.stderr[-2000:])
        what = f"Importing {name}" if name else "The environment's Python"
        if finished.timed_out:
            return ImportTimeout(f"{what} took longer than {self.timeout:g} s.", function=name, log=said)
        return ProbeCrashed(f"{what} ended the process ({_ending(finished)}).", function=name, log=said)

    def _public(self, node: Any, names: bool = False) -> Any:
        """A schema without secrets: a default that holds one is left out. names: this node's keys are parameters'."""
        match node:
            case dict():
                kept = {k: v for k, v in node.items() if names or k != "default" or not self._holds_secret(v)}
                return {k: self._public(v, not names and k in ("properties", "$defs")) for k, v in kept.items()}
            case list():
                return [self._public(v) for v in node]
            case str():
                return self.mask(node)
        return node

    def _holds_secret(self, value: object) -> bool:
        text = json.dumps(value, ensure_ascii=False)
        return self.mask(text) != text

    def _mask(self, value: object) -> str:
        text = clean(value)
        return self.mask(text.replace(self.home, "(home)") if self.home else text)


def _unresolved_hint(name: str) -> str | None:
    """What to do about a name that an annotation uses and nothing defines; None if that is not it."""
    if not name:
        return None
    return f"Import or define {name!r} at the top of the source; `if TYPE_CHECKING` imports do not exist at run time."


def _lines(stdout: bytes) -> Iterator[Any]:
    """The JSON lines; the process also runs foreign code, so anything else is passed over."""
    for line in stdout.splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _ending(finished: sandbox.Finished) -> str:
    return f"signal {-finished.returncode}" if finished.returncode < 0 else f"exit code {finished.returncode}"
