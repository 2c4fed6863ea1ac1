"""What to do next, for the exceptions in callers' code that we can say something about."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

from kernels.outputs import Error
from kernels.packages import DISTRIBUTION_OF


def hint_for(error: Error | None, functions: Collection[str]) -> str | None:
    """One sentence, or None. `functions` are the names that code can use."""
    if error is None:
        return None
    if error.ename == "NameError" and (match := re.match(r"name '(\w+)' is not defined", error.evalue)):
        near = difflib.get_close_matches(match[1], functions, n=1, cutoff=0.7)
        return f"Did you mean the function {near[0]!r}?" if near else None
    if error.ename == "ModuleNotFoundError" and (match := re.match(r"No module named '(\w+)", error.evalue)):
        package = DISTRIBUTION_OF.get(match[1], match[1])
        return f'Kernels have what registered functions ask for: register one with "packages": ["{package}"].'
    return None
