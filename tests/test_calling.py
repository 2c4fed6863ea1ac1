"""Typed calls on a real kernel: what a function is given, what comes back, and how a call can end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
import zmq.asyncio

from kernels.environments import Generation
from kernels.kernel import Kernel, Launch
from kernels.kernelspecs import kernel_json
from kernels.outputs import Cut, Display, Error, Execution, Refused, Result, Returned, Stream, fold
from kernels.tasks import Task
from server.functions import Declared, Function
from server.reading import read
from server.snapshots import write_snapshot

# How a kernel was started makes no difference to calls; test_kernel.py has both.
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("launch", ["forked"], indirect=True)]

BUDGET = 1000


class Called:
    """A kernel with functions of its own, which can be exchanged while it runs."""

    def __init__(self, kernel: Kernel, place: Path) -> None:
        self.kernel = kernel
        self.place = place
        self.numbers: dict[str, int] = {}

    async def publish(self, *, declared: bool = False, **sources: str) -> None:
        """Have these functions serve, and no others; each has one version more than before."""
        self.numbers = {name: self.numbers.get(name, 0) + 1 for name in sources}
        await asyncio.to_thread(publish, self.place, sources, self.numbers, declared)

    def start(self, name: str, arguments: Mapping[str, Any], **more: Any) -> Any:
        """The stream of a call."""
        source, budget = more.pop("pinned", None), more.pop("budget", BUDGET)
        pinned = source and {"source": source, "written": written(source, name), "declared": False}
        limits = {"timeout": 60.0, "max_output": 1 << 20, **more}
        return self.kernel.execute(Task.call(name, arguments, pinned=pinned, budget=budget), **limits)

    async def call(self, name: str, arguments: Mapping[str, Any] | None = None, **more: Any) -> Execution:
        """Call and fold."""
        return await fold(self.start(name, arguments or {}, **more))

    async def value(self, name: str, arguments: Mapping[str, Any] | None = None, **more: Any) -> Any:
        """The JSON form of what a call returned."""
        execution = await self.call(name, arguments, **more)
        assert isinstance(execution.answer, Returned), execution
        return execution.answer.value

    async def refused(self, name: str, arguments: Mapping[str, Any]) -> Refused:
        """What is said of arguments that do not fit."""
        execution = await self.call(name, arguments)
        assert isinstance(execution.answer, Refused), execution
        return execution.answer

    async def error(self, name: str, arguments: Mapping[str, Any] | None = None, **more: Any) -> Error:
        """The exception that ended a call."""
        execution = await self.call(name, arguments, **more)
        assert execution.done.status == "error", execution
        assert execution.answer is None
        assert execution.error is not None
        return execution.error

    async def run(self, code: str) -> Execution:
        """Run a cell."""
        return await fold(self.kernel.execute(Task.code(code), timeout=60, max_output=1 << 20))

    async def is_well(self) -> bool:
        """Whether cells and calls still do what they should."""
        cell = await self.run("print('here')\n6 * 7")
        call = await self.call("well", {"n": 1}) if "well" in self.numbers else None
        fine = call is None or (call.done.status == "ok" and call.answer == Returned(2, "2", self.numbers["well"]))
        return fine and cell.outputs == (Stream("stdout", "here\n"), Result({"text/plain": "42"}, {}))


def written(source: str, name: str) -> tuple[Mapping[str, Any], ...]:
    """The parameters as the source lists them; none where no function is written down."""
    found = [d["parameters"] for d in read(source).get("definitions", ()) if d["name"] == name]
    return tuple(found[-1]) if found else ()


def publish(place: Path, sources: Mapping[str, str], numbers: Mapping[str, int], declared: bool) -> None:
    """Write a snapshot and point at it. declared: the author describes the parameters, as an object of anything."""
    said = Declared(parameters={"type": "object"} if declared else None)
    functions = [
        Function(name, source, (), (), "", "", declared=said, written=written(source, name))
        for name, source in sources.items()
    ]
    snapshot = place / str(sum(1 for _ in place.iterdir()))
    write_snapshot(snapshot, functions, {}, numbers)
    (place / "snapshot").write_text(str(snapshot))


WELL = "def well(n: int) -> int:\n    return n + 1\n"


@pytest.fixture
async def called(launch: Launch, generation: Generation, tmp_path: Path) -> AsyncIterator[Called]:
    """A kernel of the shared generation that looks for its functions in a folder of the test's own."""
    place, spec = tmp_path / "generations" / "1", tmp_path / "specs" / launch.name
    place.mkdir(parents=True)
    spec.mkdir(parents=True)
    content = kernel_json(generation, "test", tmp_path)
    content["env"]["AIGBB_GENERATION"] = str(place)
    await asyncio.to_thread((spec / "kernel.json").write_text, json.dumps(content))
    await asyncio.to_thread(publish, place, {"well": WELL}, {"well": 1}, False)
    context = zmq.asyncio.Context()
    try:
        kernel = await Kernel.start(replace(launch, kernelspecs=spec.parent), context)
        try:
            made = Called(kernel, place)
            made.numbers = {"well": 1}
            yield made
        finally:
            await kernel.stop()
    finally:
        context.term()


