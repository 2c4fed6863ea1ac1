"""How much runs at once. Read with the settings, by commands that start no kernel too: nothing else is imported."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """How much the pool holds.

    spares and max_spares: clean kernels kept ready, always and in demand; max_age and unneeded_seconds: how long.
    running: executions at once. waiting: how many may queue for that, or for one session. sessions: how many at once,
    and idle_seconds until one ends. fork: whether kernels are forked, unless unforkable says why not.
    """

    spares: int = 2
    running: int = 4
    waiting: int = 64
    sessions: int = 16
    idle_seconds: float = 1800.0
    fork: bool = True
    unforkable: str = ""
    max_spares: int = 0
    max_age: float = 3600.0
    unneeded_seconds: float = 30.0
