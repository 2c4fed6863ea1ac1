"""Proves, in the environment that would serve, that functions import, and asks it for their schemas."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kernels import sandbox
from kernels.confinement import Confinement
from kernels.environments import Generation
from kernels.errors import AigbbError
from kernels.font_lists import FontLists
from kernels.home import Home
from kernels.packages import Lock
from kernels.probing import Described, Findings, Probe
from kernels.progress import Report, Step
from kernels.sandbox import Child
from server.errors import WouldBreak
from server.functions import Function, Parsed, Warn
from server.grants import Grant, GrantStore, granted, ungranted
from server.registry import State
from server.schemas import compose, inline
from server.scrubbing import Scrubber
from server.settings import Settings
from server.snapshots import PACKAGE
from server.vault import Vault

# Imported once in a new environment, so that bytecode and font caches are there before the first caller: kernels may
# not write them. By the distributions that they need, also what they import only for an exception, a picture, a table
# or a completion.
WARM = {
    ("ipykernel",): ("ipykernel.kernelapp",),
    ("debugpy",): ("ipykernel.debugger",),
    ("ipython",): ("IPython.core.completerlib", "IPython.core.debugger", "IPython.extensions.storemagic"),
    ("tornado",): ("tornado.platform.asyncio",),
    ("pydantic",): ("pydantic",),
    ("numpy",): ("numpy",),
    ("pandas",): ("pandas", "pandas.io.formats.html"),
    ("matplotlib",): ("matplotlib.pyplot",),
    ("matplotlib", "matplotlib-inline"): ("matplotlib_inline.backend_inline",),
    ("stack-data",): ("stack_data",),
    ("pygments",): ("pygments.formatters.terminal256",),
    ("jedi",): ("jedi",),
}


@dataclass(frozen=True)
class Trial:
    """What is to be proved: a state, written as a snapshot, in a generation.

    parsed are new, activated names older versions that are to serve again. imported is the lock of an
    environment whose packages were imported before, here or for another home; None if there is none. child has
    been started ahead. grants are those of secrets that the change makes.
    """

    generation: Generation
    snapshot: Path
    after: State
    parsed: Sequence[Parsed]
    activated: Sequence[str]
    removed: Collection[str]
    is_new: bool
    imported: Lock | None
    child: Child | None = None
    grants: Sequence[Grant] = ()


@dataclass(frozen=True)
class Verified:
    """The new functions with their schemas, and what their authors should know, by name."""

    functions: Sequence[Function] = ()
    warnings: Mapping[str, Sequence[Warn]] = field(default_factory=dict)


@dataclass(frozen=True)
class Verifier:
    """Asks by a child process with a kernel's environment."""

    settings: Settings
    home: Home
    vault: Vault
    grants: GrantStore
    confinement: Confinement

    async def warm(self, trial: Trial, report: Report) -> None:
        """Import what a new environment's default packages and new functions use, without any function.

        Raises ImportFailed, ImportTimeout, ProbeCrashed for a default package that is broken.
        """
        imported = {module for parsed in trial.parsed for module in parsed.written.imports}
        needed, used = _needed(trial), sorted(imported - sys.stdlib_module_names)
        if not needed and not used:
            return
        report(Step("verify", f"Importing packages in {trial.generation.kernel_name}"))
        probe = self._probe(trial.generation, str, trial.generation.bytecode)
        if (broken := await probe.warm(trial.generation, trial.snapshot, needed, used)) is not None:
            raise broken

    async def verify(self, trial: Trial, report: Report) -> Verified:
        """Import what the change touches, and see what parameters and results the new functions have.

        Raises ProbeError's children for those, WouldBreak for other functions, SecretsLocked.
        """
        changed = [*(p.function.name for p in trial.parsed), *trial.activated]
        secrets = granted([version.function for version in trial.after.active.values()])
        withheld = {g.function for g in ungranted(self.grants, trial.after) if g not in trial.grants}
        # What lacks a secret that was deleted, or is no longer granted one, is broken already.
        others = [n for n in _others(trial, changed) if all(s in self.vault for s in secrets.get(n, ()))]
        others = [n for n in others if n not in withheld]
        names = [*changed, *others]
        if not names:
            return Verified()
        what = "1 function" if len(names) == 1 else f"{len(names)} functions"
        report(Step("verify", f"Importing {what} in {trial.generation.kernel_name}"))
        variables = Scrubber.masking(trial.after.variables_in_use().values())
        given = {name: self.vault.values(secrets[name]) for name in names if name in secrets and name not in withheld}
        probe = self._probe(trial.generation, lambda text: self.vault.scrubber(variables(text)))
        findings = Findings()
        for part in _apart(names, given):
            found = await probe.ask(
                trial.generation,
                trial.snapshot,
                part,
                describe={p.function.name: _as_written(p) for p in trial.parsed if p.function.name in part},
                imports={p.function.name: p.written.imports for p in trial.parsed if p.function.name in part},
                secrets={name: given[name] for name in part if name in given},
                child=trial.child if part[0] == names[0] else None,
            )
            findings.failures.update(found.failures)
            findings.contracts.update(found.contracts)
            if found.failures:
                break
        _raise_failures(findings.failures, changed, trial)
        described = [(p, findings.contracts[p.function.name]) for p in trial.parsed]
        functions = [_with_schemas(parsed, found) for parsed, found in described]
        return Verified(functions, {p.function.name: _warnings(p, found) for p, found in described})

    async def ahead(self, generation: Generation) -> Child:
        """A child for a later trial in this generation."""
        return await self._probe(generation, str).ahead(generation)

    def _probe(self, generation: Generation, mask: Callable[[str], str], bytecode: Path | None = None) -> Probe:
        passed, python = self.settings.kernel_environment(), generation.python
        env = sandbox.kernel_environment(python, self.home.work, passed)
        cage = self.confinement.probes(self.home, bytecode)
        return Probe(env, self.home.work, self.settings.import_timeout, mask, str(self.home.path), cage)


