"""Samples, their figures, and the interleaving that lets noise hit every contender alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

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
    """What many samples say, in their row's unit; low and high hold the middle half, stages the median of each."""

    n: int
    p50: float
    low: float
    high: float
    p99: float
    stages: Mapping[str, float]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Figures:
        """Of at least one sample; all have the same stages."""
        totals = [sum(sample.values()) for sample in samples]
        stages = {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}
        p50, low, high, p99 = (percentile(totals, share) for share in (0.5, 0.25, 0.75, 0.99))
        return cls(len(totals), p50, low, high, p99, stages)

    @classmethod
    def plain(cls, values: Sequence[float]) -> Figures:
        """Of at least one value without stages."""
        return cls.of([{"all": value} for value in values])


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of at least one value lies, between neighbours in proportion."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def interleave(
    rounds: int, warm_up: int, contenders: Mapping[str, Contender], pause: Callable[[], None] = lambda: None
) -> dict[str, list[Sample]]:
    """Each contender in turn, round after round, with an untimed pause before each. Warm-up rounds are dropped.

    A contender is given a number that no other sample of it has. One that does not answer at all is left with the
    samples that it has: kernel_gateway's notebook-http mode sometimes waits for ever for a message that it missed.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in contenders}
    runners = dict(contenders)
    for number in range(warm_up + rounds):
        for name, run in list(runners.items()):
            pause()
            try:
                sample = run(number)
            except TimeoutError:
                del runners[name]
                continue
            if number >= warm_up:
                samples[name].append(sample)
    return samples


def spin() -> float:
    """Milliseconds of a fixed piece of work: how steady the machine is."""
    watch = Watch()
    sum(i * i for i in range(200_000))
    watch.lap("spin")
    return watch.laps["spin"]
