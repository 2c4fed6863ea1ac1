"""Example values: one valid, readable instance of a JSON Schema."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import jsonschema_rs

from server.functions import Function
from server.schemas import definition

# A sample is for reading: past so many values or levels it is cut short, and may then not be valid.
MAX_VALUES = 500
MAX_LEVELS = 60
MAX_LENGTH = 1_000
MAX_ITEMS = 20

_TEXTS: Mapping[str, str] = {
    "base64": "aGVsbG8=",
    "binary": "hello",
    "date": "2025-01-31",
    "date-time": "2025-01-31T09:30:00Z",
    "directory-path": "data",
    "duration": "P1D",
    "email": "name@example.com",
    "file-path": "notes.txt",
    "hostname": "example.com",
    "idn-email": "name@example.com",
    "idn-hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv4interface": "192.0.2.1/24",
    "ipv4network": "192.0.2.0/24",
    "ipv6": "2001:db8::1",
    "ipv6interface": "2001:db8::1/32",
    "ipv6network": "2001:db8::/32",
    "ipvanyaddress": "192.0.2.1",
    "ipvanyinterface": "192.0.2.1/24",
    "ipvanynetwork": "192.0.2.0/24",
    "iri": "https://example.com/",
    "iri-reference": "https://example.com/",
    "json-pointer": "/name",
    "json-string": "{}",
    "password": "secret",
    "path": "notes.txt",
    "regex": "[a-z]+",
    "relative-json-pointer": "0",
    "time": "09:30:00Z",
    "uri": "https://example.com/",
    "uri-reference": "https://example.com/",
    "uri-template": "https://example.com/{name}",
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
}
# Tried in turn for a pattern; runs of one kind of character in every length up to 12 come after them.
_WORDS = (
    "text",
    "TEXT",
    "Text",
    "1",
    "1.5",
    "1.0.0",
    "a1",
    "A1",
    "AB-12",
    "AB12",
    "AB1234",
    "ab-cd",
    "#a1b2c3",
    "#A1B2C3",
    "+15550100",
    "555-0100",
    "12:30",
    "a.b",
    "a/b",
    "a_b",
    *sorted(set(_TEXTS.values())),
)
_RUNS = ("1", "A", "a", "f", "-", " ")


def sample_arguments(function: Function) -> dict[str, Any]:
    """Example arguments for a function: those that it requires."""
    value = sample({"type": "object", **function.parameters})
    return value if isinstance(value, dict) else {}


def sample(schema: Mapping[str, Any] | bool) -> Any:
    """One example of a JSON Schema, valid wherever that can be told; the same schema gives the same example."""
    definitions = schema.get("$defs", {}) if isinstance(schema, Mapping) else {}
    return _Sampler(definitions).make(schema)


class _Sampler:
    """Makes the values of one sample; `open` are the definitions that it is inside of."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._open: list[str] = []
        self._left = MAX_VALUES
        self._level = 0

    def make(self, schema: Any) -> Any:
        """A value of a schema, or None where nothing can be made."""
        if not isinstance(schema, Mapping) or not schema:
            return "text" if schema is True or schema == {} else None
        if self._left < 0 or self._level > MAX_LEVELS:
            return None
        self._left -= 1
        self._level += 1
        try:
            given = list(self._given(schema))
            for value in filter(self._test(schema), given) if given else ():
                return value
            return self._composed(schema)
        finally:
            self._level -= 1

    def _given(self, schema: Mapping[str, Any]) -> Iterator[Any]:
        """What the author wrote down."""
        yield from schema.get("examples", ())
        yield from (schema[key] for key in ("default", "const") if key in schema)
        yield from schema.get("enum", ())

    def _test(self, schema: Mapping[str, Any]) -> Callable[[Any], bool]:
        """Says of a value whether it is valid."""
        try:
            return jsonschema_rs.Draft202012Validator(
                {"$defs": self._definitions, **schema},
                validate_formats=True,
                pattern_options=jsonschema_rs.RegexOptions(),
                offline=True,
            ).is_valid
        except ValueError:  # a pattern that the validator does not take, or a reference that leads nowhere
            return lambda value: False

    def _composed(self, schema: Mapping[str, Any]) -> Any:
        name = definition(schema)
        if name is not None:
            return self._referred(name, schema)
        rest = {key: value for key, value in schema.items() if key not in ("allOf", "anyOf", "oneOf")}
        if "allOf" in schema:
            return self.make(_joined([rest, *(self._target(part) for part in schema["allOf"])]))
        branches = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
        return self._chosen(schema, rest, branches) if branches else self._typed(schema)

    def _referred(self, name: str, schema: Mapping[str, Any]) -> Any:
        if name not in self._definitions:
            return None
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        self._open.append(name)
        try:
            return self.make(_joined([self._definitions[name], beside]) if beside else self._definitions[name])
        finally:
            self._open.pop()

    def _target(self, schema: Any) -> Any:
        return self._definitions.get(definition(schema) or "", schema) if isinstance(schema, Mapping) else schema

    def _chosen(self, schema: Mapping[str, Any], rest: Mapping[str, Any], branches: list[Any]) -> Any:
        """A value of the first branch that gives a valid one; branches that go round come last, null before them."""
        last, fits = None, self._test(schema)
        for branch in sorted(branches, key=self._reluctance):
            last = self.make(_joined([rest, branch]) if rest else branch)
            if self._left < 0 or fits(last):
                break
        return last

    def _reluctance(self, branch: Any) -> int:
        if not isinstance(branch, Mapping):
            return 0
        return 2 if definition(branch) in self._open else 1 if branch.get("type") == "null" else 0

    def _typed(self, schema: Mapping[str, Any]) -> Any:
        types = schema.get("type", _implied(schema))
        types = [types] if isinstance(types, str) else types
        match next((name for name in types if name != "null"), "null"):
            case "object":
                return self._object(schema)
            case "array":
                return self._array(schema)
            case "string" if "contentSchema" in schema:
                return json.dumps(self.make(schema["contentSchema"]))
            case "string":
                return self._first(schema, _texts(schema))
            case "boolean":
                return True
            case "integer":
                return self._first(schema, _numbers(schema, [1]))
            case "number":
                return self._first(schema, _numbers(schema, [1.5]))
        return None

    def _first(self, schema: Mapping[str, Any], candidates: Iterator[Any]) -> Any:
        """The first valid one of some values, or the first of all."""
        fits, first = self._test(schema), next(candidates)
        return first if fits(first) else next(filter(fits, candidates), first)

    def _object(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """What is required, and more only to reach the least number of members."""
        properties, required = schema.get("properties", {}), list(schema.get("required", ()))
        least = min(schema.get("minProperties", 0), MAX_ITEMS)
        optional = [name for name in properties if name not in required]
        names = required + optional[: max(0, least - len(required))]
        more = schema.get("additionalProperties", True)
        result = {name: self.make(properties.get(name, more)) for name in names if self._left > 0}
        for number in range(1, least + 1):
            if len(result) < least and self._left > 0:
                result.setdefault(f"name{number}", self.make(more))
        return result

    def _array(self, schema: Mapping[str, Any]) -> list[Any]:
        result = [self.make(part) for part in schema.get("prefixItems", ())]
        items, least = schema.get("items", True), schema.get("minItems", 0)
        if "contains" in schema:
            result.append(self.make(schema["contains"]))
        empty = not result and not least
        if empty and (schema.get("maxItems", 1) < 1 or items in (True, False) or self._goes_round(items)):
            return result
        wanted = min(max(least, 0 if result else 1), MAX_ITEMS)
        while len(result) < wanted and self._left > 0:
            result.append(self._another(items, result) if schema.get("uniqueItems") else self.make(items))
        return result

    def _goes_round(self, items: Any) -> bool:
        return isinstance(items, Mapping) and definition(items) in self._open

    def _another(self, items: Any, before: list[Any]) -> Any:
        """A value that is not among those before."""
        value = self.make(items)
        shape = items if isinstance(items, Mapping) else {}
        values = [*self._given(shape), value, *_variants(value)]
        fits = self._test(shape)
        return next((v for v in values if v not in before and fits(v)), value)


def _joined(schemas: list[Any]) -> dict[str, Any]:
    """Several schemas as one: members and required names of all, otherwise the last word."""
    result: dict[str, Any] = {}
    for schema in schemas:
        if not isinstance(schema, Mapping):
            continue
        properties = {**result.get("properties", {}), **schema.get("properties", {})}
        required = list(dict.fromkeys([*result.get("required", ()), *schema.get("required", ())]))
        result |= schema
        result |= ({"properties": properties} if properties else {}) | ({"required": required} if required else {})
    return result


def _implied(schema: Mapping[str, Any]) -> str:
    """The type that a schema without one speaks of."""
    if schema.keys() & {"properties", "required", "additionalProperties", "minProperties"}:
        return "object"
    if schema.keys() & {"items", "prefixItems", "minItems", "contains", "uniqueItems"}:
        return "array"
    return "integer" if schema.keys() & {"minimum", "maximum", "multipleOf"} else "string"


def _variants(value: Any) -> Iterator[Any]:
    for number in range(2, MAX_ITEMS + 2):
        if isinstance(value, str):
            yield f"{value}{number}"
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield value + number - 1
    yield from (False, None) if isinstance(value, bool) else ()


def _texts(schema: Mapping[str, Any]) -> Iterator[str]:
    base = _TEXTS.get(str(schema.get("format")), "text")
    yield base
    least, most = min(schema.get("minLength", 0), MAX_LENGTH), schema.get("maxLength", MAX_LENGTH)
    yield (base * (least // len(base) + 1))[: max(least, min(len(base), most))]
    if "pattern" in schema:
        yield from _WORDS
        yield from (run * length for run in _RUNS for length in range(1, 13))
        yield from (str(schema["pattern"]).strip("^$"), "")


def _numbers(schema: Mapping[str, Any], base: list[float]) -> Iterator[float]:
    """Round numbers, the limits and their neighbours, and a multiple within them."""
    limits = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
    given = [schema[key] for key in limits if isinstance(schema.get(key), (int, float))]
    yield from [*base, 1, 0, 10, 100]
    for limit in given:
        yield from (limit, limit + 1, limit - 1)
    with suppress(OverflowError):  # limits may be beyond what a float holds
        if len(given) > 1:
            yield (given[0] + given[-1]) / 2
        if step := schema.get("multipleOf"):
            for limit in [*given, 0]:
                steps = math.floor(limit / step)
                yield from (number * step for number in (steps, steps + 1, steps - 1))
