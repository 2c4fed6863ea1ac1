"""Arguments as JSON: what they are bound to, what was meant where they do not fit, and what is told of wrong ones."""

from __future__ import annotations

import datetime
import decimal
import enum
import functools
import json
import pathlib
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, Unpack

import pytest
from pydantic import BaseModel, Field, PositiveInt, field_validator
from typing_extensions import TypedDict

from kernels.inside.contract import Contract, Unfit, WrongArguments


class Stop(BaseModel):
    city: str
    nights: int = 1
    tags: list[str] = []


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]
    loud: bool = False


class Colour(enum.Enum):
    RED = "red"


class Pair(NamedTuple):
    left: int
    right: str = "r"


class Person(TypedDict):
    name: str
    age: NotRequired[int]


@dataclass
class Point:
    x: int
    y: int = 0


class Picky(BaseModel):
    secret: str

    @field_validator("secret")
    @classmethod
    def never(cls, value: str) -> str:
        """Refuse."""
        raise ValueError("that is not it")


@dataclass(frozen=True)
class Bind:
    """A function, the arguments of one call, and what they become: positional ones and those by name."""

    function: Callable[..., Any]
    arguments: dict[str, Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


def integer(x: int) -> None: ...
def text(x: str) -> None: ...
def defaults(x: int = 3, y: list[int] = [], *, z: str = "z") -> None: ...  # noqa: B006
def optional(x: int = 3, y: str | None = "y") -> None: ...
def containers(a: list[int], b: dict[str, int], c: set[int], d: tuple[int, str]) -> None: ...
def stops(stops: list[Stop]) -> None: ...
def stop(stop: Stop) -> None: ...
def union(x: int | list[int]) -> None: ...
def text_or_list(x: str | list[str]) -> None: ...
def anything(x: Any) -> None: ...
def typed(c: Colour, p: Pair, q: Point, r: Person) -> None: ...
def scalars(a: datetime.date, b: uuid.UUID, c: decimal.Decimal, d: pathlib.Path, e: bytes) -> None: ...
def counts(x: dict[str, int]) -> None: ...
def pet(pet: Annotated[Cat | Dog, Field(discriminator="kind")]) -> None: ...
def positional(a: int, b: int = 2, /, c: int = 3) -> None: ...
def variadic(a: int, b: int = 2, *rest: int, c: int = 3, **more: str) -> None: ...
def open_ended(**kwargs: Any) -> None: ...
def unpacked(**more: Unpack[Person]) -> None: ...
def iterable(x: Iterable[int]) -> None: ...
def field_default(x: int = Field(default=5, gt=1), y: int = 1) -> None: ...
def bounded(x: Annotated[int, Field(ge=1, le=10)], y: PositiveInt = 1) -> None: ...
def short(x: Annotated[str, Field(max_length=5)]) -> None: ...
def picky(x: Picky) -> None: ...


BINDS = {
    "a number": Bind(integer, {"x": 3}, kwargs={"x": 3}),
    "text for a number": Bind(integer, {"x": "3"}, kwargs={"x": 3}),
    "text stays text": Bind(text, {"x": "3"}, kwargs={"x": "3"}),
    "text that is JSON stays text": Bind(text, {"x": '{"a": 1}'}, kwargs={"x": '{"a": 1}'}),
    "nothing given": Bind(defaults, {}),
    "some given": Bind(defaults, {"z": "q", "x": "4"}, kwargs={"x": 4, "z": "q"}),
    "null for what may be left out": Bind(defaults, {"x": None, "y": [1]}, kwargs={"y": [1]}),
    "null for what may be null": Bind(optional, {"x": None, "y": None}, kwargs={"y": None}),
    "containers": Bind(
        containers,
        {"a": [1, "2"], "b": {"k": 1}, "c": [1, 1], "d": [1, "x"]},
        kwargs={"a": [1, 2], "b": {"k": 1}, "c": {1}, "d": (1, "x")},
    ),
    "containers as JSON text": Bind(
        containers,
        {"a": "[1, 2]", "b": ' {"k": "1"}', "c": "[1]", "d": '[1, "x"]'},
        kwargs={"a": [1, 2], "b": {"k": 1}, "c": {1}, "d": (1, "x")},
    ),
    "a model": Bind(stop, {"stop": {"city": "Bern"}}, kwargs={"stop": Stop(city="Bern")}),
    "a model as JSON text": Bind(stop, {"stop": '{"city": "Bern"}'}, kwargs={"stop": Stop(city="Bern")}),
    "JSON text inside JSON text": Bind(
        stops,
        {"stops": '["{\\"city\\": \\"Bern\\", \\"tags\\": \\"[]\\"}"]'},
        kwargs={"stops": [Stop(city="Bern", tags=[])]},
    ),
    "JSON text and null inside a list": Bind(
        stops,
        {"stops": [{"city": "Bern", "nights": None}, '{"city": "Thun", "tags": null}']},
        kwargs={"stops": [Stop(city="Bern"), Stop(city="Thun")]},
    ),
    "a union": Bind(union, {"x": [1]}, kwargs={"x": [1]}),
    "JSON text in a union": Bind(union, {"x": "[1, 2]"}, kwargs={"x": [1, 2]}),
    "text wins in a union": Bind(text_or_list, {"x": '["a"]'}, kwargs={"x": '["a"]'}),
    "anything is left as it is": Bind(anything, {"x": "[1]"}, kwargs={"x": "[1]"}),
    "a lone surrogate": Bind(anything, {"x": "\udc80"}, kwargs={"x": "\udc80"}),
    "types of one's own": Bind(
        typed,
        {"c": "red", "p": [1], "q": {"x": 1}, "r": {"name": "A"}},
        kwargs={"c": Colour.RED, "p": Pair(1), "q": Point(1), "r": {"name": "A"}},
    ),
    "types of the standard library": Bind(
        scalars,
        {
            "a": "2024-01-02",
            "b": "12345678123456781234567812345678",
            "c": "1.50",
            "d": "/tmp",
            "e": "x",
        },
        kwargs={
            "a": datetime.date(2024, 1, 2),
            "b": uuid.UUID("12345678-1234-5678-1234-567812345678"),
            "c": decimal.Decimal("1.50"),
            "d": pathlib.Path("/tmp"),
            "e": b"x",
        },
    ),
    "the one that its tag names": Bind(
        pet, {"pet": '{"kind": "dog", "loud": null}'}, kwargs={"pet": Dog(kind="dog", loud=False)}
    ),
    "positional-only": Bind(positional, {"a": 1, "c": 5}, (1,), {"c": 5}),
    "positional-only with a gap": Bind(positional, {"a": 1, "b": 4}, (1, 4)),
    "a list for the rest": Bind(variadic, {"a": 1, "rest": [7, "8"]}, (1, 2, 7, 8)),
    "an empty rest": Bind(variadic, {"a": 1, "rest": []}, (), {"a": 1}),
    "names beyond the named": Bind(variadic, {"a": 1, "c": 4, "d": "x"}, (), {"a": 1, "c": 4, "d": "x"}),
    "the name of **kwargs is one of them": Bind(open_ended, {"kwargs": {"a": 1}}, (), {"kwargs": {"a": 1}}),
    "a TypedDict for the names": Bind(unpacked, {"name": "A", "age": "3"}, kwargs={"name": "A", "age": 3}),
    "an iterable is a list": Bind(iterable, {"x": ["1", 2]}, kwargs={"x": [1, 2]}),
    "a default that is a Field": Bind(field_default, {}, kwargs={"x": 5}),
    "partial": Bind(functools.partial(defaults, 1), {"z": "q"}, kwargs={"z": "q"}),
    "cached": Bind(functools.lru_cache(integer), {"x": "1"}, kwargs={"x": 1}),
    "a callable object": Bind(functools.partial(Point), {"x": "1"}, kwargs={"x": 1}),
}


@pytest.mark.parametrize("bind", BINDS.values(), ids=BINDS.keys())
def test_arguments_become_what_the_function_takes(bind: Bind) -> None:
    before = json.dumps(bind.arguments)
    args, kwargs = Contract(bind.function).bind(bind.arguments)
    assert (args, kwargs) == (bind.args, bind.kwargs)
    assert [type(v) for v in kwargs.values()] == [type(bind.kwargs[k]) for k in kwargs]
    assert json.dumps(bind.arguments) == before
    bind.function(*args, **kwargs)


def wrong(parameter: str, message: str, kind: str, path: str = "", **more: str) -> dict[str, str]:
    """An entry."""
    return {"parameter": parameter, "path": path, "message": message, "type": kind, **more}


NO_INTEGER = "Input should be a valid integer"
REQUIRED = "This argument is required"
UNKNOWN = "There is no such argument"

WRONG: dict[str, tuple[Callable[..., Any], dict[str, Any], list[dict[str, str]]]] = {
    "missing": (integer, {}, [wrong("x", REQUIRED, "missing_argument")]),
    "unexpected": (
        stops,
        {"stops": [], "colour": 1},
        [wrong("colour", UNKNOWN, "unexpected_argument")],
    ),
    "misspelt": (
        defaults,
        {"zz": "q"},
        [wrong("zz", UNKNOWN, "unexpected_argument", suggestion="z")],
    ),
    "of another type": (text, {"x": 3}, [wrong("x", "Input should be a valid string", "string_type")]),
    "null for what is required": (integer, {"x": None}, [wrong("x", NO_INTEGER, "int_type")]),
    "text that is no number": (
        integer,
        {"x": "three"},
        [wrong("x", f"{NO_INTEGER}, unable to parse string as an integer", "int_parsing")],
    ),
    "JSON text for a number is told as text": (
        integer,
        {"x": "[3]"},
        [wrong("x", f"{NO_INTEGER}, unable to parse string as an integer", "int_parsing")],
    ),
    "JSON text that is too long is told as text": (
        short,
        {"x": '{"a": 1}'},
        [wrong("x", "String should have at most 5 characters", "string_too_long")],
    ),
    "wrong inside JSON text": (
        stop,
        {"stop": '{"city": 3}'},
        [wrong("stop", "Input should be a valid string", "string_type", "city")],
    ),
    "missing inside": (stops, {"stops": [{}]}, [wrong("stops", "Field required", "missing", "0.city")]),
    "several inside one": (
        stops,
        {"stops": [{"city": 1}, {"city": "Bern", "nights": "x"}]},
        [
            wrong(
                "stops",
                f"0.city: Input should be a valid string; 1.nights: {NO_INTEGER}, unable to parse string as an integer",
                "string_type",
            )
        ],
    ),
    "no member of a union": (
        union,
        {"x": "a"},
        [
            wrong(
                "x",
                f"{NO_INTEGER}, unable to parse string as an integer; Input should be a valid array",
                "int_parsing",
            )
        ],
    ),
    "many": (
        counts,
        {"x": dict.fromkeys("abcdefg", "z")},
        [
            wrong(
                "x",
                "".join(f"{key}: {NO_INTEGER}, unable to parse string as an integer; " for key in "abcde")
                + "and 2 more",
                "int_parsing",
            )
        ],
    ),
    "null in a dict is no missing key": (counts, {"x": {"a": None}}, [wrong("x", NO_INTEGER, "int_type", "a")]),
    "no tag of the union": (
        pet,
        {"pet": {"kind": "SENT"}},
        [wrong("pet", "'kind' should be one of 'cat', 'dog'", "union_tag_invalid")],
    ),
    "an item that is checked before the function runs": (
        iterable,
        {"x": [1, "SENT"]},
        [wrong("x", f"{NO_INTEGER}, unable to parse string as an integer", "int_parsing", "1")],
    ),
    "several parameters": (
        bounded,
        {"x": 11, "y": 0},
        [
            wrong("x", "Input should be less than or equal to 10", "less_than_equal"),
            wrong("y", "Input should be greater than 0", "greater_than"),
        ],
    ),
    "the author's own check": (
        picky,
        {"x": {"secret": "SENT"}},
        [wrong("x", "Value error, that is not it", "value_error", "secret")],
    ),
    "the rest": (
        variadic,
        {"a": 1, "rest": [1, "q"]},
        [wrong("rest", f"{NO_INTEGER}, unable to parse string as an integer", "int_parsing", "1")],
    ),
    "a lone surrogate": (
        short,
        {"x": "\udc80"},
        [wrong("x", "Input should be a valid string, unable to parse raw data as a unicode string", "string_unicode")],
    ),
}


@pytest.mark.parametrize(("function", "arguments", "expected"), WRONG.values(), ids=WRONG.keys())
def test_wrong_arguments_are_told_once_a_parameter(
    function: Callable[..., Any], arguments: dict[str, Any], expected: list[dict[str, str]]
) -> None:
    with pytest.raises(WrongArguments) as caught:
        Contract(function).bind(arguments)
    assert caught.value.errors == expected
    assert "SENT" not in str(caught.value)


def test_a_message_is_bounded_however_much_is_wrong() -> None:
    with pytest.raises(WrongArguments) as caught:
        Contract(stops).bind({"stops": [{"n" * 1000: 1}] * 1000, "q" * 5000: 1})
    assert len(json.dumps(caught.value.errors)) < 4000


def test_a_mutable_default_stays_the_functions_own() -> None:
    def gather(item: int, into: list[int] = []) -> list[int]:  # noqa: B006
        into.append(item)
        return into

    for item in (1, 2):
        args, kwargs = Contract(gather).bind({"item": item})
        gathered = gather(*args, **kwargs)
    assert gathered == [1, 2]


def test_deeply_nested_arguments_are_taken_as_they_are() -> None:
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    assert Contract(anything).bind({"x": deep}) == ((), {"x": deep})


def test_a_null_is_left_out_of_recursive_models() -> None:
    class Tree(BaseModel):
        value: int = 0
        children: list[Tree] = []

    def grow(tree: Tree) -> None: ...

    sent = {"tree": {"children": [{"children": [{"value": None, "children": None}]}]}}
    Tree.model_rebuild(_types_namespace={"Tree": Tree})
    grow.__annotations__ = {"tree": Tree}
    assert Contract(grow).bind(sent) == ((), {"tree": Tree(children=[Tree(children=[Tree()])])})


# -- signatures that the source and the function do not share


def hide(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator without functools.wraps."""

    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return inner


WRITTEN: Sequence[Mapping[str, Any]] = [
    {"name": "x", "optional": False},
    {"name": "y", "optional": True, "computed_default": False},
]


def test_hidden_parameters_are_taken_by_their_written_names() -> None:
    contract = Contract(hide(lambda x, y=2: (x, y)), WRITTEN)
    assert contract.hidden
    args, kwargs = contract.bind({"x": 1})
    assert (args, kwargs) == ((), {"x": 1})
    assert contract.function(*args, **kwargs) == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "parameter", "kind"),
    [({}, "x", "missing_argument"), ({"x": 1, "xx": 2}, "xx", "unexpected_argument")],
)
def test_hidden_parameters_are_still_checked_by_name(arguments: dict[str, Any], parameter: str, kind: str) -> None:
    with pytest.raises(WrongArguments) as caught:
        Contract(hide(integer), WRITTEN).bind(arguments)
    assert [(e["parameter"], e["type"]) for e in caught.value.errors] == [(parameter, kind)]


def test_a_signature_as_written_is_not_hidden() -> None:
    assert not Contract(integer, [{"name": "x", "optional": False}]).hidden
    assert not Contract(hide(integer)).hidden


def test_a_computed_default_is_no_part_of_the_schema() -> None:
    def today(day: datetime.date = datetime.date(2024, 1, 2)) -> None: ...

    today.__annotations__ = {"day": datetime.date, "return": None}
    shown = Contract(today).parameters()["properties"]["day"]
    assert shown == {"type": "string", "format": "date", "default": "2024-01-02"}
    computed = Contract(today, [{"name": "day", "optional": True, "computed_default": True}])
    assert computed.parameters()["properties"]["day"] == {"type": "string", "format": "date"}
    assert computed.bind({}) == ((), {})


def test_a_declared_function_takes_what_its_types_cannot_check() -> None:
    def call(f: Callable[[], int], x: int) -> None: ...

    call.__annotations__ = {"f": Callable[[], int], "x": int}
    with pytest.raises(Unfit):
        Contract(call).parameters()
    assert Contract(call, declared=True).bind({"f": "name", "x": "1"}) == ((), {"f": "name", "x": 1})


@pytest.mark.parametrize("odd", [type("Odd", (), {"__signature__": 3, "__call__": iter})(), min])
def test_what_has_no_signature_is_unfit(odd: Any) -> None:
    with pytest.raises(Unfit) as caught:
        Contract(odd)
    assert caught.value.parameter is None


def test_a_signature_is_shown_even_with_a_hostile_default() -> None:
    class Loud:
        def __repr__(self) -> str:
            raise RuntimeError

    def call(x: int = Loud()) -> None: ...  # type: ignore[assignment]

    assert Contract(call).shown("call") == "call(x)"
    assert Contract(positional).shown("p") == "p(a: 'int', b: 'int' = 2, /, c: 'int' = 3) -> 'None'"
