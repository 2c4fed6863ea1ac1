"""What a model reads of a call: a bounded text, links to what it leaves out, and no secret of the functions."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import structlog
from pydantic_core import to_json

from kernels.outputs import Cut, Display, Execution, Returned
from server.results import Results

log = structlog.get_logger(__name__)

MAX_PICTURES = 8
PICTURES = ("image/png", "image/jpeg")


@dataclass(frozen=True, slots=True)
class Told:
    """content is None where the function gave no result. whole and pictures are links, see `Results`."""

    content: str | None
    whole: str | None = None
    pictures: tuple[str, ...] = ()


class Teller:
    """Tells of calls in at most `budget` characters. What it leaves out, and pictures, are kept in `results`."""

    def __init__(self, results: Results, budget: int) -> None:
        self._results = results
        self._budget = budget

    async def tell(self, execution: Execution, mask: Callable[[str], str], owner: str) -> Told:
        """What there is to say. What was printed is passed through `mask`; results are as they are.

        owner: the id of the key whose links they are.
        """
        pictures = tuple([link async for link in self._pictures(execution, owner)])
        returned = execution.answer
        if not isinstance(returned, Returned):
            return Told(None, pictures=pictures)
        if returned.cut is not None:
            link = None if returned.lost else await self._kept(returned.value, owner)
            where = _where(link, lost=returned.lost)
            return Told(joined(returned.content, returned.cut, where, self._budget), link, pictures)
        if returned.value is not None or returned.lost:
            return Told(returned.content, pictures=pictures)
        text = "\n".join([returned.content, *_beside(execution, mask, pictures)])
        if len(text) <= self._budget:
            return Told(text, pictures=pictures)
        link = None if execution.done.truncated else await self._kept(text, owner)
        where, middle = _where(link, lost=execution.done.truncated), len(text) // 2
        return Told(joined(text[:middle], Cut(text[middle:]), where, self._budget), link, pictures)

    async def _pictures(self, execution: Execution, owner: str) -> AsyncIterator[str]:
        shown = (o.data for o in execution.outputs if isinstance(o, Display))
        found = ((kind, data[kind]) for data in shown for kind in PICTURES if isinstance(data.get(kind), str))
        for kind, text in islice(found, MAX_PICTURES):
            if (data := await asyncio.to_thread(_decoded, text)) and (link := await self._keep(data, kind, owner)):
                yield link

    async def _kept(self, value: Any, owner: str) -> str | None:
        """The link of a value: text as it is, all else as JSON."""
        if isinstance(value, str):
            return await self._keep(value.encode(), "text/plain", owner)
        return await self._keep(await asyncio.to_thread(to_json, value), "application/json", owner)

    async def _keep(self, data: bytes, kind: str, owner: str) -> str | None:
        """None where the disk says no: the call is done, and its answer must not be lost for that."""
        try:
            return await self._results.keep(data, kind, owner)
        except OSError as error:
            log.warning("result.not_kept", error=str(error))
            return None


def _where(link: str | None, *, lost: bool) -> str:
    if lost:
        return "the whole is over AIGBB_MAX_OUTPUT"
    return f"the whole: {link}" if link else "the whole could not be kept"


def joined(head: str, cut: Cut, where: str, budget: int) -> str:
    """Head and tail of a text in at most `budget` characters; a line between says what is missing and `where` it is."""
    total = len(head) + cut.left_out + len(cut.tail)
    room = max(0, budget - len(f"\n... {total:,} characters left out; {where} ...\n"))
    last = cut.tail[max(0, len(cut.tail) - room // 3) :]
    first = head[: room - len(last)]
    left_out = total - len(first) - len(last)
    words = f"{left_out:,} characters left out; " if left_out else ""
    after = f"\n{last}" if last else ""
    return f"{first}\n... {words}{where} ...{after}"


def _beside(execution: Execution, mask: Callable[[str], str], pictures: Sequence[str]) -> Iterator[str]:
    """What a function that returns nothing did instead."""
    shown = [o for o in execution.outputs if isinstance(o, Display)]
    if kinds := ", ".join(sorted({max(o.data, key=_richness) for o in shown if o.data})):
        links = f" ({', '.join(pictures)})" if pictures else ""
        yield f"It showed: {kinds}{links}."
    if printed := execution.text("stdout").strip():
        yield f"It printed:\n{mask(printed)}"


def _richness(kind: str) -> tuple[bool, bool]:
    return kind.startswith("image/"), kind != "text/plain"


def _decoded(text: str) -> bytes:
    """The bytes of a picture; none where it is no Base64."""
    try:
        return base64.b64decode(text)
    except ValueError:
        return b""