def _apart(names: Sequence[str], given: Mapping[str, Mapping[str, str]]) -> list[list[str]]:
    """Divide functions by their secrets: no process has some that imported a function without them."""
    parts: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        parts.setdefault(tuple(sorted(given.get(name, ()))), []).append(name)
    return list(parts.values())


def _others(trial: Trial, changed: Collection[str]) -> list[str]:
    """All other functions in a new environment; else those whose source may use one that changes or goes."""
    active = [version.function for version in trial.after.active.values() if version.function.name not in changed]
    if trial.is_new:
        return [f.name for f in active]
    touched = {*changed, *trial.removed}
    return [f.name for f in active if PACKAGE in f.source and any(name in f.source for name in touched)]


def _needed(trial: Trial) -> list[str]:
    """Modules of the default packages that a new environment has in another version than was imported before."""
    pins, old = trial.generation.lock.pins, trial.imported.pins if trial.imported else {}
    changed = {name for name, version in pins.items() if old.get(name) != version}
    if not FontLists(trial.generation.folder):
        changed.add("matplotlib")
    wanted = [owners for owners in WARM if pins.keys() >= set(owners) and changed & set(owners)]
    return [module for owners in wanted for module in WARM[owners]]


def _as_written(parsed: Parsed) -> dict[str, Any]:
    declared = parsed.function.declared.parameters is not None
    return {"parameters": [dict(p) for p in parsed.function.written], "declared": declared}


def _with_schemas(parsed: Parsed, found: Described) -> Function:
    """A function with the schemas that its author declared, else those found in its environment."""
    function, written = parsed.function, parsed.written
    parameters = function.declared.parameters
    if parameters is None:
        parameters = compose(found.parameters, written.texts)
    returns = function.declared.returns
    if returns is None:
        returns = inline(found.returns)
        if written.result and "description" not in returns:
            returns = returns | {"description": written.result}
    return replace(function, parameters=parameters, returns=returns)


def _warnings(parsed: Parsed, found: Described) -> list[Warn]:
    if not found.hidden or parsed.function.declared.parameters is not None:
        return []
    message = (
        "A decorator hides the signature: parameters may be missing, and types are not checked. Use functools.wraps."
    )
    return [Warn("hidden_signature", message)]


def _raise_failures(failures: Mapping[str, AigbbError], changed: Collection[str], trial: Trial) -> None:
    """The author's own failure first; those of other functions mean that the change would break them."""
    for name in changed:
        if name in failures:
            raise failures[name]
    if "" in failures:
        raise failures[""]
    if failures:
        broken = [{"function": name, "error": error.detail} for name, error in failures.items()]
        listed = ", ".join(sorted(failures))
        if trial.is_new:
            raise WouldBreak(f"With these packages, {listed} would not import any more.", functions=broken)
        cause = f"Without {', '.join(trial.removed)}" if trial.removed else f"With this {', '.join(changed)}"
        hint = "Nothing was changed. Change or delete first what uses it."
        raise WouldBreak(f"{cause}, {listed} would not import any more.", hint=hint, functions=broken)
