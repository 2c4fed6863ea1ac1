"""Samples, their figures, and the interleaving that lets noise hit every contender alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

# Milliseconds by stage, in order; a sample's time is their sum.
Sample = Mapping[str, float]
Contender = Callable[[int], Sample]


@dataclass
class Watch:
    """Milliseconds by stage; each `lap` ends one."""

    laps: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """A stage ends now."""
        now = time.perf_counter()
        self.laps[stage] = (now - self._last) * 1000
        self._last = now


@dataclass(frozen=True, slots=True)
class Figures:
    """What many samples say. Milliseconds; stages has the median of each."""

    n: int
    p50: float
    least: float
    most: float
    stages: Mapping[str, float]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Figures:
        """Of at least one sample; all have the same stages."""
        totals = [sum(sample.values()) for sample in samples]
        stages = {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}
        return cls(len(samples), statistics.median(totals), min(totals), max(totals), stages)


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to do, done by us and by plain jupyter_client."""

    name: str
    title: str
    plain_way: str
    ours: Figures
    plain: Figures

    @property
    def ratio(self) -> float:
        """Our time as a fraction of the plain one, by medians: below 1 is faster."""
        return self.ours.p50 / self.plain.p50

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "ratio": self.ratio}


def interleave(
    rounds: int, warm_up: int, contenders: Mapping[str, Contender], pause: Callable[[], None]
) -> dict[str, list[Sample]]:
    """Each contender in turn, round after round, with an untimed pause before each. Warm-up rounds are dropped.

    A contender is given a number that no other sample of it has.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in contenders}
    for number in range(warm_up + rounds):
        for name, run in contenders.items():
            pause()
            sample = run(number)
            if number >= warm_up:
                samples[name].append(sample)
    return samples


def spin() -> float:
    """Milliseconds of a fixed piece of work: how steady the machine is."""
    watch = Watch()
    sum(i * i for i in range(200_000))
    watch.lap("spin")
    return watch.laps["spin"]
