"""The command line.

Exit codes: 0 ok, 1 the code that ran failed, 2 usage or refusal, 3 no service, 4 the build failed.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Annotated, Any, Optional

import typer
from rich.markup import escape
from rich.text import Text

from server import (
    cli_approvals,
    cli_chat,
    cli_executions,
    cli_functions,
    cli_home,
    cli_keys,
    cli_secrets,
    cli_versions,
)
from server.cli_executions import Detach, begin, print_called, print_pending
from server.cli_functions import Pinned
from server.client import Client, path_of
from server.printing import (
    CODE_FAILED,
    REFUSED,
    AsJson,
    Url,
    command,
    err,
    moment,
    pairs,
    print_json,
    print_table,
    say,
    service,
    show_event,
    waiting,
)
from server.settings import Settings

app = typer.Typer(
    name="aigbb",
    help="Register Python functions; execute them in Jupyter kernels.",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
CALLS, SERVICE = "Calls", "Service"
STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}


def main() -> None:
    """Run the command line."""
    app()


# -- serve


def _serve(**flags: Any) -> None:
    """Start the service. Flags win over AIGBB_* variables, those over .env, those over the defaults."""
    from server.serving import serve as run_service  # all of the service, which no other command needs

    run_service(Settings(**{name: value for name, value in flags.items() if value is not None}), err)


def _with_flags(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command one flag a setting, from the one table of settings."""
    parameters = []
    for name, field in Settings.model_fields.items():
        option = typer.Option(help=field.description, show_default=False, envvar=None)
        kind = Annotated[Optional[str], option]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind))
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    return function


app.command("serve", rich_help_panel=SERVICE)(_with_flags(command(_serve)))


app.add_typer(cli_functions.app)
app.add_typer(cli_versions.app)
app.add_typer(cli_executions.app)
app.add_typer(cli_chat.app)
app.add_typer(cli_approvals.app)
app.add_typer(cli_secrets.app, name="secrets", rich_help_panel=SERVICE)
app.add_typer(cli_home.app)
app.add_typer(cli_keys.app, name="keys", rich_help_panel=SERVICE)


# -- execute


@app.command(rich_help_panel=CALLS)
@command
def execute(
    code: Annotated[str, typer.Argument(help="Python code, or - to read it from stdin")],
    session: Annotated[Optional[str], typer.Option(help="A session's id")] = None,
    timeout: Annotated[Optional[float], typer.Option(help="Seconds")] = None,
    detach: Detach = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Run code on a clean kernel, or in a session; output comes as it happens."""
    body: dict[str, Any] = {"code": sys.stdin.read() if code == "-" else code}
    body |= {k: v for k, v in (("session", session), ("timeout", timeout)) if v is not None}
    client = service(url)
    if detach:
        begin(client, "/execute", body, as_json=as_json)
        return
    if as_json:
        done = client.request("POST", "/execute", body)
        print_json(done)
    else:
        done = client.events("/execute", body, show_event)
        if done["detail"]:
            say(f"[red]{done['status']}[/]  {escape(done['detail'])}")
        _say_lost(done)
    if done["status"] != "ok":
        raise typer.Exit(CODE_FAILED)


def _say_lost(done: Mapping[str, Any]) -> None:
    if done["state_preserved"] is False:
        say("[yellow]The session goes on with a clean kernel; its variables are lost.[/]")


# -- call


@app.command(rich_help_panel=CALLS)
@command
def call(
    name: Pinned,
    arguments: Annotated[
        Optional[str], typer.Argument(help="A JSON object, or - to read it from stdin", show_default=False)
    ] = None,
    argument: Annotated[
        Optional[list[str]], typer.Option("--argument", "-a", help="name=value; JSON, else text; repeatable")
    ] = None,
    session: Annotated[Optional[str], typer.Option(help="A session's id")] = None,
    timeout: Annotated[Optional[float], typer.Option(help="Seconds")] = None,
    detach: Detach = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Call a function: what it prints and its result go to stdout."""
    given = _object(sys.stdin.read() if arguments == "-" else arguments or "{}")
    given |= {key: _value(text) for key, text in pairs(argument).items()}
    client, path = service(url), path_of("functions", name, "call")
    if detach:
        begin(client, path, given, as_json=as_json, session=session, timeout=timeout)
        return
    with waiting("Running", as_json=as_json):
        done = client.request("POST", path, given, session=session, timeout=timeout)
    if as_json:
        print_json(done)
    elif "approval" in done:
        print_pending(done)
    else:
        print_called(done)
        _say_lost(done)
    if done["status"] != "ok":
        raise typer.Exit(CODE_FAILED)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"the arguments are not JSON ({error}); -a name=value takes text too") from error
    if not isinstance(value, dict):
        raise typer.BadParameter('the arguments are one object, such as {"text": "..."}')
    return value


def _value(text: str) -> Any:
    """JSON if it is JSON, else the text itself."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# -- kernels, sessions, doctor


@app.command(rich_help_panel=SERVICE)
@command
def kernels(as_json: AsJson = False, url: Url = None) -> None:
    """List the environments, newest first."""
    found = service(url).request("GET", "/kernels")
    if as_json:
        print_json(found)
        return
    rows = [
        (k["kernel"], "current" if k["current"] else "", _presence(k), str(len(k["packages"])), moment(k["created"]))
        for k in found
    ]
    print_table("Kernels", ("kernel", "", "on disk", "packages", "created (UTC)"), rows)


def _presence(kernel: dict[str, Any]) -> str:
    return "in use" if kernel["in_use"] else "yes" if kernel["available"] else "pruned"


@app.command(rich_help_panel=SERVICE)
@command
def sessions(as_json: AsJson = False, url: Url = None) -> None:
    """List open sessions."""
    found = service(url).request("GET", "/sessions")
    if as_json:
        print_json(found)
        return
    rows = [(s["id"], s["kernel"], s["state"], str(s["executions"]), moment(s["expires"])) for s in found]
    print_table("Sessions", ("id", "kernel", "state", "executions", "expires (UTC)"), rows)


@app.command(rich_help_panel=SERVICE)
@command
def doctor(as_json: AsJson = False, url: Url = None) -> None:
    """Examine the installation, and say how to mend what is wrong."""
    settings = Settings()
    from server.doctor import examine

    findings = examine(settings, Client.find(settings, url))
    if as_json:
        print_json([{**asdict(f), "fix": "" if f.state == "ok" else f.fix} for f in findings])
    else:
        rows = [(Text(f.state, STYLES[f.state]), f.check, f.detail, "" if f.state == "ok" else f.fix) for f in findings]
        print_table("aigbb doctor", ("", "check", "found", "what to do"), rows)
    if any(f.state == "problem" for f in findings):
        raise typer.Exit(REFUSED)
