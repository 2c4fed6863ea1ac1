"""The items of a stream: how they fold, and how they are capped."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.outputs import (
    Cap,
    Clear,
    Cut,
    Display,
    Done,
    Error,
    Execution,
    Output,
    Refused,
    Result,
    Returned,
    Stream,
    fold,
)

OK = Done("ok")


async def stream(items: Iterable[Output]) -> AsyncIterator[Output]:
    """As a kernel would send them."""
    for item in items:
        yield item


async def folded(*items: Output) -> Execution:
    """Fold them."""
    return await fold(stream(items))


def out(text: str) -> Stream:
    """Text on stdout."""
    return Stream("stdout", text)


def shown(text: str, identity: str | None = None, *, update: bool = False) -> Display:
    """A plain display."""
    return Display({"text/plain": text}, {}, identity, update)


# -- fold


@pytest.mark.anyio
async def test_adjacent_text_of_one_stream_is_joined() -> None:
    err = Stream("stderr", "e")
    execution = await folded(out("a"), out("b"), err, err, out("c"), shown("d"), out("e"), OK)
    assert execution.outputs == (out("ab"), Stream("stderr", "ee"), out("c"), shown("d"), out("e"))
    assert execution.text("stdout") == "abce"
    assert execution.text("stderr") == "ee"
    assert execution.done is OK


@pytest.mark.anyio
async def test_an_update_redraws_every_display_of_its_id_and_no_other() -> None:
    items = [shown("1", "x"), shown("2", "y"), shown("3", "x"), shown("4"), shown("new", "x", update=True)]
    execution = await folded(*items, shown("lost", "z", update=True), shown("lost", None, update=True), OK)
    assert execution.outputs == (shown("new", "x"), shown("2", "y"), shown("new", "x"), shown("4"))


@pytest.mark.anyio
async def test_clearing_forgets_what_was_shown_and_what_could_be_redrawn() -> None:
    execution = await folded(out("a"), shown("1", "x"), Clear(), out("b"), shown("2", "x", update=True), OK)
    assert execution.outputs == (out("b"),)


@pytest.mark.anyio
async def test_the_last_result_and_the_last_error_count() -> None:
    first, last = Error("A", "", ()), Error("B", "", ())
    results = (Result({"text/plain": "1"}, {}), Result({"text/plain": "2"}, {}))
    execution = await folded(*results, first, last, OK)
    assert execution.result == "2"
    assert execution.error == last
    nothing = await folded(OK)
    assert nothing.result is None and nothing.error is None


@pytest.mark.anyio
@pytest.mark.parametrize("answer", [Returned(None, "nothing"), Refused(())])
async def test_the_answer_of_a_call_is_beside_what_it_showed(answer: Returned | Refused) -> None:
    execution = await folded(out("a"), Clear(), out("b"), answer, out("c"), OK)
    assert execution.answer == answer
    assert execution.outputs == (out("bc"),)
    assert (await folded(out("a"), OK)).answer is None


@pytest.mark.anyio
async def test_a_stream_without_an_end_has_died() -> None:
    assert (await folded(out("a"))).done.status == "died"


@pytest.mark.anyio
async def test_many_small_pieces_fold_without_copying_each_time() -> None:
    # Were each piece added to the text so far, this would move 800 GB.
    pieces = [out("x" * 40)] * 200_000
    assert len((await folded(*pieces, OK)).text("stdout")) == 8_000_000


# -- Cap


NAMES = st.sampled_from(["stdout", "stderr"])
TEXTS = st.one_of(st.text(max_size=20), st.integers(0, 3000).map(lambda size: "abcdefghij" * (size // 10)))
STREAMS = st.builds(Stream, NAMES, TEXTS)
DISPLAYS = st.builds(shown, TEXTS)
RESULTS = st.builds(lambda text: Result({"text/plain": text, "text/html": text}, {}), TEXTS)
ERRORS = st.builds(lambda text, frames: Error("E", text, tuple(frames)), TEXTS, st.lists(TEXTS, max_size=4))
ITEMS = st.lists(st.one_of(STREAMS, STREAMS, DISPLAYS, RESULTS, ERRORS, st.just(Clear())), max_size=40)
LIMITS = st.integers(1024, 8000)
NOTICE = re.compile(r"^\n\.\.\. ([\d,]+) characters cut \.\.\.\n$")


def through(cap: Cap, items: Iterable[Output]) -> list[Output]:
    """What comes out at the other end."""
    passed = [allowed for item in items for allowed in cap.accept(item)]
    return [*passed, *cap.finish()]


def written(items: Iterable[Output]) -> str:
    """All text, of both streams."""
    return "".join(item.text for item in items if isinstance(item, Stream))


def without_notices(items: Iterable[Output]) -> list[Output]:
    """Only what the caller's code wrote."""
    return [i for i in items if not (isinstance(i, Stream) and i.text.startswith("\n... "))]


