"""The items of an execution's stream, the cap on them, and `fold`, which turns a stream into one value.

The items mirror Jupyter's IOPub messages.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate, groupby
from typing import Any, Literal

from kernels.endings import Reason

Status = Literal["ok", "error", "timeout", "output_limit", "cancelled", "died"]
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
    """The value of the last expression, in the same forms as Display; equal by what it shows."""

    data: Bundle
    metadata: Bundle
    execution_count: int | None = field(default=None, compare=False)


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

    truncated: the cap cut something. kernel_lost: the kernel ended, and its variables with it. seconds: how
    long the code ran, without what came before. snapshot: the number of the functions' snapshot that it ran with,
    if the kernel said. reason, exit_code and signal: what ended it, see `Ending`; of timeout, output_limit and died.
    """

    status: Status
    execution_count: int | None = None
    detail: str | None = None
    truncated: bool = False
    kernel_lost: bool = False
    seconds: float = field(default=0.0, compare=False)
    snapshot: int | None = field(default=None, compare=False)
    reason: Reason | None = None
    exit_code: int | None = None
    signal: str | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """What a text goes on with after a gap of so many characters; neither, where it says in words what is missing."""

    tail: str = ""
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Returned:
    """What a call gave back. value is its JSON form, content the text that a model should see.

    version is that of the function that ran, 0 where the kernel was given its source. cut: content is only the
    beginning. lost: the value was too large, and is None.
    """

    value: Any
    content: str
    version: int = 0
    cut: Cut | None = None
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """Arguments that do not fit: the function has not run. errors has one entry a parameter."""

    errors: tuple[Mapping[str, Any], ...]


Output = Stream | Display | Result | Error | Clear | Returned | Refused | Done


@dataclass(frozen=True, slots=True)
class Execution:
    """One run, folded. outputs keeps order; adjacent text of one stream is one item."""

    outputs: tuple[Stream | Display | Result | Error, ...]
    done: Done
    answer: Returned | Refused | None = None

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
    return fold_all([item async for item in stream])


def fold_all(items: Iterable[Output]) -> Execution:
    """All items of a stream as one value."""
    outputs: list[Stream | Display | Result | Error] = []
    shown: dict[str, list[int]] = {}
    answer: Returned | Refused | None = None
    done = Done("died", detail="The stream ended early.")
    for item in items:
        match item:
            case Done():
                done = item
            case Returned() | Refused():
                answer = item
            case Clear():
                outputs.clear()
                shown.clear()
            case Display(update=True):
                for index in shown.get(item.display_id or "", ()):
                    outputs[index] = replace(item, update=False)
            case _:
                if isinstance(item, Display) and item.display_id:
                    shown.setdefault(item.display_id, []).append(len(outputs))
                outputs.append(item)
    return Execution(tuple(_joined(outputs)), done, answer)


def _joined(outputs: Iterable[Stream | Display | Result | Error]) -> Iterator[Stream | Display | Result | Error]:
    """With adjacent text of one stream as one item."""
    for name, group in groupby(outputs, key=lambda item: item.name if isinstance(item, Stream) else None):
        if name is None:
            yield from group
        else:
            yield Stream(name, "".join(item.text for item in group if isinstance(item, Stream)))


# What one item costs beside its text, so that a million empty ones are not free.
_ITEM = 64
# Held text of one stream is joined up to this length, which spares it that cost.
_JOIN = 1024
# How many times the cap, and at least how many bytes, code may write before it is stopped.
_EXCESS, _LEAST_EXCESS = 32, 32 * 1024 * 1024


