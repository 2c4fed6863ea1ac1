"""The commands that talk: a conversation with a model that has the functions at hand, and those that are kept."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.markup import escape

from server.cli_approvals import IDS, asked, decide, show_waiting
from server.client import Client, ServiceProblem, path_of
from server.errors import ConversationNotFound
from server.models import Mode
from server.printing import (
    CODE_FAILED,
    AsJson,
    Url,
    command,
    explain,
    moment,
    pairs,
    print_json,
    print_table,
    say,
    service,
    write,
)
from server.settings import own_key
from server.terminal import Pictures, folded, follow, is_person, plain, typed

app = typer.Typer()


# -- talking


@app.command(rich_help_panel="Calls")
@command
def chat(
    once: Annotated[
        Optional[str], typer.Option(help="One question, or - to read it from stdin; the answer goes to stdout")
    ] = None,
    model: Annotated[Optional[str], typer.Option(help="Instead of AIGBB_MODEL")] = None,
    tool: Annotated[
        Optional[list[str]], typer.Option("--tool", "--tools", help="Only this function; repeatable")
    ] = None,
    tag: Annotated[Optional[list[str]], typer.Option(help="Only functions with this tag; repeatable")] = None,
    approve: Annotated[
        Optional[list[str]], typer.Option(help="A function, or NAME@N, that may run without a decision; repeatable")
    ] = None,
    conversation: Annotated[Optional[str], typer.Option(help="Keep it under this id, or go on with it")] = None,
    system: Annotated[Optional[str], typer.Option(help="What the model is told beforehand")] = None,
    mode: Annotated[Optional[Mode], typer.Option(help="How the model is spoken to; as it can if left out")] = None,
    bound: Annotated[Optional[list[str]], typer.Option(help="name=value of a bound parameter; repeatable")] = None,
    session: Annotated[Optional[str], typer.Option(help="A session's id: calls share its variables")] = None,
    max_rounds: Annotated[Optional[int], typer.Option(help="Requests to the model in a turn")] = None,
    base_url: Annotated[
        Optional[str], typer.Option(help="Another model service, with the key in your OPENAI_API_KEY")
    ] = None,
    pictures: Pictures = Path(),
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Talk with a model; it calls your functions, and you see what it does. End with Ctrl-D."""
    given = {"model": model, "tools": tool, "tags": tag, "session": session, "max_rounds": max_rounds, "mode": mode}
    told: dict[str, Any] = {name: value for name, value in given.items() if value}
    if base_url:
        told["service"] = {"base_url": base_url, "api_key": own_key()}
    begins = [{"role": "system", "content": system}] if system else []
    talk = Talk(service(url), {**told, "bound": pairs(bound)}, pictures, conversation, approve or [], begins)
    if once is None and not as_json:
        _converse(talk)
        return
    done = talk.turn(sys.stdin.read() if once in (None, "-") else str(once), as_json=as_json)
    if done["approval"] and not as_json:
        show_waiting(done["approval"])
    if done["status"] != "done":
        raise typer.Exit(CODE_FAILED)


def _converse(talk: Talk) -> None:
    """Turn after turn, until there are no more questions. What goes wrong in one is not the end."""
    if is_person():
        with _explained():
            talk.resume()
    for question in _questions():
        with _explained():
            done = talk.turn(question)
            if is_person():
                talk.settle(done)
            elif done["approval"]:  # the next question would go on without
                show_waiting(done["approval"])
                raise typer.Exit(CODE_FAILED)


def _questions() -> Iterator[str]:
    """What a person types, until there is no more."""
    while True:
        try:
            question = typed("[bold]you>[/] ") if is_person() else input()
        except (EOFError, KeyboardInterrupt):
            return
        if question.strip():
            yield question


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except ServiceProblem as problem:
        explain(problem, as_json=False)
    except KeyboardInterrupt:
        say("[yellow]stopped[/]")


