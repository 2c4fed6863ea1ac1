"""Takes secrets out of what leaves kernels and the service, wherever they appear literally."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus

from kernels.errors import AigbbError
from kernels.outputs import Clear, Display, Done, Error, Output, Refused, Result, Returned, Stream

T = TypeVar("T")

# Shorter values are words that texts have anyway.
SHORTEST = 4
# A line of a longer secret counts as one from this length on: keys are often printed line by line.
SHORTEST_LINE = 16


@dataclass(frozen=True, slots=True)
class Scrubber:
    """Replaces secrets, also as Python, JSON and URLs write them. forms: each spelling, and what stands for it."""

    forms: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, values: Iterable[tuple[str, str]]) -> Scrubber:
        """From values, each with what is to stand for it; short ones are no secrets."""
        forms = {form: word for value, word in values if len(value) >= SHORTEST for form in _spelled(value)}
        return cls(dict(sorted(forms.items(), key=lambda form: (-len(form[0]), form[0]))))

    @classmethod
    def masking(cls, values: Iterable[str]) -> Scrubber:
        """From values without names."""
        return cls.of((value, "***") for value in values)

    def __bool__(self) -> bool:
        return bool(self.forms)

    def __call__(self, text: str) -> str:
        """The text without them."""
        present = [form for form in self.forms if form in text]
        if not present:
            return text
        return re.sub("|".join(map(re.escape, present)), lambda found: self.forms[found[0]], text)

    def json(self, value: Any) -> Any:
        """A JSON value without them; a number that spells one becomes a text."""
        match value:
            case str():
                return self(value)
            case dict():
                return {self(name) if isinstance(name, str) else name: self.json(v) for name, v in value.items()}
            case list() | tuple():
                return [self.json(v) for v in value]
            case int() | float() if not isinstance(value, bool):
                text = str(value)
                return value if (scrubbed := self(text)) == text else scrubbed
        return value

    def error(self, error: AigbbError) -> AigbbError:
        """The same error without them."""
        if self:
            error.detail, error.hint, error.extra = self(error.detail), self(error.hint), self.json(error.extra)
        return error

    async def stream(self, items: AsyncGenerator[tuple[T, Output]]) -> AsyncGenerator[tuple[T, Output]]:
        """An execution's items without them, also where one is split over two. Raises what `items` raises."""
        joints = {"stdout": Joint(self), "stderr": Joint(self)}
        try:
            async with aclosing(items) as opened:
                async for source, item in opened:
                    for scrubbed in self._items(item, joints):
                        yield source, scrubbed
        except AigbbError as error:
            raise self.error(error)  # noqa: B904  # it is the same one

    def _items(self, item: Output, joints: Mapping[str, Joint]) -> Iterator[Output]:
        """What may be passed on now that this item has come."""
        match item:
            case Stream():
                if text := joints[item.name].feed(item.text):
                    yield Stream(item.name, text)
                return
            case Clear():
                for joint in joints.values():
                    joint.finish()
            case Done():
                yield from (Stream("stdout", text) for text in [joints["stdout"].finish()] if text)
                yield from (Stream("stderr", text) for text in [joints["stderr"].finish()] if text)
        yield self._item(item)

    def _item(self, item: Output) -> Output:
        match item:
            case Display() | Result():
                return replace(item, data=self.json(item.data), metadata=self.json(item.metadata))
            case Error():
                traceback = tuple(map(self, item.traceback))
                return replace(item, ename=self(item.ename), evalue=self(item.evalue), traceback=traceback)
            case Returned():
                cut = replace(item.cut, tail=self(item.cut.tail)) if item.cut else None
                return replace(item, value=self.json(item.value), content=self(item.content), cut=cut)
            case Refused():
                return Refused(tuple(self.json(error) for error in item.errors))
            case Done(detail=str(detail)):
                return replace(item, detail=self(detail))
        return item


class Joint:
    """One text that comes in pieces. What may be the beginning of a secret is held back until more is known."""

    def __init__(self, scrubber: Scrubber) -> None:
        self._scrubber = scrubber
        self._held = ""

    def feed(self, piece: str) -> str:
        """What may be passed on now. As much as the longest secret is held back, at most."""
        text, start, parts = self._held + piece, 0, []
        forms = self._scrubber.forms
        present = [re.escape(form) for form in forms if form in text]
        pattern = re.compile("|".join(present)) if present else None
        while True:
            open_at = min((_opens(form, text, start) for form in forms), default=len(text))
            found = pattern.search(text, start) if pattern else None
            if found is None or found.start() >= open_at:
                break
            parts += [text[start : found.start()], forms[found[0]]]
            start = found.end()
        self._held = text[open_at:]
        return "".join((*parts, text[start:open_at]))

    def finish(self) -> str:
        """The rest."""
        text, self._held = self._held, ""
        return self._scrubber(text)


def _opens(form: str, text: str, start: int) -> int:
    """Where in a text, from `start` on, a form begins that the end of the text cuts off; its length if nowhere."""
    at = text.find(form[0], max(start, len(text) - len(form) + 1))
    while at >= 0:
        if form.startswith(text[at:]):
            return at
        at = text.find(form[0], at + 1)
    return len(text)


def _spelled(value: str) -> set[str]:
    """A value as it is, as Python and JSON quote it, as it stands in URLs, and the lines of a long one."""
    forms = {value, repr(value)[1:-1], json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    forms |= {quote(value), quote(value, safe=""), quote_plus(value)}
    lines = (line.strip() for line in value.splitlines())
    return forms | {line for line in lines if len(line) >= SHORTEST_LINE and not line.startswith("-----")}
