"""What differs between two versions of a function, as a unified diff."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterator

from kernels.messages import clean
from server.functions import Function

# Pairs of equal lines up to which the lines are compared; that is a source of some thousand lines.
MAX_PAIRS = 200_000


def source_diff(old: Function, new: Function, old_label: str, new_label: str) -> str:
    """The lines of source that differ, with three around them; "" where nothing differs.

    Before the diff proper, which `patch` can apply, stand lines such as `+# packages: six` for the rest of what an
    author gives and for what has changed of it.
    """
    before, after = _lines(old.source), _lines(new.source)
    compare = _replaced if _pairs(before, after) > MAX_PAIRS else difflib.unified_diff
    return clean("".join(_about(old, new)) + "".join(map(_closed, compare(before, after, old_label, new_label))))


def _pairs(before: list[str], after: list[str]) -> int:
    """How many pairs of equal lines there are, which difflib goes through again and again."""
    counts = Counter(after)
    return sum(counts[line] for line in before)


def _replaced(before: list[str], after: list[str], old_label: str, new_label: str) -> Iterator[str]:
    """One hunk that takes out all lines and puts in the new ones: as true, and made in linear time."""
    if before == after:
        return
    yield f"--- {old_label}\n"
    yield f"+++ {new_label}\n"
    yield f"@@ -1,{len(before)} +1,{len(after)} @@\n"
    yield from (f"-{line}" for line in before)
    yield from (f"+{line}" for line in after)


def _lines(source: str) -> list[str]:
    """Split at line feeds only: other signs that `splitlines` knows may stand within a line."""
    *whole, last = source.split("\n")
    return [f"{line}\n" for line in whole] + ([last] if last else [])


def _closed(line: str) -> str:
    return line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def _about(old: Function, new: Function) -> Iterator[str]:
    before, after = _facts(old), _facts(new)
    for name in before:
        if before[name] != after[name]:
            yield from (f"{sign}# {name}: {text}\n" for sign, text in (("-", before[name]), ("+", after[name])) if text)


def _facts(function: Function) -> dict[str, str]:
    """One line of text each, empty where the author gave nothing."""
    listed = ("packages", "env", "secrets", "tags", "bound")
    facts = {
        name: ", ".join(json.dumps(one, ensure_ascii=False)[1:-1] for one in getattr(function, name)) for name in listed
    }
    for name in ("description", "parameters", "returns"):
        said = getattr(function.declared, name)
        facts[f"declared.{name}"] = "" if said is None else json.dumps(said, ensure_ascii=False, sort_keys=True)
    facts["effects"] = function.declared_effects or ""
    facts["confirm"] = "" if function.confirm == "policy" else function.confirm
    facts["network"] = "true" if function.network else ""
    return facts
