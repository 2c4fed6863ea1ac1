"""Schemas and arguments that would keep the validator, which nobody can interrupt, at work for seconds or minutes."""

from __future__ import annotations

import time
from typing import Any

import pytest

from server.arguments import MAX_ERRORS, validate
from server.errors import InvalidSchema
from server.estimates import MAX_STEPS
from server.patterns import weight
from server.schemas import check

# Seconds that no case may take, with room for a busy machine; what is refused would take 1 to 100.
PATIENCE = 2.0


def one(schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A schema of one parameter."""
    return {"type": "object", "properties": {"a": schema}, **more}


def items(schema: Any) -> dict[str, Any]:
    """A schema of one parameter that is a list."""
    return one({"type": "array", "items": schema})


def chain(levels: int) -> dict[str, Any]:
    """Objects in objects."""
    value: dict[str, Any] = {"z": 1}
    for _ in range(levels):
        value = {"n": value}
    return value


CONSTANTS = [{"const": number} for number in range(1_000)]
NEXT = {"$ref": "#/$defs/T"}
FORKED: dict[str, Any] = {
    "anyOf": [
        {"required": ["n"], "properties": {"n": NEXT}},
        {"properties": {"n": NEXT, "z": False}},
        {"properties": {"z": False, "n": NEXT}},
    ]
}
UNEVALUATED: dict[str, Any] = {
    "anyOf": [{"required": ["n"], "properties": {"n": NEXT}}, {"required": ["y"]}],
    "unevaluatedProperties": False,
}
LONG = 10**4000

BOMBS: dict[str, tuple[dict[str, Any], Any]] = {
    "constants": (items({"anyOf": CONSTANTS}), [999] * 20_000),
    "constants, none": (items({"anyOf": CONSTANTS}), [-1] * 20_000),
    "contains": (one({"allOf": [{"not": {"contains": {"const": -n}}} for n in range(1, 1_000)]}), list(range(20_000))),
    "lists": (items({"enum": [[number] for number in range(1_000)]}), [[999]] * 20_000),
    "unique": (one({"allOf": [{"uniqueItems": True}] * 2_000}), [[number] for number in range(50_000)]),
    "pattern": (one({"pattern": "(.{1,100}x){1,20}y"}), "x" * 800_000),
    "names": (one({"patternProperties": {f"(.{{1,9}}x){{1,9}}{n}": {} for n in range(60)}}), {"x" * 800_000: 1}),
    "numbers": (items({"allOf": [{"minimum": number} for number in range(500)]}), [LONG] * 200),
    "divisions": (items({"allOf": [{"multipleOf": 1e-300}] * 500}), [1.5e300] * 20_000),
    "formats": (one({"allOf": [{"format": "idn-hostname"}] * 1_000}), "é." * 200_000),
    "definitions": (
        items({"not": {"$ref": "#/$defs/d0"}}) | {"$defs": {
            **{f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(13)}, "d13": {"type": "string"},
        }}, [1] * 20_000,
    ),
}  # fmt: skip
HEAVY: dict[str, tuple[dict[str, Any], Any]] = {
    "constants": (items({"anyOf": CONSTANTS}), [-1] * 100),
    "lists in choices": (items({"anyOf": [{"items": {"type": "string"}}] * 10}), [[1] * 300] * 10),
    "recursive": (one(NEXT, **{"$defs": {"T": FORKED}}), chain(60)),
    "unevaluated": (one(NEXT, **{"$defs": {"T": UNEVALUATED}}), chain(60)),
    "wrong types": (items({"type": "string"}), [1] * 100_000),
    "names": (one({"additionalProperties": False}), {f"n{number}": 1 for number in range(20_000)}),
    "required": (items({"required": [f"n{number}" for number in range(100)]}), [{}] * 1_000),
}


@pytest.mark.parametrize("case", BOMBS)
def test_arguments_that_would_take_too_long_are_refused(case: str) -> None:
    schema, value = BOMBS[case]
    check(schema)
    began = time.process_time()
    told = validate(schema, {"a": value})
    took = time.process_time() - began
    assert [error["type"] for error in told] == ["too_large"]
    assert f"{MAX_STEPS:,} steps" in told[0]["message"]
    assert took < PATIENCE


@pytest.mark.parametrize("case", HEAVY)
def test_errors_of_many_values_are_told_briefly(case: str) -> None:
    schema, value = HEAVY[case]
    check(schema)
    began = time.process_time()
    told = validate(schema, {"a": value})
    took = time.process_time() - began
    assert 1 <= len(told) <= MAX_ERRORS
    assert told[0]["parameter"] == "a"
    assert took < PATIENCE


ROWS = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "currency": {"enum": [f"C{number}" for number in range(150)]},
        "amount": {"type": "number", "minimum": 0},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z-]+$"}, "uniqueItems": True},
        "parent": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["id", "currency", "amount"],
    "additionalProperties": False,
}
ROW = {"id": "6f9619ff-8b86-4011-b42d-00c04fc964ff", "currency": "C149", "amount": 1.5, "tags": ["new"], "parent": None}
FAIR: dict[str, tuple[dict[str, Any], Any]] = {
    "rows": (items(ROWS), [ROW] * 5_000),
    "numbers": (items({"type": "number"}), [1.5] * 200_000),
    "a text": (one({"type": "string", "minLength": 1, "pattern": r"\S"}), "word " * 150_000),
    "a tree": (one(NEXT, **{"$defs": {"T": {"properties": {"n": NEXT, "z": {"type": "integer"}}}}}), chain(60)),
}


@pytest.mark.parametrize("case", FAIR)
def test_many_values_of_a_usual_schema_are_taken(case: str) -> None:
    schema, value = FAIR[case]
    check(schema)
    assert validate(schema, {"a": value}) == []


@pytest.mark.parametrize(
    ("pattern", "states"),
    [
        ("abc", 3),
        (r"\d{4}", 40),
        ("(ab){10}", 20),
        ("((ab){10}c){10}", 210),
        ("(.{1,100}x){1,20}y", 20_021),
        ("[)]{3}", 30),
    ],
)
def test_repetitions_multiply_the_states_of_a_pattern(pattern: str, states: int) -> None:
    assert weight(pattern) == states


@pytest.mark.parametrize("pattern", ["(x{100}[])]){100}", "(?x)(x{100}#)\n){100}", "(x{100}[a[b])]){100}"])
def test_where_groups_end_uncertainly_all_repetitions_multiply(pattern: str) -> None:
    assert weight(pattern) >= 10_000


@pytest.mark.parametrize("schema", [{"pattern": "(.{1,300}x){1,90}y"}, {"patternProperties": {".{9999}": {}}}])
def test_a_schema_with_patterns_too_large_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidSchema, match="50000 states"):
        check(one(schema))
