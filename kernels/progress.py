"""What long work says while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Phase = Literal["resolve", "download", "install", "verify", "switch"]


@dataclass(frozen=True, slots=True)
class Step:
    """One line of progress: which phase, and what in it."""

    phase: Phase
    message: str


Report = Callable[[Step], None]


def silent(step: Step) -> None:
    """A report that nobody reads."""