def returning(expression: str, head: str = "") -> str:
    """A function that returns what an expression says."""
    return f"{head}\ndef f():\n    return {expression}\n"


# -- what comes back


async def test_a_call_answers_value_content_and_version(called: Called) -> None:
    execution = await called.call("well", {"n": 41})
    assert execution.answer == Returned(42, "42", 1)
    assert (execution.done.status, execution.done.execution_count, execution.done.detail) == ("ok", None, None)
    assert (execution.outputs, execution.done.truncated, execution.done.kernel_lost) == ((), False, False)


FORMS = {
    "nothing": ("None", "", None, "The function returned nothing."),
    "text": ("'é\\n'", "", "é\n", "é\n"),
    "truth": ("True", "", True, "true"),
    "NaN": ("float('nan')", "", None, "null"),
    "NaN inside": ("[1.5, float('inf')]", "", [1.5, None], "[1.5,null]"),
    "tuple": ("(1, (2, 3))", "", [1, [2, 3]], "[1,[2,3]]"),
    "set": ("{3, 1, 2}", "", [1, 2, 3], "[1,2,3]"),
    "keys": ("{1: 'a', None: 'b'}", "", {"1": "a", "null": "b"}, '{"1":"a","null":"b"}'),
    "bytes": ("b'\\xff\\x00'", "", "/wA=", "/wA="),
    "date": ("date(2026, 1, 2)", "from datetime import date", "2026-01-02", "2026-01-02"),
    "decimal": ("Decimal('1.10')", "from decimal import Decimal", "1.10", "1.10"),
    "path": ("Path('/a/b')", "from pathlib import Path", "/a/b", "/a/b"),
    "array": ("np.arange(4).reshape(2, 2)", "import numpy as np", [[0, 1], [2, 3]], "[[0,1],[2,3]]"),
    "scalar": ("np.float64('nan')", "import numpy as np", None, "null"),
    "dataclass": ("P(1, [2])", "@dataclasses.dataclass\nclass P:\n    a: int\n    b: list", *({"a": 1, "b": [2]}, "")),
    "model": ("M(a='x')", "class M(pydantic.BaseModel):\n    a: str", {"a": "x"}, '{"a":"x"}'),
    "frame": (
        "pd.DataFrame({'a': [1, 2]})",
        "import pandas as pd",
        {"columns": ["a"], "index": [0, 1], "data": [[1], [2]]},
        "   a\n0  1\n1  2",
    ),
}
IMPORTS = "import dataclasses, pydantic\n"


async def test_results_have_a_form_in_json_and_as_text(called: Called) -> None:
    for name, (expression, head, value, content) in FORMS.items():
        await called.publish(f=returning(expression, IMPORTS + head))
        answer = (await called.call("f")).answer
        assert isinstance(answer, Returned), name
        assert answer.value == value, name
        if content:
            assert answer.content == content, name


async def test_what_has_no_json_form_is_described(called: Called) -> None:
    await called.publish(f=returning("object()"))
    answer = (await called.call("f")).answer
    assert isinstance(answer, Returned)
    assert answer.value.startswith("<object object at 0x")
    assert answer.content == "The function returned an object of type object, which has no JSON form."


async def test_a_generator_is_left_unread(called: Called) -> None:
    source = "ran = []\ndef f(ask: bool = False):\n    return ran if ask else (ran.append(n) for n in range(3))\n"
    await called.publish(f=source, g="async def g():\n    yield 1\n")
    assert str(await called.value("f")).startswith("<generator object f.<locals>.<genexpr> at 0x")
    assert await called.value("f", {"ask": True}) == []
    assert str(await called.value("g")).startswith("<async_generator object g at 0x")


