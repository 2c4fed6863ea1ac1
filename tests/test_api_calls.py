"""Typed calls over HTTP: what arguments become, what results become, and what a call leaves behind."""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.conftest import Server
from tests.doors import call, execute, problem, register, tool_call, wait_until

pytest_plugins = ["tests.doors_fixtures"]

TYPED = '''
import sys
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field


@dataclass
class Point:
    x: int
    y: float = 0.0


def typed(
    whole: Annotated[int, Field(le=100)] = 0,
    number: float = 0.0,
    flag: bool = False,
    text: str = "",
    day: date = date(2000, 1, 1),
    items: list[int] = [],
    table: dict[str, int] = {},
    maybe: int | None = 1,
    colour: Literal["red", "blue"] = "red",
    point: Point = Point(0),
    amount: Decimal = Decimal(0),
    where: Path = Path("."),
    key: UUID | None = None,
    anything: Any = None,
) -> dict[str, str]:
    """Show what each argument became."""
    sys.calls = getattr(sys, "calls", 0) + 1
    return {name: repr(value) for name, value in locals().items()}
'''

RESULTS = '''
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy
import pandas
from pydantic import BaseModel


class Model(BaseModel):
    name: str
    day: date


@dataclass
class Point:
    x: int
    y: float


def results(kind: str) -> Any:
    """A result of some kind."""
    return {
        "nothing": None,
        "text": "a text",
        "number": 1.5,
        "nan": [float("nan"), float("inf")],
        "model": Model(name="a", day=date(2024, 5, 17)),
        "dataclass": Point(1, 2.0),
        "tuple": (1, "a"),
        "set": {3, 1, 2},
        "bytes": b"\\x00\\xff",
        "array": numpy.array([[1, 2], [3, 4]]),
        "frame": pandas.DataFrame({"a": [1, 2], "b": ["x", None]}, index=["r", "s"]),
        "series": pandas.Series([1, 2], name="n"),
        "object": object,
    }[kind]
'''

SMALL = {
    "fetch": "import asyncio\n\nasync def fetch(n: int) -> int:\n    await asyncio.sleep(0)\n    return n\n",
    "fails": "def fails(n: int) -> int:\n    return 1 // n\n",
    "sleeps": "import time\n\ndef sleeps(seconds: float) -> str:\n    time.sleep(seconds)\n    return 'awake'\n",
    "leaves": "import os\n\ndef leaves() -> None:\n    os._exit(7)\n",
    "talks": "import sys\n\ndef talks() -> None:\n    print('out')\n    print('err', file=sys.stderr)\n",
}


@pytest.fixture(scope="module", autouse=True)
def functions(server: Server) -> Iterator[None]:
    """The functions that are called here, registered together; gone afterwards."""
    sources = [{"source": source} for source in (TYPED, RESULTS, *SMALL.values())]
    with server.client() as client:
        answer = client.post("/register/batch", json={"functions": sources})
        assert answer.status_code == 201, answer.text
        yield
        for name in ("typed", "results", *SMALL):
            assert client.delete(f"/functions/{name}").status_code == 204


@pytest.fixture
def session(client: httpx2.Client) -> Iterator[str]:
    """A session's id."""
    identity: str = client.post("/sessions").json()["id"]
    yield identity
    client.delete(f"/sessions/{identity}")


# -- calls


def test_a_call_answers_with_all_that_there_is_to_know(client: httpx2.Client) -> None:
    answer = call(client, "word_count", {"text": "to be or not to be", "top": 2})
    assert answer["duration_ms"] > 0
    assert answer["kernel"] == client.get("/healthz").json()["kernel"]
    assert answer["snapshot"] == client.get("/healthz").json()["snapshot"]
    own = ("id", "duration_ms", "waited_ms", "kernel", "snapshot")
    assert {name: value for name, value in answer.items() if name not in own} == {
        "name": "word_count",
        "version": 1,
        "status": "ok",
        "result": {"to": 2, "be": 2},
        "content": '{"to":2,"be":2}',
        "error": None,
        "error_detail": None,
        "hint": None,
        "fix": None,
        "stdout": "",
        "stderr": "",
        "outputs": [],
        "session": None,
        "truncated": False,
        "kernel_lost": False,
        "state_preserved": None,
        "reason": None,
        "exit_code": None,
        "signal": None,
    }


