"""Estimates of the work that holding arguments against a schema takes, before it is done.

The validator cannot be interrupted, and schemas that somebody wrote can have it work for minutes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import chain
from typing import Any

from server.patterns import weight
from server.schemas import definition, definitions_of, recursive_in

# Steps of some 50 ns each.
MAX_STEPS = 2_000_000

_HERE_ONE = ("not", "if", "then", "else")
_HERE_LIST = ("allOf", "anyOf", "oneOf")
_MEMBERS = ("additionalProperties", "unevaluatedProperties")
_NUMBERS = ("const", "enum", "exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf")
_VALUE = 2
_NODE = 60
_COMPARED = 10
_LISTED = 3
_DIVIDED = 700
_FORMAT = 20
_UNIQUE = 3

Place = tuple[Any, list[Any], int]


class _Definitions:
    """The definitions of a schema. The validator holds a value against a recursive one only once."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._named = definitions_of(schema)
        self._recursive = recursive_in(self._named)
        self._held: set[tuple[str, int]] = set()

    def place(self, name: str, values: list[Any], times: int) -> Place:
        """Those of the values that are yet to be held against a definition."""
        if name not in self._recursive:
            return self._named.get(name), values, times
        inner = [each for each in values if not isinstance(each, (dict, list)) or (name, id(each)) not in self._held]
        self._held |= {(name, id(each)) for each in inner if isinstance(each, (dict, list))}
        return self._named[name], inner, 1


def steps(schema: Mapping[str, Any], arguments: Mapping[str, Any], most: int = MAX_STEPS) -> int:
    """Steps that the validator takes at most, about; more than `most` if it would take more, however many."""
    definitions = _Definitions(schema)
    places: list[Place] = [(schema, [arguments], 1)]
    weigh = cache(weight)
    total = 0
    while places and total <= most:
        node, values, times = places.pop()
        total += times * (_NODE + _VALUE * len(values))
        if not isinstance(node, dict) or not values or total > most:
            continue
        total += times * (_own(node) * len(values) + _read(node, values, weigh))
        if "uniqueItems" in node:
            total += times * _UNIQUE * _size(values)
        if total <= most:
            places += _here(node, values, times, definitions)
            places += ((child, inner, times) for child, inner in _inside(node, values))
    return total


def _own(node: Mapping[str, Any]) -> int:
    """Steps of one object of a schema for one value, without schemas in it and without the value's length."""
    found = len(node) + sum(len(node.get(name, ())) for name in ("properties", "required", "prefixItems"))
    found += sum(map(len, node.get("dependentRequired", {}).values()))
    found += (_DIVIDED if "multipleOf" in node else 0) + (_FORMAT if "format" in node else 0)
    found += _COMPARED * _size(node["const"]) if "const" in node else 0
    choices = node.get("enum", ())
    if not all(isinstance(each, str) for each in choices):  # texts are looked up
        inner = any(isinstance(each, (dict, list)) for each in choices)
        found += (_COMPARED if inner else _LISTED) * _size(choices)
    return found


def _read(node: Mapping[str, Any], values: list[Any], weigh: Callable[[str], int]) -> int:
    """Steps for the texts, the names and the long numbers among some values."""
    found = 0
    if "pattern" in node or "format" in node:
        each = ("format" in node) + (_per_character(weigh(node["pattern"])) if "pattern" in node else 0)
        found += each * sum(len(value) for value in values if isinstance(value, str))
    if "patternProperties" in node:
        names = sum(len(name) + 1 for value in values if isinstance(value, dict) for name in value)
        found += names * sum(_per_character(weigh(pattern)) for pattern in node["patternProperties"])
    if any(name in node for name in _NUMBERS):
        found += sum(2 * value.bit_length() for value in values if isinstance(value, int) and abs(value) >> 63)
    return found


def _per_character(pattern_weight: int) -> int:
    return 1 + pattern_weight // 20


def _here(node: Mapping[str, Any], values: list[Any], times: int, definitions: _Definitions) -> Iterator[Place]:
    """Schemas about the same values. What is unevaluated has them done again for each member."""
    if "unevaluatedProperties" in node or "unevaluatedItems" in node:
        times *= 2 + max(len(value) if isinstance(value, (dict, list)) else 0 for value in values)
    found = [node[name] for name in _HERE_ONE if name in node]
    found += chain(*(node.get(name, ()) for name in _HERE_LIST), node.get("dependentSchemas", {}).values())
    yield from ((child, values, times) for child in found)
    if (name := definition(node)) is not None:
        yield definitions.place(name, values, times)


def _inside(node: Mapping[str, Any], values: list[Any]) -> Iterator[tuple[Any, list[Any]]]:
    """Schemas about what is in the values, and that."""
    objects = [value for value in values if isinstance(value, dict)]
    lists = [value for value in values if isinstance(value, list)]
    for name, child in node.get("properties", {}).items():
        yield child, [each[name] for each in objects if name in each]
    for child in node.get("patternProperties", {}).values():
        yield child, [value for each in objects for value in each.values()]
    named = node.get("properties", {}).keys()
    for child in (node[name] for name in _MEMBERS if name in node):
        yield child, [value for each in objects for name, value in each.items() if name not in named]
    if "propertyNames" in node:
        yield node["propertyNames"], [name for each in objects for name in each]
    for number, child in enumerate(node.get("prefixItems", ())):
        yield child, [each[number] for each in lists if number < len(each)]
    for child in (node[name] for name in ("items", "contains", "unevaluatedItems") if name in node):
        yield child, [item for each in lists for item in each]


def _size(value: Any) -> int:
    """About how many values there are in a value, texts by their length."""
    text = json.dumps(value)
    return 1 + text.count(",") + text.count(":") + len(text) // 20