def joined(items: Sequence[Output]) -> list[Output]:
    """Adjacent text of one stream as one item; empty text goes."""
    done: list[Output] = []
    for item in items:
        last = done[-1] if done else None
        if isinstance(item, Stream) and isinstance(last, Stream) and last.name == item.name:
            done[-1] = Stream(item.name, last.text + item.text)
        elif not isinstance(item, Stream) or item.text:
            done.append(item)
    return done


SMALL = st.builds(shown, st.text(max_size=20))


@given(st.lists(st.one_of(STREAMS, STREAMS, SMALL), max_size=40))
def test_under_the_limit_everything_passes_unchanged_and_in_order(items: list[Output]) -> None:
    cap = Cap(200 + sum(len(item.text) + 64 if isinstance(item, Stream) else 40 for item in items))
    passed = through(cap, items)
    assert joined(passed) == joined(items)
    assert not cap.truncated


@given(st.lists(STREAMS, max_size=40), LIMITS)
def test_text_is_bounded_keeps_both_ends_and_counts_what_is_cut(items: list[Output], limit: int) -> None:
    cap = Cap(limit)
    passed = through(cap, items)
    all_text, kept = written(items), written(without_notices(passed))
    notices = [match for item in passed if isinstance(item, Stream) and (match := NOTICE.match(item.text))]
    cut = sum(int(match[1].replace(",", "")) for match in notices)
    assert len(kept) <= limit
    assert len(notices) <= 1
    assert cut == len(all_text) - len(kept)
    assert cap.truncated == (cut > 0)
    if cut:
        at = next(index for index, item in enumerate(passed) if isinstance(item, Stream) and NOTICE.match(item.text))
        assert all_text.startswith(written(passed[:at]))
        assert all_text.endswith(written(passed[at + 1 :]))


@given(ITEMS, LIMITS)
def test_everything_together_is_bounded(items: list[Output], limit: int) -> None:
    passed = through(Cap(limit), [*items, *items, *items])
    assert sum(len(json.dumps(repr(item), ensure_ascii=False)) for item in passed) < 30 * limit
    assert len(written(without_notices(passed))) <= limit


@given(ITEMS, LIMITS)
def test_a_cap_takes_nothing_for_granted_after_a_clear(items: list[Output], limit: int) -> None:
    """What comes after the last clear is all that a folded execution shows."""
    cap = Cap(limit)
    passed = through(cap, [*items, Clear(), out("end")])
    last = max((i for i, item in enumerate(passed) if isinstance(item, Clear)), default=-1)
    assert joined(passed[last + 1 :]) == [out("end")]


ENDLESS = {
    "text": out("x" * 100),
    "empty text": out(""),
    "displays": shown("x" * 10),
    "empty displays": Display({}, {}),
    "long types": Display({"x" * 10_000: ""}, {}),
    "metadata": Display({}, {"a": "x" * 10_000}),
    "ids": Display({}, {}, "x" * 10_000),
    "updates": shown("x", "id", update=True),
    "results": Result({"text/plain": "x" * 5000}, {}),
    "errors": Error("E" * 10_000, "x" * 10_000, ("y" * 10_000,) * 100),
    "clears": Clear(),
}


@pytest.mark.parametrize("item", ENDLESS.values(), ids=ENDLESS)
def test_nothing_comes_for_ever(item: Output) -> None:
    cap = Cap(2000)
    passed = through(cap, [out("first"), *[item] * 3000])
    assert len(passed) < 200
    assert sum(len(repr(allowed)) for allowed in passed) < 100_000