HOSTILE = """
class Hostile:
    @property
    def __class__(self): raise KeyError("class")
    def __repr__(self): raise SystemExit("repr")
    def __str__(self): raise SystemExit("str")
    def __getattr__(self, name): raise SystemExit("attribute")
    def __iter__(self): raise SystemExit("iter")

def f():
    return [1, Hostile()]
"""


async def test_a_hostile_result_is_only_named(called: Called) -> None:
    await called.publish(f=HOSTILE, well=WELL)
    assert await called.value("f") == [1, "<aigbb_functions.f.Hostile>"]
    assert await called.is_well()


async def test_a_value_over_the_cap_is_left_out_and_its_content_is_shortened(called: Called) -> None:
    await called.publish(f=returning("'ab' * 10_000"))
    execution = await called.call("f", max_output=10_000, budget=320)
    assert (execution.done.status, execution.done.truncated) == ("ok", True)
    cut = Cut("ab" * 33, 19_800)
    assert execution.answer == Returned(None, "ab" * 67, 1, cut, lost=True)


async def test_a_value_under_the_cap_is_whole_though_its_content_is_shortened(called: Called) -> None:
    await called.publish(f=returning("list(range(2000))"))
    execution = await called.call("f", budget=320)
    assert isinstance(execution.answer, Returned)
    assert execution.answer.value == list(range(2000))
    assert (len(execution.answer.content), execution.answer.lost) == (134, False)
    assert execution.answer.cut is not None
    assert execution.answer.cut.tail.endswith("1999]") and len(execution.answer.cut.tail) == 66
    assert not execution.done.truncated


async def test_an_answer_too_large_to_be_read_keeps_its_content(
    called: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernels.channels.MAX_MESSAGE", 100_000)
    await called.publish(f=returning("'x' * 200_000"), well=WELL)
    execution = await called.call("f", budget=50)
    assert (execution.done.status, execution.done.truncated, execution.error) == ("ok", True, None)
    assert execution.answer == Returned(None, "x" * 17, 1, Cut("x" * 8, 199_975), lost=True)
    assert await called.is_well()


# -- what a function is given


TYPED = """
import datetime, enum
from dataclasses import dataclass
from typing import Any, Literal
from pydantic import BaseModel

class Colour(enum.Enum):
    RED = "red"

@dataclass
class Point:
    x: int
    y: int = 0

class Order(BaseModel):
    id: int
    points: list[Point]

def f(n: int = 0, text: str = "", day: datetime.date | None = None, colour: Colour | None = None,
      order: Order | None = None, kind: Literal["a", "b"] = "a", anything: Any = None, *, tags: set[str] = frozenset()):
    return [repr(v) for v in (n, text, day, colour, order, kind, anything, sorted(tags))]
"""
DEFAULTS = ["0", "''", "None", "None", "None", "'a'", "None", "[]"]
GIVEN: list[tuple[dict[str, Any], int, str]] = [
    ({"n": "3"}, 0, "3"),
    ({"n": 3.0}, 0, "3"),
    ({"text": "3"}, 1, "'3'"),
    ({"text": '{"a": 1}'}, 1, "'{\"a\": 1}'"),
    ({"day": "2026-01-02"}, 2, "datetime.date(2026, 1, 2)"),
    ({"colour": "red"}, 3, "<Colour.RED: 'red'>"),
    ({"order": {"id": "7", "points": [{"x": 1}]}}, 4, "Order(id=7, points=[Point(x=1, y=0)])"),
    ({"order": '{"id": 7, "points": []}'}, 4, "Order(id=7, points=[])"),
    ({"kind": "b"}, 5, "'b'"),
    ({"anything": '{"a": 1}'}, 6, "'{\"a\": 1}'"),
    ({"tags": ["b", "a", "b"]}, 7, "['a', 'b']"),
    ({"n": None}, 0, "0"),
]


async def test_arguments_become_what_the_types_say(called: Called) -> None:
    await called.publish(f=TYPED)
    assert await called.value("f") == DEFAULTS
    for arguments, index, expected in GIVEN:
        given = await called.value("f", arguments)
        assert given == [*DEFAULTS[:index], expected, *DEFAULTS[index + 1 :]], arguments


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"n": "many"}, "n", "int_parsing"),
    ({"n": 1.5}, "n", "int_from_float"),
    ({"text": 3}, "text", "string_type"),
    ({"day": "tomorrow"}, "day", "date_from_datetime_parsing"),
    ({"colour": "blue"}, "colour", "enum"),
    ({"order": {"id": 7, "points": [{"x": "?"}]}}, "order", "int_parsing"),
    ({"kind": "c"}, "kind", "literal_error"),
    ({"nn": 1}, "nn", "unexpected_argument"),
]


