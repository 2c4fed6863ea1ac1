"""The command that talks: a conversation with a model that has the functions at hand."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Annotated, Any, Optional

import typer
from rich.markup import escape
from rich.text import Text

from server.client import Client, ServiceProblem
from server.printing import CODE_FAILED, AsJson, Url, command, err, explain, pairs, print_json, say, service

app = typer.Typer()

# What a terminal would obey, and no model is to say.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# Characters of a result that a person is shown.
FOLDED = 200
_ENDS = {
    "limit": "the limit of rounds is reached",
    "stuck": "the same call failed three times",
    "length": "the model's answer broke off: too long",
    "filtered": "the model's answer was filtered",
}


@app.command(rich_help_panel="Calls")
@command
def chat(
    once: Annotated[
        Optional[str], typer.Option(help="One question, or - to read it from stdin; the answer goes to stdout")
    ] = None,
    model: Annotated[Optional[str], typer.Option(help="Instead of AIGBB_MODEL")] = None,
    tool: Annotated[Optional[list[str]], typer.Option(help="Only this function; repeatable")] = None,
    tag: Annotated[Optional[list[str]], typer.Option(help="Only functions with this tag; repeatable")] = None,
    system: Annotated[Optional[str], typer.Option(help="What the model is told beforehand")] = None,
    bound: Annotated[Optional[list[str]], typer.Option(help="name=value of a bound parameter; repeatable")] = None,
    session: Annotated[Optional[str], typer.Option(help="A session's id: calls share its variables")] = None,
    max_rounds: Annotated[Optional[int], typer.Option(help="Requests to the model in a turn")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Talk with a model; it calls your functions, and you see what it does. End with Ctrl-D."""
    given = {"model": model, "tools": tool, "tags": tag, "session": session, "max_rounds": max_rounds}
    told: dict[str, Any] = {name: value for name, value in given.items() if value}
    talk = Talk(service(url), {**told, "bound": pairs(bound)}, system, as_json=as_json)
    if once is None and not as_json:
        for question in questions():
            talk.try_turn(question)
        return
    done = talk.turn(sys.stdin.read() if once in (None, "-") else str(once))
    if done["status"] != "done":
        raise typer.Exit(CODE_FAILED)


def questions() -> Iterator[str]:
    """What a person types, until there is no more."""
    while True:
        try:
            asked = err.input("[bold]you>[/] ") if sys.stdin.isatty() else input()
        except (EOFError, KeyboardInterrupt):
            return
        if asked.strip():
            yield asked


class Talk:
    """A conversation so far. What a turn adds is kept, also when it failed half-way."""

    def __init__(self, client: Client, told: dict[str, Any], system: str | None, *, as_json: bool) -> None:
        self._client = client
        self._told = told
        self._as_json = as_json
        self._messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []

    def turn(self, question: str) -> dict[str, Any]:
        """Ask, show what happens, and what came of it. Raises ServiceProblem, Unreachable."""
        body = {**self._told, "messages": [*self._messages, {"role": "user", "content": question}]}
        if self._as_json:
            done: dict[str, Any] = self._client.request("POST", "/chat", body)
            print_json(done)
            return done
        shown = Shown()
        try:
            done = self._client.events("/chat", body, shown.hear)
        except ServiceProblem as problem:
            self._messages = problem.body.get("messages", self._messages)
            raise
        finally:
            shown.end()
        self._messages = done["messages"]
        if done["status"] in _ENDS:
            say(f"[yellow]{_ENDS[done['status']]}[/]")
        return done

    def try_turn(self, question: str) -> None:
        """A turn whose end, however it comes, is not that of the conversation."""
        try:
            self.turn(question)
        except ServiceProblem as problem:
            explain(problem, as_json=False)
        except KeyboardInterrupt:
            say("[yellow]stopped[/]")


class Shown:
    """What a terminal shows of a turn: the answer on stdout, all else beside it."""

    def __init__(self) -> None:
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
        folded = " ".join(plain(data["content"]).split())
        folded = folded if len(folded) <= FOLDED else f"{folded[:FOLDED]} ... {len(data['content']):,} characters"
        colour = "green" if data["status"] == "ok" else "red"
        head = f"[{colour}]← {escape(data['name'])} {escape(data['status'])}[/] [dim]{data['duration_ms']:g} ms[/]"
        say(f"{head}  {escape(folded)}")

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


def plain(text: str) -> str:
    """Without what a terminal would take for a command."""
    return _CONTROL.sub("", text)
