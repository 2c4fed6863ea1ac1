"""The items of an execution's stream, the cap on them, and `fold`, which turns a stream into one value.

The items mirror Jupyter's IOPub messages. All text is made valid Unicode, all data valid JSON, here: what
comes from a kernel is untrusted.
"""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import AsyncIterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Status = Literal["ok", "error", "timeout", "cancelled", "died"]
Bundle = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stream:
    """Text written to stdout or stderr."""

    name: Literal["stdout", "stderr"]
    text: str


@dataclass(frozen=True, slots=True)
class Display:
    """Something shown: MIME type to data (text, base64, JSON). update marks a redraw of display_id."""

    data: Bundle
    metadata: Bundle
    display_id: str | None = None
    update: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """The value of the last expression, in the same forms as Display."""

    data: Bundle
    metadata: Bundle


@dataclass(frozen=True, slots=True)
class Error:
    """An exception in the caller's code. traceback has one entry a frame, without ANSI."""

    ename: str
    evalue: str
    traceback: tuple[str, ...]
    frames_hidden: int = 0


@dataclass(frozen=True, slots=True)
class Clear:
    """Forget what was shown so far (IPython.display.clear_output)."""


@dataclass(frozen=True, slots=True)
class Done:
    """The last item, always. detail says in words why the status is not ok.

    truncated: the cap cut something. kernel_lost: the kernel ended, and its variables with it.
    """

    status: Status
    execution_count: int | None = None
    detail: str | None = None
    truncated: bool = False
    kernel_lost: bool = False


Output = Stream | Display | Result | Error | Clear | Done


@dataclass(frozen=True, slots=True)
class Execution:
    """One run, folded. outputs keeps order; adjacent text of one stream is one item."""

    outputs: tuple[Stream | Display | Result | Error, ...]
    done: Done

    def text(self, name: Literal["stdout", "stderr"]) -> str:
        """All that was written to one stream."""
        return "".join(o.text for o in self.outputs if isinstance(o, Stream) and o.name == name)

    @property
    def result(self) -> str | None:
        """The last expression's text/plain, or None."""
        found = [o for o in self.outputs if isinstance(o, Result)]
        return str(found[-1].data.get("text/plain", "")) if found else None

    @property
    def error(self) -> Error | None:
        """The exception that ended the run, or None."""
        return next((o for o in reversed(self.outputs) if isinstance(o, Error)), None)


async def fold(stream: AsyncIterable[Output]) -> Execution:
    """Read a stream to its end."""
    outputs: list[Stream | Display | Result | Error] = []
    done = Done("died", detail="The stream ended early.")
    async for item in stream:
        match item:
            case Done():
                done = item
            case Clear():
                outputs.clear()
            case Display(update=True):
                outputs[:] = [_updated(old, item) for old in outputs]
            case Stream() if outputs and isinstance(last := outputs[-1], Stream) and last.name == item.name:
                outputs[-1] = Stream(item.name, last.text + item.text)
            case _:
                outputs.append(item)
    return Execution(tuple(outputs), done)


def _updated(old: Stream | Display | Result | Error, new: Display) -> Stream | Display | Result | Error:
    if isinstance(old, Display) and old.display_id is not None and old.display_id == new.display_id:
        return replace(new, update=False)
    return old


# What one item costs beside its text, so that a million empty ones are not free.
_ITEM = 64