async def test_arguments_that_do_not_fit_are_refused_by_name(called: Called) -> None:
    await called.publish(f=TYPED)
    for arguments, parameter, kind in REFUSED:
        refused = await called.refused("f", arguments)
        assert [(e["parameter"], e["type"]) for e in refused.errors] == [(parameter, kind)], arguments


async def test_refused_arguments_never_run_the_function(called: Called, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    await called.publish(f=f"from pathlib import Path\ndef f(n: int):\n    Path({str(mark)!r}).touch()\n")
    for wrong in ({}, {"n": "x"}, {"n": 1, "m": 2}):
        execution = await called.call("f", wrong)
        assert isinstance(execution.answer, Refused)
        assert (execution.done.status, execution.done.detail, execution.error) == ("error", None, None)
        assert not mark.exists()
    assert await called.value("f", {"n": 1}) is None
    assert mark.exists()


async def test_every_wrong_argument_is_named_at_once(called: Called) -> None:
    await called.publish(f="def f(a: int, b: int, c: int = 0):\n    return a\n")
    refused = await called.refused("f", {"a": "x", "cc": 1})
    assert {e["parameter"]: e.get("suggestion") for e in refused.errors} == {"a": None, "b": None, "cc": "c"}


async def test_no_refusal_holds_what_was_sent(called: Called) -> None:
    await called.publish(f="def f(a: int):\n    return a\n")
    assert "hush" not in str(await called.refused("f", {"a": "hush"}))


async def test_arguments_that_are_no_valid_text_are_survived(called: Called) -> None:
    await called.publish(f="def f(a: str):\n    return len(a)\n", well=WELL)
    for arguments in ({"a": "\ud800"}, {"a": "x\0y"}, {"\ud800": 1}):
        assert (await called.call("f", arguments)).done.status in ("ok", "error")
    assert await called.is_well()


async def test_a_type_that_only_its_author_can_describe_is_taken_as_it_comes(called: Called) -> None:
    source = "class Own: pass\ndef f(a: Own, n: int):\n    return [a, n]\n"
    await called.publish(f=source, declared=True)
    assert await called.value("f", {"a": {"x": 1}, "n": "2"}) == [{"x": 1}, 2]


# -- how it runs


RUNNING = {
    "async": "import asyncio\nasync def f():\n    await asyncio.sleep(0.01)\n    return 1\n",
    "asyncio.run": "import asyncio\nasync def g():\n    return 1\ndef f():\n    return asyncio.run(g())\n",
    "asyncio.run in asyncio.run's thread": (
        "import asyncio\nasync def g():\n    return await asyncio.to_thread(asyncio.run, h())\n"
        "async def h():\n    return 1\ndef f():\n    return asyncio.run(g())\n"
    ),
    "a coroutine that is returned": "async def g():\n    return 1\ndef f():\n    return g()\n",
    "anyio": "import anyio\nasync def g():\n    return 1\ndef f():\n    return anyio.run(g)\n",
    "tasks": (
        "import asyncio\nasync def one():\n    return 1\n"
        "async def f():\n    return (await asyncio.gather(one(), one()))[0]\n"
    ),
    "a class with __call__": "class F:\n    def __call__(self):\n        return 1\nf = F()\n",
    "partial": "import functools\ndef g(n):\n    return n\nf = functools.partial(g, n=1)\n",
    "another function": "from aigbb_functions import well\ndef f():\n    return well(0)\n",
    "get_ipython": "def f():\n    return int(get_ipython() is not None)\n",
}


async def test_functions_run_in_any_fashion(called: Called) -> None:
    for name, source in RUNNING.items():
        if name == "anyio" and (await called.run("import anyio")).done.status == "error":
            continue
        await called.publish(f=source, well=WELL)
        execution = await called.call("f")
        assert execution.answer == Returned(1, "1", called.numbers["f"]), (name, execution)
    assert await called.is_well()
    assert (await called.run("import asyncio\nawait asyncio.sleep(0, 'awaited')")).result == "'awaited'"


SHOWING = """
import sys
from IPython.display import display

def f():
    print("one", flush=True)
    print("two", file=sys.stderr, flush=True)
    display({"text/plain": "three"}, raw=True)
    print("four")
    return 5
"""


async def test_what_a_function_prints_and_shows_is_there(called: Called) -> None:
    await called.publish(f=SHOWING)
    execution = await called.call("f")
    assert execution.outputs == (
        Stream("stdout", "one\n"),
        Stream("stderr", "two\n"),
        Display({"text/plain": "three"}, {}),
        Stream("stdout", "four\n"),
    )
    assert execution.answer == Returned(5, "5", 1)


@pytest.mark.parametrize("show", ["plt.show()", "pass"])
async def test_a_figure_is_a_picture_of_its_own_call(called: Called, show: str) -> None:
    source = f"import matplotlib.pyplot as plt\ndef f():\n    plt.plot([1, 2])\n    {show}\n"
    await called.publish(f=source)
    (shown,) = (await called.call("f")).outputs
    assert isinstance(shown, Display)
    assert shown.data["image/png"].startswith("iVBOR")
    assert (await called.run("1")).outputs == (Result({"text/plain": "1"}, {}),)


async def test_no_output_of_many_prints_is_lost(called: Called) -> None:
    await called.publish(f="def f():\n    for n in range(300):\n        print(n)\n")
    expected = "".join(f"{number}\n" for number in range(300))
    for _ in range(30):
        assert (await called.call("f")).text("stdout") == expected


async def test_calls_leave_a_sessions_own_names_and_history_alone(called: Called) -> None:
    await called.run("kept = 7")
    await called.call("well", {"n": 1})
    execution = await called.run("kept, sorted(n for n in globals() if n in ('n', 'arguments', 'result'))")
    assert execution.result == "(7, [])"
    assert execution.done.execution_count == 2


# -- exceptions


RAISING = """
import json

def inner(text):
    return json.loads(text)

def f(text: str = "{"):
    return inner(text)
"""


@pytest.mark.parametrize("kind", ["def f", "async def f"])
async def test_an_exception_shows_the_authors_frames_and_no_other(called: Called, kind: str) -> None:
    await called.publish(f=RAISING.replace("def f", kind))
    error = await called.error("f")
    assert error.ename == "JSONDecodeError"
    assert error.evalue.startswith("Expecting property name")
    frames = [entry for entry in error.traceback if entry.startswith("File ")]
    assert [frame.split("\n")[0] for frame in frames] == [
        "File aigbb_functions/f.py:8, in f(text)",
        "File aigbb_functions/f.py:5, in inner(text)",
    ]
    text = "\n".join(error.traceback)
    assert "----> 8     return inner(text)" in text
    assert "calling.py" not in text and "decoder.py" not in text and "\x1b" not in text
    assert error.frames_hidden == 3


FAULTS = {
    "SystemExit": ("import sys\ndef f():\n    sys.exit(3)\n", "SystemExit", "3"),
    "SystemExit in async": ("import sys\nasync def f():\n    sys.exit(3)\n", "SystemExit", "3"),
    "SystemExit after a wait": (
        "import asyncio, sys\nasync def f():\n    await asyncio.sleep(0.01)\n    sys.exit(3)\n",
        "SystemExit",
        "3",
    ),
    "KeyboardInterrupt": ("def f():\n    raise KeyboardInterrupt\n", "KeyboardInterrupt", ""),
    "KeyboardInterrupt in async": ("async def f():\n    raise KeyboardInterrupt\n", "KeyboardInterrupt", ""),
    "GeneratorExit": ("def f():\n    raise GeneratorExit\n", "GeneratorExit", ""),
    "CancelledError": (
        "import asyncio\nasync def f():\n    raise asyncio.CancelledError('own')\n",
        "CancelledError",
        "own",
    ),
    "BaseException": ("class B(BaseException): pass\ndef f():\n    raise B('base')\n", "B", "base"),
    "StopIteration": ("def f():\n    raise StopIteration(3)\n", "RuntimeError", "coroutine raised StopIteration"),
    "str raises": (
        "class E(Exception):\n    def __str__(self): raise self\ndef f():\n    raise E\n",
        "E",
        "(the error has no text)",
    ),
    "recursion": (
        "def f():\n    return f()\n",
        "RecursionError",
        "maximum recursion depth exceeded",
    ),
    "input": ("def f():\n    return input('name? ')\n", "EOFError", "EOF when reading a line"),
}


async def test_a_function_that_fails_is_an_error_and_the_kernel_goes_on(called: Called) -> None:
    for name, (source, ename, evalue) in FAULTS.items():
        await called.publish(f=source, well=WELL)
        with anyio.fail_after(30):
            execution = await called.call("f", timeout=20)
        assert execution.done.status == "error", (name, execution)
        assert execution.error is not None, name
        assert execution.error.ename == ename, name
        assert execution.error.evalue.startswith(evalue), name
        assert not execution.done.kernel_lost, name
        assert await called.is_well(), name


async def test_what_an_authors_validator_raises_is_the_functions_error(called: Called) -> None:
    source = """
from typing import Annotated
from pydantic import AfterValidator
def check(n):
    raise ZeroDivisionError("of the validator")
def f(n: Annotated[int, AfterValidator(check)]):
    return n
"""
    await called.publish(f=source)
    error = await called.error("f", {"n": 1})
    assert (error.ename, error.evalue) == ("ZeroDivisionError", "of the validator")


# -- deadlines, interrupts, deaths


SLEEPING = {
    "sync": "import time\ndef f():\n    print('began', flush=True)\n    time.sleep(600)\n",
    "async": "import asyncio\nasync def f():\n    print('began', flush=True)\n    await asyncio.sleep(600)\n",
    "asyncio.run": (
        "import asyncio\nasync def g():\n    print('began', flush=True)\n    await asyncio.sleep(600)\n"
        "def f():\n    asyncio.run(g())\n"
    ),
    "busy": "def f():\n    print('began', flush=True)\n    while True: pass\n",
    "busy in async": "async def f():\n    print('began', flush=True)\n    while True: pass\n",
}


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("source", SLEEPING.values(), ids=SLEEPING)
async def test_a_call_over_its_deadline_is_interrupted_and_variables_stay(called: Called, source: str) -> None:
    await called.publish(f=source, well=WELL)
    await called.run("kept = 7")
    execution = await called.call("f", timeout=1.0)
    assert execution.done.status == "timeout"
    assert execution.done.detail == "Timed out after 1 s; the code was interrupted."
    assert execution.text("stdout") == "began\n"
    assert not execution.done.kernel_lost
    assert (await called.run("kept")).result == "7"
    assert await called.is_well()


@pytest.mark.parametrize("source", SLEEPING.values(), ids=SLEEPING)
async def test_an_interrupt_cancels_a_call(called: Called, source: str) -> None:
    await called.publish(f=source, well=WELL)
    stream = called.start("f", {})
    assert await anext(stream) == Stream("stdout", "began\n")
    assert called.kernel.state == "busy"
    assert await called.kernel.interrupt()
    execution = await fold(stream)
    assert (execution.done.status, execution.done.kernel_lost) == ("cancelled", False)
    assert execution.answer is None
    assert await called.is_well()


async def test_an_interrupt_that_comes_before_the_function_has_begun_is_not_lost(called: Called) -> None:
    await called.publish(f=SLEEPING["sync"], g=SLEEPING["async"].replace("def f", "def g"))
    for name in ("f", "g", "f", "g"):
        execution = asyncio.create_task(called.call(name, timeout=20))
        while called.kernel.state != "busy":
            await asyncio.sleep(0)
        assert await called.kernel.interrupt()
        assert (await execution).done.status == "cancelled"


async def test_an_abandoned_call_stops_and_the_kernel_is_free(called: Called) -> None:
    await called.publish(f=SLEEPING["async"], well=WELL)
    stream = called.start("f", {})
    await anext(stream)
    await stream.aclose()
    assert await called.kernel.abandon()
    assert await called.is_well()


STUBBORN = {
    "KeyboardInterrupt caught": "import time\ndef f():\n    while True:\n        try: time.sleep(600)\n"
    "        except KeyboardInterrupt: pass\n",
    "cancellation caught": "import asyncio\nasync def f():\n    while True:\n        try: await asyncio.sleep(600)\n"
    "        except asyncio.CancelledError: pass\n",
}


@pytest.mark.parametrize("source", STUBBORN.values(), ids=STUBBORN)
async def test_a_function_that_does_not_stop_is_killed(called: Called, source: str) -> None:
    await called.publish(f=source)
    execution = await called.call("f", timeout=0.5)
    assert (execution.done.status, execution.done.kernel_lost) == ("timeout", True)
    assert called.kernel.state == "dead"


DEATHS = {
    "os._exit": ("import os\ndef f():\n    print('last', flush=True)\n    os._exit(3)\n", "exited with code 3"),
    "SIGKILL": ("import os\ndef f():\n    print('last', flush=True)\n    os.kill(os.getpid(), 9)\n", "SIGKILL"),
    "SIGSEGV": ("import ctypes\ndef f():\n    print('last', flush=True)\n    ctypes.string_at(0)\n", "SIGSEGV"),
}


@pytest.mark.parametrize(("source", "words"), DEATHS.values(), ids=DEATHS)
async def test_a_death_is_seen_at_once(called: Called, source: str, words: str) -> None:
    await called.publish(f=source)
    with anyio.fail_after(20):  # and not at the deadline
        execution = await called.call("f", timeout=600)
    assert (execution.done.status, execution.done.kernel_lost, execution.answer) == ("died", True, None)
    assert words in str(execution.done.detail)


# -- what is not as it should be


FORGE = """
from IPython import get_ipython

def send(content):
    kernel = get_ipython().kernel
    parent = kernel.get_parent("shell")
    stream = kernel.shell_stream or kernel.shell_socket
    if kernel._supports_kernel_subshells:
        stream = kernel.shell_channel_thread.manager.get_subshell_to_shell_channel_socket(None)
    kernel.session.send(stream, "aigbb_call_reply", content, parent, kernel._parent_ident["shell"])

def f(content):
    send(content)
    return "mine"
"""
FORGED: list[tuple[Any, object]] = [
    ({"status": "ok", "result": 1, "content": "forged", "version": 99}, Returned(1, "forged", 99)),
    (
        {"status": "ok", "result": {"a": [None]}, "content": {"b": 2}, "version": "x"},
        Returned({"a": [None]}, "{'b': 2}"),
    ),
    ({"status": "ok"}, None),
    ({"status": "refused", "errors": [1, {"parameter": 2}]}, Refused(({"parameter": 2},))),
    ({"status": "refused", "errors": "x"}, None),
    ({"status": 5, "traceback": 7}, None),
    ({}, None),
]


async def test_a_forged_reply_is_made_valid_and_harms_only_its_own_call(called: Called) -> None:
    await called.publish(f=FORGE, well=WELL)
    for content, expected in FORGED:
        execution = await called.call("f", {"content": content})
        assert execution.answer == expected, content
        assert execution.done.status == ("ok" if content.get("status") == "ok" else "error"), content
        assert await called.is_well(), content


async def test_a_forged_reply_is_bounded_by_the_cap(called: Called) -> None:
    await called.publish(f=FORGE, well=WELL)
    long = "x" * 50_000
    for content in (
        {"status": "ok", "result": None, "content": long},
        {"status": "refused", "errors": [{"message": long}] * 50},
    ):
        execution = await called.call("f", {"content": content}, max_output=10_000)
        assert len(repr(execution)) < 50_000
        assert execution.done.truncated


REPLACING = """
import builtins

def f(name: str):
    delattr(builtins, name)
"""


@pytest.mark.parametrize("name", ["isinstance", "len", "type", "__import__", "print"])
async def test_a_function_that_takes_pythons_own_away_comes_to_an_end(
    called: Called, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("kernels.kernel.HALF_DONE_GRACE", 0.3)
    await called.publish(f=REPLACING)
    with anyio.fail_after(30):
        execution = await called.call("f", {"name": name}, timeout=3)
    assert execution.done.status in ("ok", "error", "died", "timeout")
    assert execution.done.kernel_lost == (execution.done.status in ("died", "timeout"))


async def test_a_handler_that_a_function_left_behind_does_not_answer_for_another_kernel(called: Called) -> None:
    """Code in a session can replace anything in its own process: what it answers is still only data."""
    await called.run("get_ipython().kernel.shell_handlers['aigbb_call_request'] = lambda *_: None")
    execution = await called.call("well", {"n": 1}, timeout=20)
    assert (execution.done.status, execution.answer) == ("died", None)


# -- which function is called


async def test_a_pinned_source_runs_instead_of_the_active_version(called: Called) -> None:
    assert (await called.call("well", {"n": 1})).answer == Returned(2, "2", 1)
    old = "def well(n: int, m: int = 10) -> int:\n    return n + m\n"
    assert (await called.call("well", {"n": 1}, pinned=old)).answer == Returned(11, "11", 0)
    assert (await called.call("well", {"n": 1, "m": 2}, pinned=old)).answer == Returned(3, "3", 0)
    assert (await called.call("well", {"n": 1})).answer == Returned(2, "2", 1)
    assert (await called.run("well(1)")).result == "2"


async def test_a_pinned_function_fails_with_its_own_lines(called: Called) -> None:
    sources = [f"def f():\n    {'pass; ' * n}raise ValueError({n})\n" for n in range(3)]
    await called.publish(f=sources[0])
    for number in (1, 2, 1, 0):
        error = await called.error("f", pinned=sources[number] if number else None)
        text = "\n".join(error.traceback)
        assert error.evalue == str(number)
        assert f"----> 2     {'pass; ' * number}raise ValueError({number})" in text
        assert "File aigbb_functions/f.py:2, in f()" in text
        assert "/pinned" not in text


async def test_a_pinned_function_may_use_others_and_types_of_its_own(called: Called) -> None:
    source = (
        "from dataclasses import dataclass\nfrom typing import TypedDict\nfrom aigbb_functions import well\n"
        "@dataclass\nclass P:\n    n: int\nclass T(TypedDict):\n    n: int\n"
        "def f(p: P, t: T):\n    return well(p.n) + t['n']\n"
    )
    assert await called.value("f", {"p": {"n": 1}, "t": {"n": "5"}}, pinned=source) == 7
    assert "f" not in (await called.run("dir()")).result.__str__().replace("'", "").strip("[]").split(", ")


async def test_a_pinned_source_that_does_not_import_is_an_error(called: Called) -> None:
    error = await called.error("f", pinned="import no_such_module\ndef f(): pass\n")
    assert (error.ename, error.evalue) == ("ModuleNotFoundError", "No module named 'no_such_module'")
    assert await called.is_well()


async def test_a_function_that_the_kernel_does_not_have_is_named(called: Called) -> None:
    error = await called.error("elsewhere")
    assert error.ename == "NameError"
    assert error.evalue.startswith("elsewhere is not on this kernel")
    assert await called.is_well()


async def test_a_broken_function_says_why(called: Called) -> None:
    await called.publish(f="1 / 0\ndef f(): pass\n", well=WELL)
    execution = await called.call("f")
    assert execution.error is not None
    assert execution.error.ename == "ImportError"
    assert execution.error.evalue == "f is not available: ZeroDivisionError: division by zero"
    reason = "aigbb_functions: f is not available (ZeroDivisionError: division by zero)\n"
    assert execution.text("stderr") == reason
    assert (await called.call("well", {"n": 1})).text("stderr") == ""


async def test_the_next_call_has_what_was_registered_meanwhile(called: Called) -> None:
    assert (await called.call("well", {"n": 1})).answer == Returned(2, "2", 1)
    await called.publish(well="def well(n: str) -> str:\n    return n * 2\n")
    assert (await called.call("well", {"n": "ab"})).answer == Returned("abab", "abab", 2)
    assert isinstance((await called.call("well", {"n": 1})).answer, Refused)


@pytest.mark.parametrize("cell", ["%reset -f", "well = 3", "del well", "def well(n): return 'mine'"])
async def test_a_call_has_the_registered_function_whatever_a_session_did_to_its_name(called: Called, cell: str) -> None:
    await called.run(cell)
    assert (await called.call("well", {"n": 1})).answer == Returned(2, "2", 1)


async def test_a_sessions_state_is_the_functions_too(called: Called) -> None:
    await called.publish(f="seen = []\ndef f(n: int):\n    seen.append(n)\n    return seen\n")
    await called.call("f", {"n": 1})
    await called.run("f(2)")
    assert await called.value("f", {"n": 3}) == [1, 2, 3]


# -- being prepared


async def test_a_prepared_kernel_has_loaded_what_its_next_call_needs(called: Called, tmp_path: Path) -> None:
    mark = tmp_path / "imported"
    await called.publish(f=f"from pathlib import Path\nPath({str(mark)!r}).touch()\ndef f(n: int):\n    return n\n")
    called.kernel.prepare()
    with anyio.fail_after(30):
        while not mark.exists():
            await asyncio.sleep(0.01)
    loaded = await called.run("import sys\n[n in sys.modules for n in ('aigbb_inside.contract', 'aigbb_inside.forms')]")
    assert loaded.outputs == (Result({"text/plain": "[True, True]"}, {}),)
    assert await called.value("f", {"n": 1}) == 1


async def test_preparing_shows_nothing_and_ends_nothing(called: Called) -> None:
    for _ in range(3):
        called.kernel.prepare()
    assert called.kernel.state == "idle"
    execution = await called.call("well", {"n": 1})
    assert (execution.outputs, execution.answer) == ((), Returned(2, "2", 1))
    called.kernel.prepare()
    assert await called.is_well()


async def test_preparing_a_dead_kernel_does_nothing(called: Called) -> None:
    await called.kernel.stop()
    called.kernel.prepare()
    assert called.kernel.state == "dead"