@dataclass(slots=True)
class Cap:
    """Lets a stream's items through up to a limit of characters, then keeps only the newest.

    Text: the first half of the limit passes at once. What follows is held, in order with all else, up to the
    other half; then its oldest text is cut, and a line says how much. Displays and results: four times the
    limit in all. Errors: the same, and then the last one.
    """

    limit: int
    truncated: bool = False
    _head: int = 0
    _kept: int = 0
    _cut: int = 0
    _rich: int = 0
    _left_out: int = 0
    _noted: set[type[Output]] = field(default_factory=set)
    _raised: int = 0
    _last_error: Error | None = None
    _passed: bool = False
    _held: deque[Output] = field(default_factory=deque)
    _start: int = 0  # of the first item held: what is before it has been cut

    @property
    def most(self) -> int:
        """Bytes after which code that still writes is to be stopped."""
        return max(_EXCESS * self.limit, _LEAST_EXCESS)

    def accept(self, item: Output) -> Iterator[Output]:
        """What may be passed on now that this item has come."""
        for allowed in self._allow(item):
            self._passed = not isinstance(allowed, Clear)
            yield allowed

    def finish(self) -> Iterator[Output]:
        """What was held back, with the line that says what is missing."""
        if self._cut:
            yield Stream("stdout", f"\n... {self._cut:,} characters cut ...\n")
        while self._held:
            yield self._take_oldest()
        if self._left_out:
            yield Stream("stderr", f"\n... {self._left_out:,} displays left out, over the cap ...\n")
        if self._last_error is not None:
            yield self._last_error

    def _allow(self, item: Output) -> Iterator[Output]:
        match item:
            case Stream():
                yield from self._text(item)
            case Display() | Result():
                yield from self._in_order(self._data(item))
            case Error():
                yield from self._in_order(self._exception(item))
            case Clear():
                # A second one with nothing between would cost nothing, and could come for ever.
                if self._passed:
                    yield item
                self._held.clear()
                self._start = self._kept = self._cut = self._left_out = 0
                self._last_error = None
            case Returned():
                yield self._value(item)
            case Refused():
                yield self._refusal(item)
            case _:
                yield item

    def _in_order(self, items: Iterator[Output]) -> Iterator[Output]:
        """Not before text that is held."""
        if self._held:
            self._held.extend(items)
        else:
            yield from items

    def _text(self, item: Stream) -> Iterator[Output]:
        room = 0 if self._held else max(0, self.limit // 2 - self._head)
        head, rest = item.text[:room], item.text[room:]
        if head:
            self._head += len(item.text) + _ITEM
            yield Stream(item.name, head)
        if rest:
            self._hold(item.name, rest)
            yield from self._make_room()

    def _hold(self, name: Literal["stdout", "stderr"], text: str) -> None:
        last = self._held[-1] if self._held else None
        start = max(0, len(text) - max(0, self.limit // 2 - _ITEM))
        self._lose(start)
        if isinstance(last, Stream) and last.name == name and len(last.text) < _JOIN:
            self._held[-1] = Stream(name, last.text + text[start:])
            self._kept += len(text) - start
        else:
            self._held.append(Stream(name, text[start:]))
            self._kept += len(text) - start + _ITEM

    def _make_room(self) -> Iterator[Output]:
        """Cut the oldest text. What else was held before it has a limit of its own, and passes."""
        while self._held:
            oldest, excess = self._held[0], self._kept - self.limit // 2
            if not isinstance(oldest, Stream):
                yield self._take_oldest()
            elif excess <= 0:
                return
            elif excess < (length := len(oldest.text) - self._start):
                self._start += excess
                self._kept -= excess
                self._lose(excess)
            else:
                self._lose(length)
                self._take_oldest()

    def _take_oldest(self) -> Output:
        item, start, self._start = self._held.popleft(), self._start, 0
        if isinstance(item, Stream):
            item = Stream(item.name, item.text[start:])
            self._kept -= len(item.text) + _ITEM
        return item

    def _lose(self, count: int) -> None:
        if count > 0:
            self._cut += count
            self.truncated = True

    def _data(self, item: Display | Result) -> Iterator[Display | Result]:
        data = dict(item.data)
        if isinstance(plain := data.get("text/plain"), str):
            data["text/plain"] = self._middle(plain, self.limit)
        size = _size(data) + _size(item.metadata) + len(getattr(item, "display_id", None) or "")
        self._rich += size + _ITEM
        if self._rich <= 4 * self.limit:
            yield replace(item, data=data)
            return
        self.truncated = True
        self._left_out += 1
        if type(item) not in self._noted:
            self._noted.add(type(item))
            kinds = self._middle(", ".join(sorted(data)), 200)
            yield type(item)({"text/plain": f"[{kinds}: {size:,} characters left out, over the cap]"}, {})

    def _value(self, item: Returned) -> Returned:
        cut = replace(item.cut, tail=self._middle(item.cut.tail, self.limit)) if item.cut else None
        item = replace(item, content=self._middle(item.content, self.limit), cut=cut)
        if _size({"": item.value}) <= self.limit:
            return item
        self.truncated = True
        return replace(item, value=None, lost=True)

    def _refusal(self, item: Refused) -> Refused:
        """All of it, or the first errors that fit."""
        errors, room = list(item.errors), self.limit
        sizes = accumulate(_size(error) for error in errors)
        kept = tuple(error for error, size in zip(errors, sizes, strict=True) if size <= room)
        self.truncated = self.truncated or len(kept) < len(errors)
        return Refused(kept)

    def _exception(self, item: Error) -> Iterator[Error]:
        entries = [self._middle(entry, self.limit // 8) for entry in item.traceback[-20:]]
        hidden = item.frames_hidden + len(item.traceback) - len(entries)
        ename, evalue = self._middle(item.ename, 200), self._middle(item.evalue, self.limit // 4)
        error = Error(ename, evalue, tuple(entries), hidden)
        self._raised += len(ename) + len(evalue) + sum(len(entry) for entry in entries) + _ITEM
        if self._raised <= 4 * self.limit:
            yield error
        else:
            self.truncated = True
            self._last_error = error

    def _middle(self, text: str, limit: int) -> str:
        if len(text) <= limit:
            return text
        self.truncated = True
        half = limit // 2
        return f"{text[:half]}\n... {len(text) - 2 * half:,} characters cut ...\n{text[len(text) - half :]}"


def _size(data: Bundle) -> int:
    return sum(len(key) + len(v if isinstance(v, str) else json.dumps(v)) for key, v in data.items())
