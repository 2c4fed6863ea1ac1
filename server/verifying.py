"""Proves, in the environment that would serve, that functions import, and asks it for their schemas."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kernels import sandbox
from kernels.environments import Generation
from kernels.errors import AigbbError
from kernels.home import Home
from kernels.packages import Lock
from kernels.probing import Probe
from kernels.progress import Report, Step
from server.errors import WouldBreak
from server.functions import Function, Parsed
from server.registry import State
from server.settings import Settings
from server.snapshots import PACKAGE

# Imported once in a new environment, so that bytecode and font caches are there before the first caller.
WARM = {
    "ipykernel": "ipykernel.kernelapp",
    "pydantic": "pydantic",
    "numpy": "numpy",
    "pandas": "pandas",
    "matplotlib": "matplotlib.pyplot",
}


@dataclass(frozen=True)
class Trial:
    """What is to be proved: a state, written as a snapshot, in a generation.

    previous is the lock of the generation before, where this one is new; None where it serves already.
    """

    generation: Generation
    snapshot: Path
    after: State
    parsed: Sequence[Parsed]
    removed: Collection[str]
    is_new: bool
    previous: Lock | None


@dataclass(frozen=True)
class Verifier:
    """Asks by a child process with a kernel's environment."""

    settings: Settings
    home: Home

    async def verify(self, trial: Trial, report: Report) -> list[Function]:
        """Import what the change touches; returns the changed functions with their schemas.

        Raises ProbeError's children for those, WouldBreak for other functions.
        """
        changed = [p.function.name for p in trial.parsed]
        names = [*changed, *_others(trial, changed)]
        warm = _warm(trial)
        if not names and not warm:
            return []
        what = "1 function" if len(names) == 1 else f"{len(names)} functions"
        report(Step("verify", f"Importing {what} in {trial.generation.kernel_name}"))
        findings = await self._probe(trial).ask(trial.generation, trial.snapshot, names, describe=changed, warm=warm)
        _raise_failures(findings.failures, changed)
        return [_with_schema(p, findings.schemas[p.function.name]) for p in trial.parsed]

    def _probe(self, trial: Trial) -> Probe:
        passed, python = self.settings.kernel_environment(), trial.generation.python
        env = sandbox.kernel_environment(python, self.home.work, self.home.cache, passed)
        secrets = tuple(trial.after.variables_in_use().values())
        return Probe(env, self.home.work, self.settings.import_timeout, secrets)


def _others(trial: Trial, changed: Collection[str]) -> list[str]:
    """All other functions in a new environment; else those whose source may import one that goes."""
    active = [version.function for version in trial.after.active.values() if version.function.name not in changed]
    if trial.is_new:
        return [f.name for f in active]
    return [f.name for f in active if PACKAGE in f.source and any(name in f.source for name in trial.removed)]


def _warm(trial: Trial) -> list[str]:
    """The default packages that a new environment has in another version than the one before it."""
    if not trial.is_new:
        return []
    old = trial.previous.pins if trial.previous else {}
    return [module for name, module in WARM.items() if trial.generation.lock.pins.get(name) != old.get(name)]


def _with_schema(parsed: Parsed, schema: Mapping[str, object]) -> Function:
    """A function with its parameters' schema, without the defaults that are computed at each call."""
    copy: dict[str, Any] = json.loads(json.dumps(schema))
    properties = copy.get("properties", {})
    for name in parsed.computed & properties.keys():
        properties[name].pop("default", None)
    return replace(parsed.function, parameters=copy)


def _raise_failures(failures: Mapping[str, AigbbError], changed: Collection[str]) -> None:
    """The author's own failure first; those of other functions mean that the packages would break them."""
    for name in changed:
        if name in failures:
            raise failures[name]
    if "" in failures:
        raise failures[""]
    if failures:
        broken = [{"function": name, "error": error.detail} for name, error in failures.items()]
        listed = ", ".join(sorted(failures))
        raise WouldBreak(f"With these packages, {listed} would not import any more.", functions=broken)
