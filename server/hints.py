"""What to do next, for the exceptions in callers' code that we can say something about."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kernels.outputs import Error
from kernels.packages import DISTRIBUTION_OF
from kernels.suggestions import suggestions


@dataclass(frozen=True)
class Hint:
    """One sentence, and where a program can apply it, how: the members of `fix`."""

    text: str
    fix: Mapping[str, Any] = field(default_factory=dict)


def hint_for(error: Error | None, signatures: Mapping[str, str]) -> Hint | None:
    """What there is to say of an exception. signatures are those of the functions that code can use, by name."""
    if error is None:
        return None
    match error.ename:
        case "NameError":
            return _misspelt(error, signatures)
        case "ModuleNotFoundError":
            return _missing_module(error)
        case "TypeError":
            return _wrong_arguments(error, signatures)
        case "KeyError":
            return _missing_variable(error)
    return None


def _misspelt(error: Error, signatures: Mapping[str, str]) -> Hint | None:
    match = re.match(r"name '(\w+)' is not defined", error.evalue)
    near = suggestions(match[1], signatures, 1, 0.7) if match else []
    return Hint(f"Did you mean the function {near[0]!r}?", {"replace": {match[1]: near[0]}}) if match and near else None


def _missing_module(error: Error) -> Hint | None:
    if (match := re.match(r"No module named '(\w+)", error.evalue)) is None:
        return None
    package = DISTRIBUTION_OF.get(match[1], match[1])
    text = f'Kernels have what registered functions ask for: register one with "packages": ["{package}"].'
    return Hint(text, {"packages": [package]})


def _wrong_arguments(error: Error, signatures: Mapping[str, str]) -> Hint | None:
    match = re.match(r"(\w+)\(\) (?:got|missing|takes) ", error.evalue)
    return Hint(f"Call it as {signatures[match[1]]}.") if match and match[1] in signatures else None


def _missing_variable(error: Error) -> Hint | None:
    """A name that was looked up in the environment, as the line that raised says."""
    match = re.fullmatch(r"'([A-Za-z_][A-Za-z0-9_]*)'", error.evalue)
    if match is None or not any("environ" in frame for frame in error.traceback):
        return None
    name = match[1]
    text = (
        f'The kernel has no variable {name}: register the function with "env": {{"{name}": "..."}}, '
        f'or with "secrets": ["{name}"] if nobody else may read it.'
    )
    return Hint(text, {"env": [match[1]]})
