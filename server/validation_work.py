"""Limits of the work that checking arguments against a declared schema may take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema_rs

# Parts of a schema times values, at most: the validator can't be interrupted, and takes some 50 ns for each. To list
# all that is wrong takes a hundred times as long.
MAX_WORK = 4_000_000
MAX_LISTED = MAX_WORK // 100


def count_values(arguments: Mapping[str, Any]) -> int:
    """Count what is in some arguments, level by level: there may be some 300,000 values."""
    level, count = list(arguments.values()), 1
    while level:
        count += len(level)
        lists = [each for each in level if isinstance(each, list)]
        level = [item for each in level if isinstance(each, dict) for item in each.values()]
        level += [item for each in lists for item in each]
    return count


def list_errors(
    validator: jsonschema_rs.Validator, arguments: Mapping[str, Any], *, first: bool
) -> list[jsonschema_rs.ValidationError]:
    """List all that is wrong, or what is found first."""
    if not first:
        return list(validator.iter_errors(arguments))
    try:
        validator.validate(arguments)
    except jsonschema_rs.ValidationError as error:
        return [error]
    return []