MEANT: list[tuple[str, Any, str]] = [
    ("whole", 3, "3"),
    ("whole", "3", "3"),
    ("whole", 3.0, "3"),
    ("number", "1.5", "1.5"),
    ("number", 2, "2.0"),
    ("flag", "true", "True"),
    ("flag", 1, "True"),
    ("text", "3", "'3'"),
    ("text", "[1]", "'[1]'"),
    ("text", "é\u0000\U0001f600", "'é\\x00\U0001f600'"),
    ("day", "2024-05-17", "datetime.date(2024, 5, 17)"),
    ("items", [1, "2"], "[1, 2]"),
    ("items", '[1, "2"]', "[1, 2]"),
    ("table", {"a": 1.0}, "{'a': 1}"),
    ("table", '{"a": "1"}', "{'a': 1}"),
    ("maybe", None, "None"),
    ("maybe", "4", "4"),
    ("colour", "blue", "'blue'"),
    ("point", {"x": "1"}, "Point(x=1, y=0.0)"),
    ("point", '{"x": 1, "y": 2}', "Point(x=1, y=2.0)"),
    ("amount", "1.10", "Decimal('1.10')"),
    ("where", "/a/b", "PosixPath('/a/b')"),
    ("key", "12345678123456781234567812345678", "UUID('12345678-1234-5678-1234-567812345678')"),
    ("anything", {"a": [1, None]}, "{'a': [1, None]}"),
]


def test_arguments_become_what_the_function_declares(client: httpx2.Client, session: str) -> None:
    found = [
        (name, sent, call(client, "typed", {name: sent}, session=session)["result"][name]) for name, sent, _ in MEANT
    ]
    assert found == MEANT


WRONG: list[tuple[dict[str, Any], list[dict[str, str]]]] = [
    ({"whole": "three"}, [{"parameter": "whole", "type": "int_parsing"}]),
    ({"whole": 3.5}, [{"parameter": "whole", "type": "int_from_float"}]),
    ({"whole": 101}, [{"parameter": "whole", "type": "less_than_equal"}]),
    ({"text": 3}, [{"parameter": "text", "type": "string_type"}]),
    ({"items": [1, "x"]}, [{"parameter": "items", "path": "1", "type": "int_parsing"}]),
    ({"items": "1"}, [{"parameter": "items", "type": "list_type"}]),
    ({"table": []}, [{"parameter": "table", "type": "dict_type"}]),
    ({"colour": "green"}, [{"parameter": "colour", "type": "literal_error"}]),
    ({"point": {"y": 1}}, [{"parameter": "point", "path": "x", "type": "missing"}]),
    ({"day": "17.5.2024"}, [{"parameter": "day", "type": "date_from_datetime_parsing"}]),
    ({"whole": None, "flag": "maybe"}, [{"parameter": "flag", "type": "bool_parsing"}]),
    ({"color": "red"}, [{"parameter": "color", "type": "unexpected_argument", "suggestion": "colour"}]),
    ({"zzz": 1}, [{"parameter": "zzz", "type": "unexpected_argument"}]),
]


def test_wrong_arguments_have_one_entry_each_and_the_function_does_not_run(client: httpx2.Client, session: str) -> None:
    for arguments, expected in WRONG:
        answer = client.post("/functions/typed/call", json=arguments, params={"session": session})
        refused = problem(answer, 422, "invalid_arguments")
        assert [
            {k: entry[k] for k in want} for entry, want in zip(refused["errors"], expected, strict=True)
        ] == expected
        assert all(entry["message"] for entry in refused["errors"])
        assert refused["signature"].startswith("typed(")
    assert execute(client, "import sys; getattr(sys, 'calls', 0)", session=session)["result"] == "0"


def test_a_misspelt_argument_and_a_missing_one_are_told_with_what_repairs_them(client: httpx2.Client) -> None:
    refused = problem(client.post("/functions/word_count/call", json={"txet": "a"}), 422, "invalid_arguments")
    assert sorted((e["parameter"], e["type"]) for e in refused["errors"]) == [
        ("text", "missing_argument"),
        ("txet", "unexpected_argument"),
    ]
    assert refused["fix"] == {"rename": {"txet": "text"}}
    assert refused["signature"] == "word_count(text: str, top: int = 10) -> dict[str, int]"
    renamed = {refused["fix"]["rename"].get(name, name): value for name, value in {"txet": "a"}.items()}
    assert call(client, "word_count", renamed)["result"] == {"a": 1}


