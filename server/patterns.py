"""Weights of regular expressions: how much a pattern of a schema compiles to, and costs per character."""

from __future__ import annotations

import re
from math import prod

# An escape, a class, a repetition, a parenthesis, or any other character.
_TOKEN = re.compile(
    r"(?P<set>\\[pP]\{[^}]*\}|\\.|\[(?:\\.|[^\]\\])*\]|\.)|\{(?P<low>\d+)(?:,(?P<high>\d*))?\}|(?P<one>.)", re.DOTALL
)
# Nested classes, classes that begin with a bracket, and comments: where groups end is not certain.
_UNCERTAIN = re.compile(r"\(\?\w*x|\[\^?\]|\[[^\]]*\[")
# A class of characters is several states in UTF-8.
_SET = 10


def weight(pattern: str) -> int:
    """Estimate the number of states that a pattern is compiled to: repetitions multiply what they repeat."""
    if _UNCERTAIN.search(pattern):
        return _SET * len(pattern) * prod(_times(each) for each in _TOKEN.finditer(pattern))
    sums, last = [0], 0
    for token in _TOKEN.finditer(pattern):
        if token["one"] == "(":
            sums.append(0)
            continue
        if token["one"] == ")" and len(sums) > 1:
            last = sums.pop()
            added = last
        else:
            times = _times(token)
            added = last * (times - 1) if token["low"] else _SET if token["set"] else 1
            last = last * times if token["low"] else added
        sums[-1] += added
    return sum(sums)


def _times(token: re.Match[str]) -> int:
    """Return how often a repetition repeats at most; 1 for any other token."""
    return max(1, *(int(token[name] or 1) for name in ("low", "high")))
