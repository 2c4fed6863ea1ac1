"""Pictures in a conversation: links while it is kept and sent about, the pictures themselves when a model reads it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from server.callers import Caller
from server.conversations import Message
from server.errors import UnknownResult
from server.results import Results

LINK = "/results/"
_GONE = {"type": "text", "text": "(This picture is not kept any more.)"}


async def with_pictures(messages: Sequence[Message], results: Results, caller: Caller) -> list[Message]:
    """The same messages, with pictures of the caller's in place of the links to them."""
    return [await _message(message, results, caller) for message in messages]


async def _message(message: Message, results: Results, caller: Caller) -> Message:
    content = message.get("content")
    if message.get("role") != "user" or not isinstance(content, list):
        return message
    return {**message, "content": [await _part(part, results, caller) for part in content]}


async def _part(part: Any, results: Results, caller: Caller) -> Any:
    link = part.get("image_url") if isinstance(part, Mapping) else None
    url = link.get("url") if isinstance(link, Mapping) else None
    if not (isinstance(link, Mapping) and isinstance(url, str) and url.startswith(LINK)):
        return part
    try:
        data, kind = await results.read(url.removeprefix(LINK), caller)
    except UnknownResult:
        return _GONE
    return {**part, "image_url": {**link, "url": f"data:{kind};base64,{base64.b64encode(data).decode()}"}}
