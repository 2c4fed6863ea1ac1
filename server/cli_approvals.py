"""The commands about calls that wait for a person, and the questions that are asked about them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.markup import escape

from server.cli_executions import print_called
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
)
from server.terminal import Album, Pictures, Shown, as_read, follow, typed

app = typer.Typer()

# An id may begin with a dash.
IDS = {"ignore_unknown_options": True}
# Characters of the arguments in a table.
SHORT = 60
_QUESTION = r"[bold]\[y]es  \[a]lways in this conversation  \[e]dit  \[n]o  \[r]espond in its stead >[/] "

Decision = dict[str, Any]


# -- commands


@app.command(rich_help_panel="Calls", context_settings=IDS)
@command
def approvals(
    identity: Annotated[
        Optional[str], typer.Argument(metavar="[ID]", help="Show one in full", show_default=False)
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List the calls that wait for a decision, oldest first."""
    client = service(url)
    found = client.request("GET", path_of("approvals", *([identity] if identity else [])))
    if as_json:
        print_json(found)
    elif identity:
        show_calls(found)
        say(f"{found['status']}, until {moment(found['expires'])} (UTC)")
        if found["outcome"] is not None:
            print_json(found["outcome"])
    else:
        rows = [_row(approval, held) for approval in found["approvals"] for held in approval["calls"]]
        print_table("Waiting for a decision", ("id", "conversation", "function", "arguments", "expires (UTC)"), rows)


def _row(approval: Mapping[str, Any], held: Mapping[str, Any]) -> tuple[str, ...]:
    arguments = as_read(held["arguments"])
    short = arguments if len(arguments) <= SHORT else f"{arguments[:SHORT]} ..."
    function = f"{held['name']}@{held['version']}"
    return approval["id"], approval["conversation"] or "", function, short, moment(approval["expires"])