@dataclass
class Talk:
    """A conversation so far, kept here until the service keeps it: then it has an id, and only what is new is sent.

    What a turn adds is kept, also when it failed half-way. approved: functions that need no decision.
    """

    client: Client
    told: Mapping[str, Any]
    pictures: Path
    conversation: str | None
    approved: list[str]
    messages: list[dict[str, Any]]

    def turn(self, question: str, *, as_json: bool = False) -> dict[str, Any]:
        """Ask, show what happens, and what came of it. Raises ServiceProblem, Unreachable."""
        if self.conversation and self.messages and self._found():
            self.messages = []
        messages = [*self.messages, {"role": "user", "content": question}]
        kept = {"conversation": self.conversation} if self.conversation else {}
        body = {**self.told, **kept, "approved": self.approved, "messages": messages}
        if as_json:
            done: dict[str, Any] = self.client.request("POST", "/chat", body)
            print_json(done)
            return done
        try:
            return self._kept(follow(self.client, "/chat", body, self.pictures))
        except ServiceProblem as problem:
            if self.conversation is None:
                self.messages = problem.body.get("messages", self.messages)
            raise

    def settle(self, done: Mapping[str, Any]) -> None:
        """Ask a person about what waits, and go on, until nothing does. Raises ServiceProblem, Unreachable."""
        approval = done["approval"]
        while approval and (decisions := asked(approval)):
            place = self.told.get("service")
            approval = self._kept(decide(self.client, approval, decisions, self.pictures, place))["approval"]

    def resume(self) -> None:
        """Say how a conversation was left, and settle what waits in it. Raises ServiceProblem, Unreachable."""
        if self.conversation is None or (found := self._found()) is None:
            return
        say(f"[dim]{escape(_summary(found))}[/]")
        waiting = self.client.request("GET", "/approvals")["approvals"] if found["status"] == "waiting" else []
        for approval in waiting:
            if approval["conversation"] == self.conversation:
                self.settle({"approval": approval})

    def _found(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self.client.request("GET", path_of("conversations", self.conversation))
        except ServiceProblem as problem:
            if problem.body.get("code") != ConversationNotFound.code:
                raise
            return None
        return found

    def _kept(self, done: dict[str, Any]) -> dict[str, Any]:
        self.conversation, self.approved = done["conversation"], done["approved"]
        self.messages = [] if self.conversation else done["messages"]
        return done


# -- what is kept


@app.command(rich_help_panel="Calls", context_settings=IDS)
@command
def conversations(
    identity: Annotated[Optional[str], typer.Argument(metavar="[ID]", help="Show one", show_default=False)] = None,
    delete: Annotated[Optional[str], typer.Option(metavar="ID", help="Forget one, and what waits in it")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List the conversations that are kept, show one, or forget it; `chat --conversation ID` goes on."""
    client = service(url)
    found: Any = {"id": delete}
    if delete is not None:
        client.request("DELETE", path_of("conversations", delete))
    else:
        found = client.request("GET", path_of("conversations", *([identity] if identity else [])))
    if as_json:
        print_json(found)
    elif delete is not None:
        write(f"{escape(delete)} is forgotten.")
    elif identity:
        _transcript(found)
    else:
        rows = [
            (one["id"], one["status"], str(one["messages"]), moment(one["created"]), moment(one["updated"]))
            for one in found["conversations"]
        ]
        print_table("Conversations", ("id", "status", "messages", "created (UTC)", "updated (UTC)"), rows)


def _transcript(found: Mapping[str, Any]) -> None:
    for message in found["messages"]:
        text = _text(message.get("content"))
        if message["role"] == "tool":
            write(f"[green]←[/] {escape(folded(text))}")
        elif message["role"] == "assistant":
            write(escape(text)) if text else None
        else:
            write(f"[bold]{'you' if message['role'] == 'user' else message['role']}>[/] {escape(text)}")
        for call in message.get("tool_calls") or ():
            function = call["function"]
            write(f"[cyan]→ {escape(plain(function['name']))}[/] [dim]{escape(plain(function['arguments']))}[/]")
    say(f"[dim]{escape(_summary(found))}[/]")


def _summary(found: Mapping[str, Any]) -> str:
    """How a conversation was left, on a line."""
    approved = f", without a decision: {', '.join(found['approved'])}" if found["approved"] else ""
    return f"{found['id']}: {found['status']}, {len(found['messages'])} messages{approved}"


def _text(content: Any) -> str:
    """A message's words; of its other parts, what they are."""
    if not isinstance(content, list):
        return plain(content or "")
    return " ".join(plain(part.get("text") or f"({part.get('type', 'part')})") for part in content)