@dataclass(slots=True)
class Cap:
    """Lets a stream's items through up to a limit of characters, then keeps only the newest.

    Text: the first half of the limit passes at once; of the rest the last half is kept and comes at the end,
    after a line that says how much is missing. Pictures and other data: four times the limit in all.
    """

    limit: int
    truncated: bool = False
    _head: int = 0
    _rich: int = 0
    _cut: int = 0
    _kept: int = 0
    _left_out: int = 0
    _tail: deque[Stream] = field(default_factory=deque)

    def accept(self, item: Output) -> Iterator[Output]:
        """What of this item may be passed on now."""
        match item:
            case Stream():
                yield from self._text(item)
            case Display() | Result():
                yield from self._data(item)
            case Error():
                yield self._exception(item)
            case Clear():
                self._tail.clear()
                self._kept = 0
                yield item
            case _:
                yield item

    def finish(self) -> Iterator[Output]:
        """What was held back, with the line that says what is missing."""
        if self._cut:
            yield Stream("stdout", f"\n… {self._cut:,} characters cut …\n")
        yield from self._tail
        if self._left_out:
            yield Stream("stderr", f"\n… {self._left_out:,} displays left out, over the cap …\n")
        self._tail.clear()

    def _text(self, item: Stream) -> Iterator[Stream]:
        room = max(0, self.limit // 2 - self._head)
        head, rest = item.text[:room], item.text[room:]
        self._head += len(item.text) + _ITEM
        if head:
            yield Stream(item.name, head)
        if rest:
            self._keep(item.name, rest)

    def _keep(self, name: Literal["stdout", "stderr"], text: str) -> None:
        half = self.limit // 2
        self._lose(len(text) - half)
        self._tail.append(Stream(name, text[-half:]))
        self._kept += len(self._tail[-1].text) + _ITEM
        while self._kept > half and len(self._tail) > 1:
            oldest = self._tail.popleft()
            self._kept -= len(oldest.text) + _ITEM
            self._lose(len(oldest.text))

    def _lose(self, count: int) -> None:
        if count > 0:
            self._cut += count
            self.truncated = True

    def _data(self, item: Display | Result) -> Iterator[Display | Result]:
        data = dict(item.data)
        if isinstance(plain := data.get("text/plain"), str):
            data["text/plain"] = self._middle(plain, self.limit)
        size = sum(len(v) if isinstance(v, str) else len(json.dumps(v)) for v in data.values())
        self._rich += size + _ITEM
        if self._rich <= 4 * self.limit:
            yield replace(item, data=data)
            return
        self.truncated = True
        if isinstance(item, Result) or self._left_out == 0:
            note = f"[{', '.join(sorted(data))}: {size:,} characters left out, over the cap]"
            yield replace(item, data={"text/plain": note}, metadata={})
        self._left_out += 1

    def _exception(self, item: Error) -> Error:
        entries = tuple(self._middle(entry, self.limit // 8) for entry in item.traceback[-20:])
        return replace(item, evalue=self._middle(item.evalue, self.limit // 4), traceback=entries)

    def _middle(self, text: str, limit: int) -> str:
        if len(text) <= limit:
            return text
        self.truncated = True
        half = limit // 2
        return f"{text[:half]}\n… {len(text) - 2 * half:,} characters cut …\n{text[-half:]}"


def from_message(kind: str, content: Mapping[str, Any]) -> Output | None:
    """A kernel's IOPub message as an item, or None for one that shows nothing."""
    match kind:
        case "stream":
            name: Literal["stdout", "stderr"] = "stderr" if content.get("name") == "stderr" else "stdout"
            return Stream(name, clean(content.get("text")))
        case "display_data" | "update_display_data":
            transient = content.get("transient")
            identity = transient.get("display_id") if isinstance(transient, dict) else None
            return Display(*_bundles(content), clean(identity) if identity else None, kind == "update_display_data")
        case "execute_result":
            return Result(*_bundles(content))
        case "error":
            return _error(content)
        case "clear_output":
            return Clear()
    return None


def _bundles(content: Mapping[str, Any]) -> tuple[Bundle, Bundle]:
    data, metadata = content.get("data"), content.get("metadata")
    return (
        {clean(k): clean_json(v) for k, v in data.items()} if isinstance(data, dict) else {},
        clean_json(metadata) if isinstance(metadata, dict) else {},
    )


_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_OWN_FILE = re.compile(r"\S*?/(aigbb_functions/[A-Za-z0-9_]+\.py)")
_FRAME = re.compile(r"^(?:File|Cell In|Input In) ?\S*")


def _error(content: Mapping[str, Any]) -> Error:
    lines = content.get("traceback")
    entries = [strip_ansi(clean(line)) for line in lines] if isinstance(lines, list) else []
    entries = [entry for entry in entries if entry.strip("-")]
    kept = tuple(_OWN_FILE.sub(r"\1", entry) for entry in entries if _is_own(entry))
    return Error(
        clean(content.get("ename")) or "Error",
        strip_ansi(clean(content.get("evalue"))),
        kept,
        len(entries) - len(kept),
    )


def _is_own(entry: str) -> bool:
    """Frames of the caller's cell and of registered functions stay; library frames go."""
    if not _FRAME.match(entry):
        return True
    first = entry.split("\n", 1)[0]
    return not first.startswith("File") or bool(_OWN_FILE.search(first))


def strip_ansi(text: str) -> str:
    """Without terminal colours and commands."""
    return _ANSI.sub("", text)


def clean(value: object) -> str:
    """Valid Unicode text of anything: lone surrogates become U+FFFD."""
    text = value if isinstance(value, str) else "" if value is None else str(value)
    return text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text


def clean_json(value: Any) -> Any:
    """The same for a JSON value; NaN and infinities become null."""
    match value:
        case str():
            return clean(value)
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {clean(k): clean_json(v) for k, v in value.items()}
        case list():
            return [clean_json(v) for v in value]
    return value
