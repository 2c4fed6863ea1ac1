"""A terminal: what it shows of a turn as it goes, the pictures that it saves, and the lines that a person types."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.text import Text

from server.client import Client, ServiceProblem
from server.printing import err, say

Pictures = Annotated[Path, typer.Option(file_okay=False, help="Folder to save pictures in, which functions show")]

# What a terminal would obey, and no model is to say.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Characters of a result that a person is shown.
FOLDED = 200
_ENDS = {
    "limit": "the limit of rounds is reached",
    "stuck": "the same call failed three times",
    "length": "the model's answer broke off: too long",
    "filtered": "the model's answer was filtered",
}


def follow(client: Client, path: str, body: object, pictures: Path) -> dict[str, Any]:
    """Begin a turn, or go on with one, and show it; what it came to. Raises ServiceProblem, Unreachable."""
    shown = Shown(Album(client, pictures))
    try:
        done: dict[str, Any] = client.events(path, body, shown.hear)
    finally:
        shown.end()
    if done["status"] in _ENDS:
        say(f"[yellow]{_ENDS[done['status']]}[/]")
    return done


@dataclass(frozen=True)
class Album:
    """A folder where pictures of results are saved, beside those that are there already."""

    client: Client
    folder: Path

    def save(self, function: str, link: str) -> None:
        """Fetch a picture, and say where it is now, or why not."""
        try:
            data = self.client.fetch("GET", link).content
            path = self._write(function, PurePosixPath(link).suffix, data)
        except (OSError, ServiceProblem) as error:
            say(f"[yellow]a picture of {escape(function)} is not saved:[/] {escape(str(error))}")
        else:
            say(f"[dim]picture:[/] {escape(str(path))}")

    def _write(self, function: str, suffix: str, data: bytes) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            path = self.folder / f"{function}-{number}{suffix}"
            with suppress(FileExistsError), path.open("xb") as file:
                file.write(data)
                return path
        raise AssertionError("numbers do not end")


class Shown:
    """What a terminal shows of a turn: the answer on stdout, all else beside it."""

    def __init__(self, album: Album) -> None:
        self._album = album
        self._open: str | int | None = None  # what the line that is not ended yet is about

    def hear(self, name: str, data: dict[str, Any]) -> None:
        """An event of the turn."""
        match name:
            case "content.delta":
                self._begin("answer")
                sys.stdout.write(plain(data["text"]))
                sys.stdout.flush()
            case "thought.delta":
                self._begin("thought")
                err.print(Text(plain(data["text"]), "dim italic"), end="", soft_wrap=True)
            case "tool_call.delta":
                if self._open != data["position"]:
                    self._begin(data["position"])
                    err.print(Text(f"→ {plain(data['name'])} ", "cyan"), end="", soft_wrap=True)
                err.print(Text(plain(data["arguments"]), "dim"), end="", soft_wrap=True)
            case "tool_result":
                self.end()
                self._result(data)

    def _result(self, data: dict[str, Any]) -> None:
        colour = "green" if data["status"] in ("ok", "answered") else "red"
        head = f"[{colour}]← {escape(data['name'])} {escape(data['status'])}[/] [dim]{data['duration_ms']:g} ms[/]"
        say(f"{head}  {escape(folded(data['content']))}")
        if data["whole"]:
            say(f"[dim]whole:[/] {escape(self._album.client.url + data['whole'])}")
        for link in data["pictures"]:
            self._album.save(data["name"], link)

    def _begin(self, what: str | int) -> None:
        if self._open != what:
            self.end()
            self._open = what

    def end(self) -> None:
        """End the line that was begun."""
        if self._open == "answer":
            sys.stdout.write("\n")
            sys.stdout.flush()
        elif self._open is not None:
            err.print()
        self._open = None


# -- texts


def plain(text: str) -> str:
    """Without what a terminal would take for a command."""
    return _CONTROL.sub("", text)


def folded(text: str) -> str:
    """A result on one line; of a long one the beginning, and how long it is."""
    line = " ".join(plain(text).split())
    return line if len(line) <= FOLDED else f"{line[:FOLDED]} ... {len(text):,} characters"


def as_read(value: object, indent: int | None = None) -> str:
    """JSON that shows whatever is in it: signs that nobody sees, or that turn a line round, are written as codes."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return "".join(sign if sign.isprintable() or sign == "\n" else json.dumps(sign)[1:-1] for sign in text)


# -- typing


def is_person() -> bool:
    """Whether somebody sits there who can be asked."""
    return sys.stdin.isatty()


def typed(markup: str, prefill: str = "") -> str:
    """A line that a person types, or edits. Raises EOFError, KeyboardInterrupt."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        err.print(markup, end="", highlight=False, soft_wrap=True)
        return input()
    with err.capture() as drawn:
        err.print(markup, end="", highlight=False, soft_wrap=True)
    with _prefilled(prefill):
        # The line's editor counts what it draws: colours take no place.
        return input(_COLOUR.sub(lambda colour: f"\001{colour[0]}\002", drawn.get()))


@contextmanager
def _prefilled(text: str) -> Iterator[None]:
    """The next line begins with this, where Python has an editor of lines."""
    try:
        import readline
    except ImportError:
        yield
        return
    readline.set_startup_hook(lambda: readline.insert_text(text))
    try:
        yield
    finally:
        readline.set_startup_hook()
