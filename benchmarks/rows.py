"""A row of the results: one thing done by us and by somebody else, and what the figures should come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.timing import Figures, Sample

Unit = Literal["ms", "/s", "MB", "characters"]


@dataclass(frozen=True, slots=True)
class Goal:
    """Bounds of the ratio ours / other's, and of our own median; all that are given have to hold."""

    at_most: float | None = None
    at_least: float | None = None
    own: float | None = None

    def met(self, ours: float, ratio: float | None) -> bool:
        """Whether the figures are what they should be."""
        bounds = [ours <= self.own] if self.own is not None else []
        bounds += [ratio is not None and ratio <= self.at_most] if self.at_most is not None else []
        bounds += [ratio is not None and ratio >= self.at_least] if self.at_least is not None else []
        return all(bounds)

    def words(self, unit: Unit) -> str:
        """In words."""
        parts = [f"at most {quantity(self.own, unit)}"] if self.own is not None else []
        parts += [f"at most {self.at_most:g}"] if self.at_most is not None else []
        parts += [f"at least {self.at_least:g}"] if self.at_least is not None else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Row:
    """Medians decide. other is None where only our own median counts; goal, where the row is there to compare.

    failed: how many of our requests were refused; then no goal is met.
    """

    case: str
    title: str
    against: str
    ours: Figures
    other: Figures | None
    goal: Goal | None = None
    unit: Unit = "ms"
    failed: int = 0

    @property
    def ratio(self) -> float | None:
        """Our median as a multiple of the other's."""
        return self.ours.p50 / self.other.p50 if self.other and self.other.p50 else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        return self.goal.met(self.ours.p50, self.ratio) and not self.failed if self.goal else None

    @property
    def share(self) -> float | None:
        """The worst figure as a fraction of its bound: at most 1 where all are met. None where a bound is zero."""
        goal, shares = self.goal or Goal(), []
        if goal.own:
            shares.append(self.ours.p50 / goal.own)
        if self.ratio and goal.at_most:
            shares.append(self.ratio / goal.at_most)
        if self.ratio and goal.at_least:
            shares.append(goal.at_least / self.ratio)
        return max(shares, default=None)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


def timed_row(
    case: str, title: str, against: str, ours: Sequence[Sample], other: Sequence[Sample], goal: Goal | None = None
) -> Row:
    """Of samples in milliseconds."""
    return Row(case, title, against, Figures.of(ours), Figures.of(other), goal)


def quantity(value: float, unit: Unit) -> str:
    """With two or three digits."""
    match unit:
        case "ms":
            return duration(value)
        case "/s":
            return f"{_digits(value)}/s"
        case "MB":
            return f"{_digits(value)} MB"
        case "characters":
            return f"{value:,.0f} characters"


def duration(milliseconds: float) -> str:
    """With two or three digits."""
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.2f} s"
    return f"{_digits(milliseconds)} ms"


def ratio(value: float | None) -> str:
    """With two digits that count."""
    if value is None:
        return ""
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:#.2g}"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}" if value < 1 else f"{value:.1f}"
