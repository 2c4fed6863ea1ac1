"""What a function returned: its JSON form, and the text that a model sees."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import json
import pathlib
import re
import subprocess
import sys
import types
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AnyUrl, BaseModel, ConfigDict, SecretStr, field_serializer
from pydantic.dataclasses import dataclass as pydantic_dataclass

from kernels.inside.forms import (
    MARKER,
    MAX_DEPTH,
    NOTHING,
    RECURSIVE,
    TOO_DEEP,
    Content,
    ordered,
    shortened,
    to_content,
    to_json,
)

INSIDE = Path(__file__).parents[1] / "kernels" / "inside"
NAN = float("nan")


class Place(BaseModel):
    city: str
    day: datetime.date | None = None
    share: float = 0.5


class Holder(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    frame: pd.DataFrame
    data: bytes = b""


class Failing(BaseModel):
    x: int

    @field_serializer("x")
    def never(self, value: int) -> int:
        """Fail."""
        raise RuntimeError


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0


@pydantic_dataclass
class Checked:
    day: datetime.date


class Pair(NamedTuple):
    left: int
    right: str


class Colour(enum.Enum):
    RED = "red"


class Unit(enum.StrEnum):
    M = "m"


class Level(enum.IntEnum):
    LOW = 1


class Text(str):
    __slots__ = ()


FRAME = pd.DataFrame({"a": [1, 2], "b": [1.5, NAN], "c": [pd.Timestamp("2024-01-02"), pd.NaT]}, index=["x", "y"])

FORMS: dict[str, tuple[Any, Any]] = {
    "nothing": (None, None),
    "truth": (True, True),
    "number": (3, 3),
    "text": ("ä", "ä"),
    "NaN": (NAN, None),
    "infinity": ([float("inf"), -float("inf")], [None, None]),
    "a number that Python does not write": (10**5000, hex(10**5000)),
    "a lone surrogate": ("a\udc80", "a\N{REPLACEMENT CHARACTER}"),
    "a text's subclass": (Text("t"), "t"),
    "tuple": ((1, "a"), [1, "a"]),
    "set": ({3, 1, 2}, [1, 2, 3]),
    "mixed set": ({"b", 1, None}, ["b", 1, None]),
    "frozenset": (frozenset({"b", "a"}), ["a", "b"]),
    "deque": (collections.deque([1, 2]), [1, 2]),
    "range": (range(3), [0, 1, 2]),
    "views": ([{"a": 1}.keys(), {"a": 1}.values(), {"a": 1}.items()], [["a"], [1], [["a", 1]]]),
    "named tuple": (Pair(1, "r"), [1, "r"]),
    "keys": (
        {1: "a", None: "b", False: "c", 1.5: "d", (1, "x"): "e", Colour.RED: "f", datetime.date(2024, 1, 2): "g"},
        {"1": "a", "null": "b", "false": "c", "1.5": "d", '[1, "x"]': "e", "red": "f", "2024-01-02": "g"},
    ),
    "mappings": (
        [collections.OrderedDict(a=1), collections.Counter("aa"), types.MappingProxyType({"a": 1})],
        [{"a": 1}, {"a": 2}, {"a": 1}],
    ),
    "enums": ([Colour.RED, Unit.M, Level.LOW], ["red", "m", 1]),
    "dataclass": (Point(1, {2}), {"x": 1, "y": [2]}),
    "pydantic dataclass": (Checked(datetime.date(2024, 1, 2)), {"day": "2024-01-02"}),
    "model": (
        Place(city="Bern", day=datetime.date(2024, 1, 2), share=NAN),
        {"city": "Bern", "day": "2024-01-02", "share": None},
    ),
    "model that holds what pydantic does not know": (
        Holder(frame=pd.DataFrame({"a": [1]})),
        {"frame": {"columns": ["a"], "index": [0], "data": [[1]]}, "data": ""},
    ),
    "model with bytes that are no text": (
        Holder(frame=pd.DataFrame(), data=b"\xff"),
        {"frame": {"columns": [], "index": [], "data": []}, "data": "/w=="},
    ),
    "model whose serializer fails": (Failing(x=1), {"x": 1}),
    "date and time": (datetime.datetime(2024, 1, 2, 3, 4, tzinfo=datetime.UTC), "2024-01-02T03:04:00Z"),
    "date": (datetime.date(2024, 1, 2), "2024-01-02"),
    "time": (datetime.time(3, 4), "03:04:00"),
    "duration": (datetime.timedelta(days=1, hours=2), "P1DT2H"),
    "UUID": (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "path": (pathlib.Path("/a b"), "/a b"),
    "decimal": (decimal.Decimal("1.50"), "1.50"),
    "fraction": (fractions.Fraction(1, 2), "1/2"),
    "complex": (1 + 2j, "1+2j"),
    "address": (ipaddress.ip_address("::1"), "::1"),
    "URL": (AnyUrl("https://example.com/"), "https://example.com/"),
    "secret": (SecretStr("hush"), "**********"),
    "pattern": (re.compile("a"), "a"),
    "bytes": ([b"\xff\xfb", bytearray(b"a"), memoryview(b"a")], ["//s=", "YQ==", "YQ=="]),
    "numpy scalars": (
        [np.int64(1), np.float32(0.5), np.bool_(True), np.str_("s"), np.float64(NAN), np.longdouble(0.5)],
        [1, 0.5, True, "s", None, 0.5],
    ),
    "numpy dates": (
        [np.datetime64("2024-01-02T03:04:05"), np.datetime64("NaT"), np.timedelta64(90, "s")],
        ["2024-01-02T03:04:05", None, "PT1M30S"],
    ),
    "array": (np.array([[1.0, NAN], [2.0, 3.0]]), [[1.0, None], [2.0, 3.0]]),
    "array of dates": (np.array(["2024-01-02", "NaT"], dtype="datetime64[D]"), ["2024-01-02", None]),
    "array of objects": (np.array([{1}, None], dtype=object), [[1], None]),
    "array of records": (np.array([(1, "a")], dtype="i4,U1"), [[1, "a"]]),
    "masked array": (np.ma.masked_array([1, 2], [False, True]), [1, None]),
    "DataFrame": (
        FRAME,
        {"columns": ["a", "b", "c"], "index": ["x", "y"], "data": [[1, 1.5, "2024-01-02T00:00:00"], [2, None, None]]},
    ),
    "DataFrame with levels": (
        pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", 1)])),
        {"columns": [["a", 1]], "index": [0], "data": [[1]]},
    ),
    "Series": (pd.Series([1, 2], name="n"), {"name": "n", "index": [0, 1], "data": [1, 2]}),
    "Index": (pd.Index(["a", "b"]), ["a", "b"]),
    "pandas' arrays": ([pd.array([1, None], dtype="Int64"), pd.Categorical(["a"])], [[1, None], ["a"]]),
    "pandas' scalars": (
        [pd.Timestamp("2024-01-02T03:04:05.000000006"), pd.NaT, pd.NA, pd.Timedelta("1D"), pd.Period("2024-01")],
        ["2024-01-02T03:04:05.000000006", None, None, "P1DT0H0M0S", "2024-01"],
    ),
    "class": (int, "<class 'int'>"),
    "exception": (ValueError("x"), "ValueError('x')"),
    "object": (types.SimpleNamespace(a=1), "namespace(a=1)"),
}


@pytest.mark.parametrize(("value", "expected"), FORMS.values(), ids=FORMS.keys())
def test_each_kind_of_value_has_its_form(value: Any, expected: Any) -> None:
    form = to_json(value)
    assert json.loads(json.dumps(form, allow_nan=False)) == form == expected
    assert to_json([value]) == [expected]


def test_iterators_are_not_consumed() -> None:
    numbers, letters = (n for n in (1, 2)), iter("ab")
    forms = to_json({"numbers": numbers, "letters": [letters]})
    assert forms["numbers"].startswith("<generator object")
    assert forms["letters"][0].startswith("<str_")
    assert "generator" in to_content(numbers, 200).head
    assert [*numbers, *letters] == [1, 2, "a", "b"]


def test_an_order_is_the_same_for_what_cannot_be_compared() -> None:
    assert ordered({"b", 1, (2,)}) == ordered({(2,), 1, "b"}) == ["b", 1, (2,)]


def test_what_holds_itself_comes_to_an_end() -> None:
    loop: list[Any] = [1]
    loop.append({"again": loop})
    assert to_json(loop) == [1, {"again": RECURSIVE}]
    assert to_json([loop[1], loop[1]])[1] == {"again": [1, RECURSIVE]}


def test_what_is_too_deep_is_said() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    form = to_json(deep)
    for _ in range(MAX_DEPTH):
        form = form[0]
    assert form[0] == TOO_DEEP


def test_a_small_value_of_endless_size_is_only_named() -> None:
    doubled: Any = []
    for _ in range(60):
        doubled = [doubled, doubled]
    assert to_json(doubled) == "<list with more than 1,000,000 values>"
    assert to_json({"many": range(10**12)}) == "<dict with more than 1,000,000 values>"
    assert to_content(range(10**12), 100) == Content("<range with more than 1,000,000 values>")


def hostile() -> dict[str, Any]:
    """Values whose own code raises what nobody expects. Made in here: pytest looks at what a module holds."""

    class Raising:
        """Raises at every turn."""

        def _raise(self, *_: object) -> Any:
            raise SystemExit("hostile")

        __repr__ = __str__ = __iter__ = __len__ = __eq__ = __getattr__ = _raise
        __hash__ = object.__hash__

        @property
        def __class__(self) -> Any:
            raise SystemExit("hostile")

        @__class__.setter
        def __class__(self, value: Any) -> None:
            raise SystemExit("hostile")

    class RaisingMapping(collections.abc.Mapping[str, int]):
        def __getitem__(self, key: str) -> int:
            raise SystemExit("hostile")

        def __iter__(self) -> Iterator[str]:
            return iter("ab")

        def __len__(self) -> int:
            return 2

    class RaisingText(str):
        __slots__ = ()

        def __str__(self) -> str:
            raise SystemExit("hostile")

    class RaisingKind(type):
        def __getattribute__(cls, name: str) -> Any:
            raise SystemExit("hostile")

    class Odd(metaclass=RaisingKind):
        pass

    return {
        "object": Raising(),
        "mapping": RaisingMapping(),
        "text": RaisingText("text"),
        "class": Odd(),
        "field": Point(Raising()),
    }


@pytest.mark.parametrize("kind", ["object", "mapping", "text", "class", "field"])
def test_hostile_values_become_texts(kind: str) -> None:
    value = hostile()[kind]
    form = to_json([1, value, {"key": value}])
    assert json.loads(json.dumps(form, allow_nan=False)) == form
    assert form[0] == 1
    assert form[1] == form[2]["key"]
    assert 0 < len(to_content(value, 80)) <= 80


def test_an_interrupt_is_not_swallowed() -> None:
    class Interrupting:
        def __repr__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to_json(Interrupting())
    with pytest.raises(KeyboardInterrupt):
        to_content(Interrupting(), 100)


# -- content


CONTENTS: dict[str, tuple[Any, str]] = {
    "nothing": (None, NOTHING),
    "text": ("as it is\n", "as it is\n"),
    "a text's subclass": (Text("t"), "t"),
    "object": ({"a": [1, 2.5, None], "b": "ä"}, '{"a":[1,2.5,null],"b":"ä"}'),
    "number": (3, "3"),
    "NaN": (NAN, "null"),
    "date": (datetime.date(2024, 1, 2), "2024-01-02"),
    "table": (pd.DataFrame({"a": [1, 2]}), "   a\n0  1\n1  2"),
    "column": (pd.Series([1, 2], name="n"), "0    1\n1    2"),
    "array": (np.array([1, 2]), "[1,2]"),
    "figure": (
        matplotlib.figure.Figure(),
        "The function returned a picture (matplotlib.figure.Figure), which text cannot show.",
    ),
    "object without a form": (
        types.SimpleNamespace(a=1),
        "The function returned an object of type types.SimpleNamespace, which has no JSON form: namespace(a=1)",
    ),
    "object without a text": (
        object(),
        "The function returned an object of type object, which has no JSON form.",
    ),
}


@pytest.mark.parametrize(("value", "expected"), CONTENTS.values(), ids=CONTENTS.keys())
def test_a_model_sees_the_result_as_text(value: Any, expected: str) -> None:
    assert to_content(value, 1000) == Content(expected)


def test_a_long_text_is_cut_in_the_middle() -> None:
    text = "a" * 500 + "b" * 500
    cut = to_content(text, 300)
    assert len(cut.head) + len(cut.tail) == 300 - MARKER
    assert cut.head == "a" * len(cut.head)
    assert cut.tail == "b" * len(cut.tail)
    assert 0 < len(cut.tail) < len(cut.head)
    assert (cut.left_out, cut.whole) == (1000 - len(cut.head) - len(cut.tail), False)


def test_a_long_table_shows_its_first_rows_and_its_shape() -> None:
    content = to_content(pd.DataFrame({"a": range(100_000), "b": "x"}), 300)
    lines = content.head.splitlines()
    assert content == Content(content.head, whole=False)
    assert len(content.head) <= 300 - MARKER
    assert lines[1].split() == ["0", "0", "x"]
    assert lines[-1] == f"(the first {len(lines) - 2} of 100,000 rows; shape 100,000 x 2)"
    assert len(lines) > 10


def test_a_wide_table_is_cut_like_a_text() -> None:
    one_row = to_content(pd.DataFrame([range(2000)]), 300)
    assert len(one_row.head) + len(one_row.tail) <= 300 - MARKER
    assert one_row.left_out > 1000 and not one_row.whole
    rows = to_content(pd.DataFrame([range(2000)] * 2), 300)
    assert "of 2 rows" in rows.tail and rows.left_out > 1000


def test_one_row_of_many_that_fits_is_not_the_whole() -> None:
    content = to_content(pd.DataFrame([range(30)] * 100), 320)
    assert len(content.head) + len(content.tail) <= 320 - MARKER
    assert not content.whole


@given(st.text(max_size=300), st.integers(-5, 200))
def test_a_text_is_never_longer_than_the_budget(text: str, budget: int) -> None:
    cut = shortened(text, budget)
    assert len(cut.head) + len(cut.tail) <= max(0, budget)
    assert cut.whole == (len(text) <= budget)
    assert len(cut.head) + cut.left_out + len(cut.tail) == len(text)
    assert text.startswith(cut.head) and text.endswith(cut.tail)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals() | st.dates(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers() | st.none(), inner)
    ),
    max_leaves=20,
)


@given(values, st.integers(0, 300))
def test_every_value_has_a_strict_form_and_a_bounded_text(value: Any, budget: int) -> None:
    form = to_json(value)
    assert json.loads(json.dumps(form, allow_nan=False)) == form
    assert to_json(form) == form
    content = to_content(value, budget)
    assert len(content.head) + len(content.tail) <= budget


def test_no_heavy_module_is_imported_for_it() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import kernels.inside.forms as f; f.to_json([1]);"
        "print({'numpy', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(INSIDE.parents[1])], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