@app.command(rich_help_panel="Calls", context_settings=IDS)
@command
def approve(
    identity: Annotated[str, typer.Argument(metavar="ID", help="As `aigbb approvals` lists it", show_default=False)],
    reject: Annotated[Optional[str], typer.Option(help="Do not run them; why, for the model")] = None,
    edit: Annotated[
        Optional[list[str]], typer.Option(help="Run it with these arguments: JSON, or CALL_ID=JSON of several")
    ] = None,
    always: Annotated[bool, typer.Option("--always", help="And whenever it is called in this conversation")] = False,
    pictures: Pictures = Path(),
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Run calls that wait, or reject them, and see how the turn goes on."""
    if reject is not None and (edit or always):
        raise typer.BadParameter("--reject goes without --edit and --always")
    client = service(url)
    approval = client.request("GET", path_of("approvals", identity))
    chosen = {"decision": "approve"} if reject is None else {"decision": "reject", "reason": reject}
    edited = _edits(edit or (), approval["calls"])
    scope = {"scope": "session"} if always else {}
    decisions = [_about(held, {**chosen, **edited.get(held["call_id"], {}), **scope}) for held in approval["calls"]]
    if as_json:
        done = client.request("POST", path_of("approvals", identity), {"decisions": decisions})
        print_json(done)
    else:
        show_calls(approval)
        done = _decided(client, approval, decisions, pictures)
    if done.get("status", "done") not in ("done", "ok", "decided"):
        raise typer.Exit(CODE_FAILED)


def _edits(texts: Sequence[str], held: Sequence[Mapping[str, Any]]) -> dict[str, Decision]:
    """What is to be run instead, by call."""
    names = [one["call_id"] for one in held]
    found = {}
    for text in texts:
        name, _, given = ("", "", text) if text.lstrip().startswith("{") else text.partition("=")
        if not name and len(names) > 1:
            raise typer.BadParameter(f"several calls wait, say which: CALL_ID=JSON, with one of {', '.join(names)}")
        if name and name not in names:
            raise typer.BadParameter(f"no call {name!r} waits; there are {', '.join(names)}")
        try:
            found[name or names[0]] = {"decision": "edit", "arguments": arguments_of(given)}
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    return found


def _about(held: Mapping[str, Any], decided: Decision) -> Decision:
    """A decision about what was shown, and nothing else."""
    return {"call_id": held["call_id"], "args_hash": held["args_hash"], **decided}


def _decided(
    client: Client, approval: Mapping[str, Any], decisions: Sequence[Decision], pictures: Path
) -> Mapping[str, Any]:
    """Go on with what waits, and show it. What it came to has no `status` for calls of no conversation."""
    if approval["conversation"] is not None:
        done = decide(client, approval, decisions, pictures)
        if done["approval"]:
            show_waiting(done["approval"])
        return done
    done = dict(client.request("POST", path_of("approvals", approval["id"]), {"decisions": decisions}))
    if "runs" not in done:  # a typed call, which ran or was rejected
        if "calls" not in done:
            print_called(done)
        return done
    shown = Shown(Album(client, pictures))
    for run, message in zip(done["runs"], done["messages"], strict=True):
        shown.hear("tool_result", {**run, "content": message.get("content", message.get("output"))})
    return done


def decide(
    client: Client,
    approval: Mapping[str, Any],
    decisions: Sequence[Decision],
    pictures: Path,
    place: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Go on with a turn that waits, and show it. place: of the model, if it is elsewhere.

    Raises ServiceProblem, Unreachable.
    """
    body = {"decisions": decisions, "service": place}
    return follow(client, path_of("approvals", approval["id"]), body, pictures)


# -- questions


def show_calls(approval: Mapping[str, Any]) -> None:
    """What would be done, with every argument."""
    for held in approval["calls"]:
        show_call(held)


def show_call(held: Mapping[str, Any]) -> None:
    """One call, as it would be run."""
    say(f"[bold]{escape(held['name'])}@{held['version']}[/]  [yellow]effects: {held['effects']}[/]")
    say(escape(as_read(held["arguments"], indent=2)))
    if held.get("bound"):
        say(f"bound: {escape(as_read(held['bound'], indent=2))}")


def show_waiting(approval: Mapping[str, Any]) -> None:
    """What waits, and how to decide later."""
    show_calls(approval)
    show_how(approval)


def show_how(approval: Mapping[str, Any]) -> None:
    """How to decide later."""
    until = f"[dim]until {moment(approval['expires'])} (UTC)[/]"
    say(f"[yellow]waits for a decision:[/] [bold]aigbb approve {escape(approval['id'])}[/]  {until}")


def asked(approval: Mapping[str, Any]) -> list[Decision] | None:
    """What a person says of each call; None if they leave that open."""
    decisions: list[Decision] = []
    always: set[str] = set()
    try:
        for held in approval["calls"]:
            show_call(held)
            choice = "a" if held["name"] in always else _choice()
            decisions.append(_about(held, _decision(choice, held)))
            always |= {held["name"]} if choice == "a" else set()
    except (EOFError, KeyboardInterrupt):
        say("")
        show_how(approval)
        say("[dim]A new question here goes on without it.[/]")
        return None
    return decisions


def _choice() -> str:
    """y, a, e, n or r; asked until it is one of them."""
    while True:
        choice = typed(_QUESTION).strip().lower()
        for word in ("yes", "always", "edit", "no", "respond"):
            if choice and word.startswith(choice):
                return word[0]


def _decision(choice: str, held: Mapping[str, Any]) -> Decision:
    match choice:
        case "y":
            return {"decision": "approve"}
        case "a":
            return {"decision": "approve", "scope": "session"}
        case "e":
            return {"decision": "edit", "arguments": _edited(held)}
        case "n":
            return {"decision": "reject", "reason": typed("[bold]why not, if you like to say >[/] ")}
        case _:
            return {"decision": "respond", "content": typed("[bold]what the model is to read >[/] ")}


def _edited(held: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as a person changes them; asked until they are some."""
    text = as_read(held["arguments"])
    say(f"[dim]now:[/] {escape(text)}")
    while True:
        text = typed("[bold]arguments >[/] ", text)
        try:
            return arguments_of(text)
        except ValueError as error:
            say(f"[red]{escape(str(error))}[/]")


def arguments_of(text: str) -> dict[str, Any]:
    """Arguments that somebody wrote. Raises ValueError, which says what is wrong."""
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the arguments are not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError('the arguments are one object, such as {"text": "..."}')
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
