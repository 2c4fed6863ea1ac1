"""Answers as they are written: whole, or piece by piece, the JSON is the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from server.routing import PIECE, as_json

pytestmark = pytest.mark.anyio


class Answered(BaseModel):
    """Something to answer."""

    value: Any
    more: int = 1


async def pieces(value: Any) -> list[bytes]:
    """What is written, in the pieces in which it is."""
    response = as_json(Answered(value=value))
    assert response.media_type == "application/json"
    if isinstance(response, StreamingResponse):
        return [bytes(piece) async for piece in response.body_iterator if not isinstance(piece, str)]
    return [bytes(response.body)]


@pytest.mark.parametrize("value", [None, "", "a", 1.5, [], {}, [1, "b"], {"a": {"b": [None, True]}}])
async def test_a_small_answer_is_one_piece(value: Any) -> None:
    found = await pieces(value)
    assert len(found) == 1
    assert json.loads(found[0]) == {"value": value, "more": 1}


LARGE = {
    "plain": "a" * (3 * PIECE),
    "just over": "a" * (PIECE + 1),
    "escapes at the seams": "a" * (PIECE - 1) + '"\\\n\x00' + "b" * PIECE,
    "only quotes": '"' * (2 * PIECE),
    "other alphabets at the seams": "a" * (PIECE - 1) + "é€😀" + "ü" * PIECE,
    "within a list": ["x", "a" * (2 * PIECE), ["y"]],
    "within objects": {"k": {'"': "a" * (2 * PIECE), "n": 1}, "l": []},
    "many items": list(range(2 * PIECE)),
    "many members": {str(n): n for n in range(2 * PIECE)},
    "many texts": ["text"] * (2 * PIECE),
}


@pytest.mark.parametrize("value", LARGE.values(), ids=LARGE)
async def test_a_large_answer_comes_in_pieces_that_make_the_same_json(value: Any) -> None:
    found = await pieces(value)
    assert len(found) > 1
    assert max(map(len, found)) < 8 * PIECE
    assert json.loads(b"".join(found)) == {"value": value, "more": 1}
