"""No secret leaves in a text, however it is spelt and wherever a stream is cut into pieces."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.errors import ImportFailed, KernelStartFailed
from kernels.outputs import Clear, Cut, Display, Done, Error, Output, Refused, Result, Returned, Stream
from server.scrubbing import Joint, Scrubber

pytestmark = pytest.mark.anyio
PEM = "-----BEGIN KEY-----\nMIIBVgIBADANBgkqhkiG9w0\n-----END KEY-----"


@pytest.mark.parametrize(
    ("values", "text", "expected"),
    [
        (["hunter22"], "the key is hunter22!", "the key is ***!"),
        (["abc"], "abc", "abc"),
        (["abcd", "abcdef"], "abcdef abcd", "*** ***"),
        (["a'b\\c\n"], repr("a'b\\c\n"), '"***"'),
        (['a"b\n'], json.dumps({"k": 'a"b\n'}), '{"k": "***"}'),
        (["gehéim"], json.dumps("gehéim"), '"***"'),
        (["a/b c+d"], f"https://h/?k={quote('a/b c+d', safe='')}", "https://h/?k=***"),
        (["a/b c+d"], "https://h/a/b%20c%2Bd", "https://h/***"),
        (["a/b c+d"], "k=a%2Fb+c%2Bd&l=1", "k=***&l=1"),
        ([PEM], "> MIIBVgIBADANBgkqhkiG9w0\n> -----END KEY-----", "> ***\n> -----END KEY-----"),
        ([], "text", "text"),
    ],
)
def test_secrets_are_masked_also_when_quoted(values: list[str], text: str, expected: str) -> None:
    assert Scrubber.masking(values)(text) == expected


NAMED = Scrubber.of([("hunter22", "[secret A]"), ("hunter22-more", "[secret B]"), ("424242", "[secret N]")])


def test_the_longest_secret_wins_and_is_named() -> None:
    assert NAMED("hunter22-more, hunter22-mor") == "[secret B], [secret A]-mor"
    assert "hunter22" not in repr(NAMED)


def test_json_is_scrubbed_at_any_depth_with_its_names_and_numbers() -> None:
    value = {"hunter22": [1, True, None, {"k": ("x hunter22", 424242, 9424242.5)}]}
    expected = {"[secret A]": [1, True, None, {"k": ["x [secret A]", "[secret N]", "9[secret N].5"]}]}
    assert NAMED.json(value) == expected


def test_an_error_is_scrubbed_as_a_whole() -> None:
    error = NAMED.error(ImportFailed("no hunter22", hint="hunter22?", log="x hunter22", fix={"k": "hunter22"}))
    assert (error.detail, error.hint) == ("no [secret A]", "[secret A]?")
    assert error.extra == {"log": "x [secret A]", "fix": {"k": "[secret A]"}}


# -- streams


def in_pieces(text: str, cuts: list[int]) -> list[str]:
    """A text cut at these places."""
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    return [text[start:end] for start, end in pairwise(places)]


SECRETS = st.lists(st.text("ab", min_size=4, max_size=9), max_size=4)


@given(values=SECRETS, text=st.text("abc", max_size=80), cuts=st.lists(st.integers(0, 80), max_size=30))
def test_pieces_come_to_what_the_whole_comes_to(values: list[str], text: str, cuts: list[int]) -> None:
    scrubber = Scrubber.masking(values)
    joint = Joint(scrubber)
    assert "".join([*map(joint.feed, in_pieces(text, cuts)), joint.finish()]) == scrubber(text)


@given(value=st.text(min_size=8, max_size=40), around=st.text(max_size=20), cuts=st.lists(st.integers(0, 80)))
def test_a_secret_never_passes_in_any_pieces(value: str, around: str, cuts: list[int]) -> None:
    joint = Joint(Scrubber.of([(value, "\0")]))
    said = "".join([*map(joint.feed, in_pieces(around + value + around, cuts)), joint.finish()])
    assert value not in said


def test_what_cannot_be_a_secret_passes_at_once_and_no_more_than_one_is_held_back() -> None:
    joint = Joint(Scrubber.masking(["abcdefgh"]))
    assert joint.feed("one line\n") == "one line\n"
    assert joint.feed("x abcd") == "x "
    assert joint.feed("abcdefg") == "abcd"
    assert joint.feed("?") == "abcdefg?"
    assert joint.finish() == ""


async def scrubbed(*items: Output) -> list[Output]:
    """What an execution's items come to."""

    async def source() -> AsyncGenerator[tuple[str, Output]]:
        for item in items:
            yield "kernel", item

    found = [pair async for pair in NAMED.stream(source())]
    assert {name for name, _ in found} <= {"kernel"}
    return [item for _, item in found]


async def test_streams_are_followed_apart_and_end_before_the_end() -> None:
    items: list[Output] = [
        Stream("stdout", "a hunt"), Stream("stderr", "b hun"),
        Stream("stdout", "er22 c"), Stream("stderr", "gry hunter22"), Done("ok"),
    ]  # fmt: skip
    assert await scrubbed(*items) == [
        Stream("stdout", "a "), Stream("stderr", "b "), Stream("stdout", "[secret A] c"), Stream("stderr", "hungry "),
        Stream("stderr", "[secret A]"), Done("ok"),
    ]  # fmt: skip


async def test_what_is_cleared_is_not_said_later() -> None:
    assert await scrubbed(Stream("stdout", "hunt"), Clear(), Done("ok")) == [Clear(), Done("ok")]


SAID = "x hunter22"
CLEAN = "x [secret A]"


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (Display({"text/plain": SAID, "application/json": {SAID: [SAID]}}, {"m": SAID}),
         Display({"text/plain": CLEAN, "application/json": {CLEAN: [CLEAN]}}, {"m": CLEAN})),
        (Result({"text/html": SAID}, {}), Result({"text/html": CLEAN}, {})),
        (Error(SAID, SAID, (SAID,)), Error(CLEAN, CLEAN, (CLEAN,))),
        (Returned([SAID], SAID, 1, Cut(SAID, 3)), Returned([CLEAN], CLEAN, 1, Cut(CLEAN, 3))),
        (Refused(({"message": SAID},)), Refused(({"message": CLEAN},))),
        (Done("died", detail=SAID), Done("died", detail=CLEAN)),
    ],
    ids=lambda item: type(item).__name__,
)  # fmt: skip
async def test_every_kind_of_item_is_scrubbed(item: Output, expected: Output) -> None:
    assert await scrubbed(item) == [expected]


async def test_a_failure_is_scrubbed_and_the_source_is_closed() -> None:
    closed = []

    async def source() -> AsyncGenerator[tuple[Any, Output]]:
        try:
            yield None, Stream("stdout", "a")
            raise KernelStartFailed(SAID, log=SAID)
        finally:
            closed.append(True)

    with pytest.raises(KernelStartFailed) as caught:
        async for _ in NAMED.stream(source()):
            pass
    assert (caught.value.detail, caught.value.extra) == (CLEAN, {"log": CLEAN})
    assert closed