JSON = {"Content-Type": "application/json"}
DEEP = b'{"text": ' + b"[" * 101 + b"]" * 101 + b"}"
BODIES: dict[str, tuple[dict[str, Any], int, str]] = {
    "list": ({"json": ["a"]}, 422, "invalid_request"),
    "text": ({"json": "a"}, 422, "invalid_request"),
    "null": ({"content": b"null", "headers": JSON}, 422, "invalid_request"),
    "nothing": ({"headers": JSON}, 422, "invalid_request"),
    "broken": ({"content": b"{'text': 'a'}", "headers": JSON}, 400, "invalid_json"),
    "no type": ({"content": b'{"text": "a"}'}, 415, "wrong_content_type"),
    "NaN": ({"content": b'{"text": NaN}', "headers": JSON}, 422, "invalid_request"),
    "infinity": ({"content": b'{"text": [1e999]}', "headers": JSON}, 422, "invalid_request"),
    "deep": ({"content": DEEP, "headers": JSON}, 422, "invalid_request"),
    "surrogate": ({"content": rb'{"text": "\ud800"}', "headers": JSON}, 422, "invalid_request"),
    "surrogate in a name": ({"content": rb'{"\udc00": 1}', "headers": JSON}, 422, "invalid_request"),
    "no timeout": ({"json": {"text": "a"}, "params": {"timeout": 0}}, 422, "invalid_request"),
    "endless": ({"json": {"text": "a"}, "params": {"timeout": "nan"}}, 422, "invalid_request"),
    "no session": ({"json": {"text": "a"}, "params": {"session": "none"}}, 404, "session_not_found"),
}


@pytest.mark.parametrize(("sent", "status", "code"), BODIES.values(), ids=BODIES)
def test_what_is_no_object_of_arguments_is_refused(
    client: httpx2.Client, sent: dict[str, Any], status: int, code: str
) -> None:
    problem(client.post("/functions/word_count/call", **sent), status, code)


def test_an_unknown_function_comes_with_the_one_that_is_meant(client: httpx2.Client) -> None:
    refused = problem(client.post("/functions/word_cuont/call", json={}), 404, "unknown_function")
    assert refused["suggestions"] == ["word_count"]
    assert refused["fix"] == {"name": "word_count"}


FRAME = {"columns": ["a", "b"], "index": ["r", "s"], "data": [[1, "x"], [2, None]]}
FORMS: list[tuple[str, Any, str]] = [
    ("nothing", None, "The function returned nothing."),
    ("text", "a text", "a text"),
    ("number", 1.5, "1.5"),
    ("nan", [None, None], "[null,null]"),
    ("model", {"name": "a", "day": "2024-05-17"}, '{"name":"a","day":"2024-05-17"}'),
    ("dataclass", {"x": 1, "y": 2.0}, '{"x":1,"y":2.0}'),
    ("tuple", [1, "a"], '[1,"a"]'),
    ("set", [1, 2, 3], "[1,2,3]"),
    ("bytes", base64.b64encode(b"\x00\xff").decode(), "AP8="),
    ("array", [[1, 2], [3, 4]], "[[1,2],[3,4]]"),
    ("frame", FRAME, "   a    b\nr  1    x\ns  2  NaN"),
    ("series", {"name": "n", "index": [0, 1], "data": [1, 2]}, "0    1\n1    2"),
    (
        "object",
        "<class 'object'>",
        "The function returned an object of type type, which has no JSON form: <class 'object'>",
    ),
]


def test_every_kind_of_result_has_its_form(client: httpx2.Client, session: str) -> None:
    answers = [(kind, call(client, "results", {"kind": kind}, session=session)) for kind, _, _ in FORMS]
    assert [(kind, answer["result"], answer["content"]) for kind, answer in answers] == FORMS


def test_what_a_model_is_shown_is_cut_and_the_result_is_not(own: httpx2.Client, fresh: str) -> None:
    register(own, f"def {fresh}(n: int) -> str:\n    return 'a' * n + 'z'\n")
    answer = call(own, fresh, {"n": 5000})
    assert answer["result"] == "a" * 5000 + "z"
    assert len(answer["content"]) <= 256
    head, line, tail = answer["content"].split("\n")
    assert tail.endswith("z") and head.startswith("a")
    match = re.fullmatch(r"\.\.\. ([\d,]+) characters left out; the whole: (/results/\S+\.txt) \.\.\.", line)
    assert match is not None
    assert int(match[1].replace(",", "")) == 5001 - len(head) - len(tail)
    assert own.get(match[2]).text == answer["result"]
    body = {"tool_calls": [tool_call("1", fresh, {"n": 5000})]}
    told: str = own.post("/tools/run", json=body).json()["messages"][0]["content"]
    assert [len(part) for part in told.split("\n")] == [len(head), len(line), len(tail)]