def test_text_after_the_first_half_waits_and_the_order_stays() -> None:
    cap = Cap(2000)
    passed = [*cap.accept(out("a" * 1100)), *cap.accept(shown("picture")), *cap.accept(Error("E", "", ()))]
    assert passed == [out("a" * 1000)]
    assert list(cap.finish()) == [out("a" * 100), shown("picture"), Error("E", "", ())]


def test_a_display_waits_only_for_text_that_may_still_come() -> None:
    cap = Cap(2000)
    passed = [a for item in (out("a" * 1100), shown("picture"), out("b" * 5000)) for a in cap.accept(item)]
    assert passed == [out("a" * 1000), shown("picture")]
    assert cap.truncated


def test_many_small_writes_are_not_cut_before_the_limit() -> None:
    cap = Cap(100_000)
    items = [out(f"{number:05}\n") for number in range(8_000)]
    assert written(through(cap, items)) == written(items)


def test_a_long_error_keeps_its_end_and_says_what_is_hidden() -> None:
    frames = tuple(f"frame {number}" for number in range(50))
    (error,) = Cap(8000).accept(Error("E", "x" * 5000, frames, frames_hidden=3))
    assert isinstance(error, Error)
    assert error.traceback == frames[-20:]
    assert error.frames_hidden == 33
    assert len(error.evalue) < 2100 and "3,000 characters cut" in error.evalue


def test_the_error_that_ends_a_run_comes_through_after_any_number_of_others() -> None:
    cap = Cap(2000)
    passed = through(cap, [*[Error("Often", "x" * 400, ())] * 100, Error("Last", "", ())])
    assert passed[-1] == Error("Last", "", ())
    assert len(passed) < 30 and cap.truncated


def test_pictures_have_four_times_the_limit_and_then_are_counted() -> None:
    cap, picture = Cap(1024), Display({"image/png": "x" * 900}, {})
    passed = through(cap, [picture] * 10)
    assert passed[:4] == [picture] * 4
    assert passed[4:] == [
        Display({"text/plain": "[image/png: 909 characters left out, over the cap]"}, {}),
        Stream("stderr", "\n... 6 displays left out, over the cap ...\n"),
    ]


def test_a_long_result_is_cut_in_its_middle() -> None:
    cap = Cap(1024)
    (result,) = cap.accept(Result({"text/plain": "a" * 1000 + "b" * 1000}, {}))
    assert isinstance(result, Result)
    text = result.data["text/plain"]
    assert text == "a" * 512 + "\n... 976 characters cut ...\n" + "b" * 512
    assert cap.truncated


VALUES: list[tuple[Any, int]] = [
    ("x" * 1000, 1000),
    ([1] * 300, 900),
    ({"a": "x" * 1000}, 1009),
]


@pytest.mark.parametrize(("value", "size"), VALUES)
def test_a_value_passes_up_to_the_limit_and_is_left_out_over_it(value: Any, size: int) -> None:
    fits, short = Cap(size), Cap(size - 1)
    assert through(fits, [Returned(value, "content", 3)]) == [Returned(value, "content", 3)]
    assert not fits.truncated
    assert through(short, [Returned(value, "content", 3)]) == [Returned(None, "content", 3, lost=True)]
    assert short.truncated


def test_a_value_comes_whatever_was_shown_before() -> None:
    cap = Cap(1024)
    passed = through(cap, [*[out("x" * 100)] * 50, Returned([1, 2], "[1,2]")])
    assert Returned([1, 2], "[1,2]") in passed


@pytest.mark.parametrize(
    "answer",
    [
        Returned(None, "x" * 1_000_000),
        Returned(None, "", cut=Cut("x" * 1_000_000, 1)),
        Refused(({"message": "x" * 1_000_000},)),
        Refused(({"message": "x" * 10_000},) * 100),
    ],
    ids=["content", "tail", "message", "messages"],
)
def test_all_of_an_answer_is_bounded(answer: Output) -> None:
    """A kernel's own code is honest about these; code that runs in it may send anything."""
    cap = Cap(2000)
    assert sum(len(repr(item)) for item in through(cap, [answer])) < 20_000
    assert cap.truncated
