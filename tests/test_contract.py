"""A function's contract: the exact schema that its signature means, asked in the real environment."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kernels import sandbox
from kernels.environments import Generation
from kernels.errors import SchemaError
from kernels.home import Home
from kernels.probing import Findings, Probe
from server.functions import Function
from server.reading import read
from server.snapshots import write_snapshot

HEAD = """
import dataclasses, datetime, decimal, enum, functools, ipaddress, pathlib, uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, Optional, TypedDict, TypeVar, Union
import typing_extensions
from typing_extensions import Doc, TypeAliasType
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, Json, PositiveInt, RootModel, StringConstraints, conint
class Odd: ...
class Place(BaseModel):
    city: str
    zip: int = 0
@dataclasses.dataclass
class Coordinates:
    x: int
class Person(TypedDict):
    name: str
class Colour(enum.Enum):
    RED = "red"
"""
FUTURE = "from __future__ import annotations\n"
PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "zip": {"type": "integer", "default": 0}},
    "required": ["city"],
}

# What is written after the arrow, and the schema of the result: empty where nothing can be said.
RESULTS: list[tuple[str, dict[str, Any]]] = [
    ("None", {"type": "null"}),
    ("str", {"type": "string"}),
    ("list[int]", {"type": "array", "items": {"type": "integer"}}),
    ("dict[str, float]", {"type": "object", "additionalProperties": {"type": "number"}}),
    ("set[int]", {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}),
    (
        "tuple[int, str]",
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "maxItems": 2},
    ),
    ("int | None", {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
    ("bytes", {"type": "string", "format": "binary"}),
    ("datetime.date", {"type": "string", "format": "date"}),
    ("datetime.timedelta", {"type": "string", "format": "duration"}),
    ("pathlib.Path", {"type": "string", "format": "path"}),
    ("Literal['a', 'b']", {"type": "string", "enum": ["a", "b"]}),
    ("Annotated[int, 'The count.']", {"type": "integer", "description": "The count."}),
    ("Place", PLACE),
    ("list[Place]", {"$defs": {"Place": PLACE}, "type": "array", "items": {"$ref": "#/$defs/Place"}}),
    ("Coordinates", {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}),
    ("Person", {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}),
    ("Colour", {"type": "string", "enum": ["red"]}),
    ("Any", {}),
    ("Odd", {}),
    ("'Nowhere'", {}),
    ("Callable[[], int]", {}),
    ("typing_extensions.Never", {}),
    ("Iterator[int]", {}),
    ("Iterable[int]", {}),
]

# A parameter that JSON cannot fill.
REFUSED = [
    "Odd",
    "Callable",
    "Callable[[int], int]",
    "Callable[[int], int] | None",
    "type[int]",
    "type",
    "Iterator[int]",
    "typing_extensions.Generator[int, None, None]",
    "list[typing_extensions.Generator[int, None, None]]",
    "typing_extensions.AsyncIterator[int]",
    "range",
    "memoryview",
    "dict[str, list[Odd]]",
    "typing_extensions.Never",
    "'Nowhere'",
    "'list[Nowhere]'",
    "'not an annotation'",
    "Annotated[Odd, 'An odd one.']",
    "Annotated[int, Field(json_schema_extra={'a': object()})]",
]


@dataclass(frozen=True)
class Case:
    """A block of the battery."""

    name: str
    source: str
    parameters: dict[str, Any]
    returns: dict[str, Any]
    hidden: bool


def case(block: str) -> Case:
    """Read one block."""
    matched = re.fullmatch(r"(?s)(.*)\n=> (.*?)(?:\nreturns (.*?))?(\nhidden)?\n?", block)
    assert matched, block
    body, parameters, returns, hidden = matched.groups()
    name = re.findall(r"(?m)^(?:async )?def (\w+)", body)[-1]
    future = FUTURE if body.startswith(FUTURE) else ""
    source = f"{future}{HEAD}{body.removeprefix(FUTURE)}\n"
    return Case(name, source, json.loads(parameters), json.loads(returns or "{}"), hidden is not None)


BATTERY = [case(block) for block in (Path(__file__).parent / "signatures.txt").read_text().split("\n\n")[1:]]


@pytest.fixture(scope="module")
def findings(generation: Generation, home: Home, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """All of the tables, in one look at the real environment."""
    folder = tmp_path_factory.mktemp("battery")
    sources = {c.name: c.source for c in BATTERY}
    sources |= {f"result_{i}": f"{HEAD}def result_{i}() -> {text}: ..." for i, (text, _) in enumerate(RESULTS)}
    sources |= {f"refused_{i}": f"{HEAD}def refused_{i}(ok: int, bad: {text}): ..." for i, text in enumerate(REFUSED)}
    sources |= {f"declared_{i}": f"{HEAD}def declared_{i}(ok: int, bad: {text}): ..." for i, text in enumerate(REFUSED)}
    write_snapshot(folder / "1", [Function(name, source, (), (), "", "") for name, source in sources.items()], {})
    describe = {
        name: {"parameters": written(source, name), "declared": name.startswith("declared_")}
        for name, source in sources.items()
    }
    env = sandbox.kernel_environment(generation.python, folder, {})
    return asyncio.run(Probe(env, folder, 60).ask(generation, folder / "1", list(sources), describe=describe))


def written(source: str, name: str) -> Any:
    """The parameters as the source lists them."""
    return next(d["parameters"] for d in reversed(read(source)["definitions"]) if d["name"] == name)


# -- the battery


def test_the_battery_has_at_least_seventy_signatures() -> None:
    assert len({c.name for c in BATTERY}) == len(BATTERY) >= 70


@pytest.mark.parametrize("expected", BATTERY, ids=lambda c: c.name)
def test_a_signature_has_exactly_this_contract(findings: Findings, expected: Case) -> None:
    assert expected.name not in findings.failures
    found = findings.contracts[expected.name]
    assert found.parameters == expected.parameters
    assert list(found.parameters["properties"]) == list(expected.parameters["properties"])
    assert found.returns == expected.returns
    assert found.hidden == expected.hidden


@pytest.mark.parametrize("index", range(len(RESULTS)), ids=[text for text, _ in RESULTS])
def test_a_result_has_exactly_this_schema(findings: Findings, index: int) -> None:
    assert findings.contracts[f"result_{index}"].returns == RESULTS[index][1]


@pytest.mark.parametrize("index", range(len(REFUSED)), ids=REFUSED)
def test_a_type_that_json_cannot_fill_is_refused_by_name(findings: Findings, index: int) -> None:
    error = findings.failures[f"refused_{index}"]
    assert isinstance(error, SchemaError)
    assert error.extra["parameter"] == "bad"
    assert error.extra["reason"]


@pytest.mark.parametrize("index", range(len(REFUSED)), ids=REFUSED)
def test_an_author_who_declares_the_schema_may_use_any_type(findings: Findings, index: int) -> None:
    found = findings.contracts[f"declared_{index}"]
    assert found.parameters == {
        "type": "object",
        "properties": {"ok": {"type": "integer"}, "bad": {}},
        "required": ["ok", "bad"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("annotation", "name"), [("'Nowhere'", "Nowhere"), ("'list[Nowhere]'", "Nowhere"), ("Odd", None)]
)
def test_a_name_that_nothing_defines_is_said_in_the_hint(findings: Findings, annotation: str, name: str | None) -> None:
    hint = findings.failures[f"refused_{REFUSED.index(annotation)}"].hint
    assert ("TYPE_CHECKING" in hint and repr(name) in hint) == (name is not None)
