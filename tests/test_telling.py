"""What a model reads of a call: never more than the cap, honest about what is missing, and without secrets."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.outputs import Cut, Display, Done, Error, Execution, Refused, Result, Returned, Stream
from server.callers import Caller
from server.results import Results
from server.scrubbing import Scrubber
from server.telling import MAX_PICTURES, Teller, Told, joined

pytestmark = pytest.mark.anyio
PNG = base64.b64encode(b"\x89PNG").decode()
NO_SECRETS = Scrubber()
NOTHING = "The function returned nothing."


@pytest.fixture
async def results(tmp_path: Path) -> Results:
    """Where wholes and pictures go."""
    return await asyncio.to_thread(Results, tmp_path)


async def tell(
    results: Results,
    answer: Returned | Refused | None,
    *outputs: Stream | Display | Result | Error,
    budget: int = 300,
    mask: Scrubber = NO_SECRETS,
    truncated: bool = False,
) -> Told:
    """What is told of a call that came to this."""
    execution = Execution(outputs, Done("ok", truncated=truncated), answer)
    return await Teller(results, budget).tell(execution, mask, "service")


async def kept(results: Results, link: str | None) -> tuple[bytes, str]:
    """What is behind a link."""
    assert link is not None
    return await results.read(link.removeprefix("/results/"), Caller())


# -- what is cut


async def test_a_short_result_is_told_as_it_is(results: Results) -> None:
    assert await tell(results, Returned([1], "[1]")) == Told("[1]")


async def test_a_text_that_was_cut_has_a_link_to_the_whole(results: Results) -> None:
    told = await tell(results, Returned("a" * 900 + "z", "a" * 100, cut=Cut("z", 800)))
    assert told.content == f"{'a' * 100}\n... 800 characters left out; the whole: {told.whole} ...\nz"
    assert await kept(results, told.whole) == (b"a" * 900 + b"z", "text/plain")


async def test_of_all_else_the_whole_is_json(results: Results) -> None:
    told = await tell(results, Returned({"é": [1, None]}, "{", cut=Cut("}", 20)))
    data, kind = await kept(results, told.whole)
    assert (json.loads(data), kind) == ({"é": [1, None]}, "application/json")


async def test_a_table_that_says_what_is_missing_ends_with_the_link(results: Results) -> None:
    told = await tell(results, Returned({"columns": []}, "rows", cut=Cut()))
    assert told.content == f"rows\n... the whole: {told.whole} ..."


async def test_a_value_that_was_too_large_has_no_link(results: Results) -> None:
    told = await tell(results, Returned(None, "head", cut=Cut("tail", 10**7), lost=True), truncated=True)
    expected = "head\n... 10,000,000 characters left out; the whole is over AIGBB_MAX_OUTPUT ...\ntail"
    assert told == Told(expected)


async def test_a_disk_that_says_no_costs_only_the_link(results: Results, tmp_path: Path) -> None:
    tmp_path.rmdir()
    told = await tell(results, Returned("abcd", "a", cut=Cut("d", 2)), Display({"image/png": PNG}, {}))
    assert told == Told("a\n... 2 characters left out; the whole could not be kept ...\nd")


@given(st.text(max_size=400), st.text(max_size=400), st.integers(0, 10**12), st.integers(150, 600))
def test_what_is_joined_is_within_the_budget_and_counts_right(head: str, tail: str, left_out: int, budget: int) -> None:
    whole = joined(head, Cut(tail, left_out), "the whole: /results/x", budget)
    assert len(whole) <= budget
    first, _, rest = whole.rpartition("; the whole: /results/x ...")
    count = int(first.rpartition("... ")[2].split()[0].replace(",", "")) if first else 0
    start = first.rpartition("\n... ")[0] if first else whole.rpartition("\n... the whole")[0]
    last = rest.removeprefix("\n") if first else whole.partition("the whole: /results/x ...")[2].removeprefix("\n")
    assert head.startswith(start) and tail.endswith(last)
    assert count == len(head) + left_out + len(tail) - len(start) - len(last)


# -- what was printed and shown


async def test_a_function_that_returns_nothing_tells_what_it_printed_and_showed(results: Results) -> None:
    told = await tell(
        results, Returned(None, NOTHING), Stream("stdout", "out\n"), Display({"image/png": PNG, "text/plain": "x"}, {})
    )
    [link] = told.pictures
    assert told.content == f"{NOTHING}\nIt showed: image/png ({link}).\nIt printed:\nout"
    assert await kept(results, link) == (b"\x89PNG", "image/png")


async def test_long_printed_text_is_cut_and_kept(results: Results) -> None:
    told = await tell(results, Returned(None, NOTHING), Stream("stdout", "x" * 1000 + "end"))
    assert told.content is not None and len(told.content) <= 300
    assert told.content.startswith(NOTHING) and told.content.endswith("end")
    assert await kept(results, told.whole) == (f"{NOTHING}\nIt printed:\n{'x' * 1000}end".encode(), "text/plain")


async def test_printed_text_over_the_cap_of_output_has_no_link(results: Results) -> None:
    told = await tell(results, Returned(None, NOTHING), Stream("stdout", "x" * 1000), truncated=True)
    assert told.whole is None
    assert "the whole is over AIGBB_MAX_OUTPUT" in (told.content or "")


async def test_pictures_are_kept_whatever_came_of_the_call(results: Results) -> None:
    jpeg = Display({"image/jpeg": PNG}, {})
    for answer in (None, Refused(()), Returned(1, "1")):
        told = await tell(results, answer, jpeg)
        [link] = told.pictures
        assert link.endswith(".jpg")
    assert told.content == "1"


async def test_what_is_no_picture_is_not_kept_and_not_all_of_many_are(results: Results) -> None:
    odd = [Display({"image/png": data}, {}) for data in ("", "x", "\xff", ["list"], None)]
    svg = Display({"image/svg+xml": "<svg/>"}, {})
    assert (await tell(results, None, *odd, svg)).pictures == ()
    many = [Display({"image/png": PNG}, {})] * (MAX_PICTURES + 5)
    assert len((await tell(results, None, *many)).pictures) == MAX_PICTURES


# -- secrets


async def test_printed_secrets_are_masked_and_returned_ones_are_not(results: Results) -> None:
    mask = Scrubber.masking(["hunter22"])
    printed = await tell(results, Returned(None, NOTHING), Stream("stdout", "hunter22 " * 100), mask=mask)
    assert "hunter22" not in (printed.content or "")
    assert b"hunter22" not in (await kept(results, printed.whole))[0]
    assert (await tell(results, Returned("hunter22", "hunter22"), mask=mask)).content == "hunter22"
