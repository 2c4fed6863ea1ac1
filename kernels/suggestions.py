"""Near matches of a misspelt name, for error messages, at a bounded price."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice

# Comparing two names takes time with the product of their lengths: longer ones have no near match.
MAX_NAME = 80
# Names that one is compared with.
MAX_NAMES = 2_000


def suggestions(name: str, names: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """At most `count` of `names` that are spelt nearly like `name`, the nearest first."""
    if len(name) > MAX_NAME:
        return []
    return difflib.get_close_matches(name, islice(_short(names), MAX_NAMES), count, cutoff)


def _short(names: Iterable[str]) -> Iterable[str]:
    return (each for each in names if len(each) <= MAX_NAME)