def test_an_async_function_is_awaited(client: httpx2.Client) -> None:
    assert call(client, "fetch", {"n": 3})["result"] == 3


def test_what_a_function_prints_and_shows_is_in_the_answer(client: httpx2.Client) -> None:
    talked = call(client, "talks")
    assert (talked["stdout"], talked["stderr"], talked["result"]) == ("out\n", "err\n", None)
    shown = call(client, "plot_series", {"series": {"a": [1, 2]}})
    [png] = [one["data"]["image/png"] for one in shown["outputs"] if "image/png" in one.get("data", {})]
    assert base64.b64decode(png).startswith(b"\x89PNG")
    match = re.fullmatch(
        r"The function returned nothing\.\nIt showed: image/png \((/results/\S+)\)\.", shown["content"]
    )
    assert match is not None
    assert client.get(match[1]).content == base64.b64decode(png)
    assert talked["content"] == "The function returned nothing.\nIt printed:\nout"


def test_an_exception_is_an_answer_with_the_functions_frames_only(client: httpx2.Client) -> None:
    answer = call(client, "fails", {"n": 0})
    assert (answer["status"], answer["result"], answer["content"]) == ("error", None, None)
    assert answer["error"] == "ZeroDivisionError: integer division or modulo by zero"
    text = "\n".join(answer["error_detail"]["traceback"])
    assert "return 1 // n" in text
    assert "aigbb_inside" not in text
    assert [one["output_type"] for one in answer["outputs"]] == ["error"]


def test_a_timeout_and_a_death_are_answers(client: httpx2.Client) -> None:
    late = call(client, "sleeps", {"seconds": 60}, timeout=0.5)
    assert (late["status"], late["result"]) == ("timeout", None)
    assert "0.5 s" in late["error"]
    gone = call(client, "leaves")
    assert (gone["status"], gone["kernel_lost"]) == ("died", True)
    assert "7" in gone["error"]
    assert call(client, "sleeps", {"seconds": 0})["result"] == "awake"


def test_a_session_keeps_what_functions_leave_behind(client: httpx2.Client, session: str) -> None:
    call(client, "typed", {}, session=session)
    answer = call(client, "typed", {}, session=session)
    assert answer["session"] == session
    assert execute(client, "import sys; sys.calls", session=session)["result"] == "2"
    assert execute(client, "import sys; hasattr(sys, 'calls')")["result"] == "False"


def test_a_client_that_leaves_frees_its_kernel(server: Server, client: httpx2.Client) -> None:
    tools = {"tool_calls": [tool_call("1", "sleeps", {"seconds": 100})]}
    for path, body in (("/functions/sleeps/call", {"seconds": 100}), ("/tools/run", tools)):
        with pytest.raises(httpx2.TimeoutException), server.client() as impatient:
            impatient.post(path, json=body, timeout=1)
    wait_until(lambda: client.get("/healthz").json()["running"] == 0)


def test_twenty_calls_side_by_side_each_get_their_own_result(server: Server, session: str) -> None:
    answers: dict[int, Any] = {}

    def ask(number: int) -> None:
        place = {"session": session} if number % 2 else {}
        with server.client() as own:
            answers[number] = call(own, "fetch", {"n": number}, **place)["result"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: number for number in range(20)}


def test_a_pinned_version_runs_whatever_is_active(client: httpx2.Client, name: str) -> None:
    for number in (1, 2):
        register(client, f"def {name}(n: int) -> int:\n    return n + {number}00\n")
    asked = {pin: call(client, f"{name}{pin}", {"n": "1"}) for pin in ("", "@1", "@2")}
    assert {pin: (answer["result"], answer["version"]) for pin, answer in asked.items()} == {
        "": (201, 2),
        "@1": (101, 1),
        "@2": (201, 2),
    }
    problem(client.post(f"/functions/{name}@1/call", json={"n": "x"}), 422, "invalid_arguments")
    for pin in ("@99", "@x", "@0", "@", "@1@1", "@-1", "@99999999999999999999"):
        refused = problem(client.post(f"/functions/{name}{pin}/call", json={"n": 1}), 404, "unknown_version")
        assert refused["versions"] == [2, 1]
    problem(client.post("/functions/nobody@1/call", json={}), 404, "unknown_function")
    client.delete(f"/functions/{name}")
    problem(client.post(f"/functions/{name}@1/call", json={"n": 1}), 404, "unknown_function")
