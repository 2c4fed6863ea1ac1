"""The command about executions that go on by themselves, and what commands that begin one share."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Optional

import typer
from rich.markup import escape

from server.asking import ServiceProblem, polls
from server.client import Client, path_of
from server.printing import (
    CODE_FAILED,
    AsJson,
    Url,
    command,
    moment,
    print_json,
    print_table,
    say,
    service,
    show_error,
    show_event,
    show_output,
    write,
)

app = typer.Typer()

Detach = Annotated[bool, typer.Option("--detach", "-d", help="Let it go on by itself, and print its id")]


def begin(client: Client, path: str, body: object, *, as_json: bool, **query: Any) -> None:
    """Have the service go on by itself, and say where it is found."""
    begun = client.fetch("POST", path, body, {"Prefer": "respond-async"}, **query).json()
    if as_json:
        print_json(begun)
    elif "approval" in begun:
        print_pending(begun)
    else:
        write(begun["id"])
        say(f"[dim]aigbb executions {begun['id']} --follow[/]")


@app.command(rich_help_panel="Calls")
@command
def executions(
    identity: Annotated[Optional[str], typer.Argument(metavar="ID", help="Show this one", show_default=False)] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show its output as it happens, to its end")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Stop it")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List what runs and what is kept, or show one; follow it (Ctrl-C lets it go on), or stop it."""
    client = service(url)
    if identity is None:
        if follow or cancel:
            raise typer.BadParameter("--follow and --cancel are of one execution: give its ID")
        _list(client.request("GET", "/executions"), as_json=as_json)
        return
    if cancel:
        found = client.request("POST", path_of("executions", identity, "cancel"))
    elif follow and not as_json:
        _follow(client, identity)
        return
    else:
        found = _asked(client, identity, to_its_end=follow)
    if as_json:
        print_json(found)
    else:
        _show(found)


def _list(found: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    rows = [
        (e["id"], e["status"], e["function"] or "", e["session"] or "", moment(e["queued"]), _seconds(e["run_ms"]))
        for e in found
    ]
    print_table("Executions", ("id", "status", "function", "session", "asked for (UTC)", "ran"), rows)


def _seconds(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds / 1000:.1f} s"


def _asked(client: Client, identity: str, *, to_its_end: bool) -> Any:
    for wait in polls(None if to_its_end else 0):
        found = client.request("GET", path_of("executions", identity), wait=wait)
        if found["ended"]:
            break
    return found


def _follow(client: Client, identity: str) -> None:
    try:
        done = client.follow(identity, show_event)
    except KeyboardInterrupt:
        say(f"[dim]It goes on; stop it with: aigbb executions {escape(identity)} --cancel[/]")
        return
    if done.get("content") and not done["detail"]:
        write(escape(done["content"]))
    if done["detail"]:
        say(f"[red]{done['status']}[/]  {escape(done['detail'])}")
    if done["status"] != "ok":
        raise typer.Exit(CODE_FAILED)


def _show(found: Mapping[str, Any]) -> None:
    what = f"{escape(found['function'])}  " if found["function"] else ""
    write(f"[bold]{found['id']}[/]  {what}{found['status']}  {_seconds(found['run_ms'])}".rstrip())
    if found["problem"]:
        raise ServiceProblem(found["problem"])
    answer = found["answer"]
    if answer is not None and found["function"]:
        print_called(answer)
        return
    for item in found["outputs"] or (answer or {}).get("outputs", ()):
        _show_item(item, answer)


def _show_item(item: Mapping[str, Any], answer: Mapping[str, Any] | None) -> None:
    """An output in the notebook format."""
    match item["output_type"]:
        case "stream":
            show_event(item["name"], item)
        case "error":
            show_error(item, answer["hint"] if answer else None)
        case _:
            show_output(item)


def print_pending(done: Mapping[str, Any]) -> None:
    """A call that waits for a decision: its approval's id, and how to decide."""
    approval = done["approval"]
    until = f"until {moment(approval['expires'])} (UTC)"
    say(f"[bold]{escape(done['name'])}@{done['version']}[/] waits for a decision {until}.")
    say(f"[dim]aigbb approvals {escape(approval['id'])} shows the call, and its result once somebody has decided.[/]")
    write(approval["id"])


def print_called(done: Mapping[str, Any]) -> None:
    """What a call came to."""
    sys.stdout.write(done["stdout"])
    sys.stdout.flush()
    sys.stderr.write(done["stderr"])
    for item in done["outputs"]:
        show_output(item)
    if done["error_detail"]:
        show_error(done["error_detail"], done["hint"])
    elif done["status"] != "ok":
        say(f"[red]{done['status']}[/]  {escape(done['error'] or '')}")
    elif isinstance(done["result"], str):
        sys.stdout.write(done["result"] + "\n")
    elif done["result"] is not None:
        print_json(done["result"])
    elif done["content"]:
        unprinted = done["content"].partition("\nIt printed:")[0]  # that is on the screen already
        say(f"[dim]{escape(unprinted)}[/]")
