"""The command line.

Exit codes: 0 ok, 1 the code that ran failed, 2 usage or refusal, 3 no service, 4 the build failed.
"""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from server.client import Client, ServiceProblem
from server.doctor import examine
from server.errors import AigbbError, Unreachable
from server.serving import serve as run_service
from server.settings import Settings

CODE_FAILED, REFUSED, NO_SERVICE, BUILD_FAILED = 1, 2, 3, 4
_BUILD_CODES = {"build_failed", "index_unavailable", "insufficient_storage", "kernel_start_failed"}

app = typer.Typer(
    name="aigbb", help="Register Python functions; execute them in Jupyter kernels.", pretty_exceptions_enable=False
)
out = Console()
err = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON, for programs")]
Url = Annotated[Optional[str], typer.Option(help="The service, if not the one of the settings")]


def main() -> None:
    """Run the command line."""
    app()


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose failures end in one readable answer and an exit code."""

    @functools.wraps(function)
    def wrapped(**given: Any) -> None:
        try:
            function(**given)
        except AigbbError as error:
            _explain(error, as_json=given.get("as_json", False))
            raise typer.Exit(_exit_code(error)) from error
        except ValidationError as error:
            for fault in error.errors():
                err.print(f"[red]setting[/] {'.'.join(map(str, fault['loc']))}: {escape(fault['msg'])}")
            raise typer.Exit(REFUSED) from error

    return wrapped


def _exit_code(error: AigbbError) -> int:
    if isinstance(error, Unreachable):
        return NO_SERVICE
    code = error.body.get("code") if isinstance(error, ServiceProblem) else error.code
    return BUILD_FAILED if code in _BUILD_CODES else REFUSED


def _explain(error: AigbbError, *, as_json: bool) -> None:
    body: dict[str, Any] = {"code": error.code, "detail": error.detail}
    if isinstance(error, ServiceProblem):
        body = error.body
    if as_json:
        _print_json(body)
        return
    err.print(f"[bold red]{body.get('code', 'error')}[/]  {escape(error.detail)}", highlight=False)
    for line in [*body.get("traceback", []), *body.get("log", "").splitlines()[-10:]]:
        err.print(f"  {escape(str(line))}", highlight=False)
    for asked in body.get("requirements", []):
        users = ", ".join(asked["functions"])
        err.print(f"  {escape(asked['requirement'])}  [dim]asked for by {escape(users)}[/]", highlight=False)
    if error.hint:
        err.print(f"[dim]{escape(error.hint)}[/]", highlight=False)


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _print_table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    out.print(table)


# -- serve


def _serve(**flags: Any) -> None:
    """Start the service. Flags win over AIGBB_* variables, those over .env, those over the defaults."""
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


app.command("serve")(_with_flags(command(_serve)))


# -- functions


@app.command()
@command
def register(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A Python file with one function")],
    name: Annotated[Optional[str], typer.Option(help="Its name, if the file defines several")] = None,
    package: Annotated[Optional[list[str]], typer.Option("--package", "-p", help="A requirement; repeatable")] = None,
    env: Annotated[Optional[list[str]], typer.Option("--env", "-e", help="NAME=VALUE; repeatable")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Register a function with its packages."""
    body: dict[str, Any] = {"source": file.read_text(encoding="utf-8"), "packages": package or []}
    body |= {"name": name} if name else {}
    body |= {"env": dict(_pair(text) for text in env)} if env else {}
    client = Client.find(Settings(), url)
    if as_json or not err.is_terminal:
        done = client.request("POST", "/register", body)
    else:
        with err.status("Registering") as status:
            done = client.events("/register", body, lambda _, s: status.update(f"{s['phase']}: {s['message']}"))
    if as_json:
        _print_json(done)
    else:
        _print_registered(done)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE")
    return name, value


def _print_registered(done: dict[str, Any]) -> None:
    state = "unchanged" if done["unchanged"] else f"version {done['version']}"
    out.print(f"[bold green]{escape(done['signature'])}[/]  {state} on {done['kernel']}", highlight=False)
    for kind, names in done["package_changes"].items():
        if names:
            out.print(f"  {kind}: {', '.join(names)}", highlight=False)
    for warning in done["warnings"]:
        out.print(f"  [yellow]{warning['code']}[/] {escape(warning['message'])}", highlight=False)


@app.command()
@command
def functions(as_json: AsJson = False, url: Url = None) -> None:
    """List what is registered."""
    found = Client.find(Settings(), url).request("GET", "/functions")
    if as_json:
        _print_json(found)
        return
    rows = [(f["signature"], str(f["version"]), ", ".join(f["packages"]), _first(f["description"])) for f in found]
    _print_table("Functions", ("signature", "version", "packages", "description"), rows)


def _first(text: str) -> str:
    return text.strip().split("\n", 1)[0]


# -- execute


@app.command()
@command
def execute(
    code: Annotated[str, typer.Argument(help="Python code, or - to read it from stdin")],
    session: Annotated[Optional[str], typer.Option(help="A session's id")] = None,
    timeout: Annotated[Optional[float], typer.Option(help="Seconds")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Run code on a clean kernel, or in a session; output comes as it happens."""
    body: dict[str, Any] = {"code": sys.stdin.read() if code == "-" else code}
    body |= {k: v for k, v in (("session", session), ("timeout", timeout)) if v is not None}
    client = Client.find(Settings(), url)
    if as_json:
        done = client.request("POST", "/execute", body)
        _print_json(done)
    else:
        done = client.events("/execute", body, _show)
        if done["detail"]:
            err.print(f"[red]{done['status']}[/]  {escape(done['detail'])}", highlight=False)
    if done["status"] != "ok":
        raise typer.Exit(CODE_FAILED)


def _show(name: str, item: dict[str, Any]) -> None:
    if name in ("stdout", "stderr"):
        stream = sys.stdout if name == "stdout" else sys.stderr
        stream.write(item["text"])
        stream.flush()
    elif name in ("display", "result"):
        sys.stdout.write(item["data"].get("text/plain", f"[{', '.join(item['data'])}]") + "\n")
    elif name == "error":
        err.print("\n".join(item["traceback"]), markup=False, highlight=False)
        if item["hint"]:
            err.print(f"[dim]{escape(item['hint'])}[/]", highlight=False)


# -- kernels, sessions, doctor


@app.command()
@command
def kernels(as_json: AsJson = False, url: Url = None) -> None:
    """List the environments, newest first."""
    found = Client.find(Settings(), url).request("GET", "/kernels")
    if as_json:
        _print_json(found)
        return
    rows = [
        (k["kernel"], "current" if k["current"] else "", _presence(k), str(len(k["packages"])), _moment(k["created"]))
        for k in found
    ]
    _print_table("Kernels", ("kernel", "", "on disk", "packages", "created (UTC)"), rows)


def _moment(text: str) -> str:
    return text[:16].replace("T", " ")


def _presence(kernel: dict[str, Any]) -> str:
    return "in use" if kernel["in_use"] else "yes" if kernel["available"] else "pruned"


@app.command()
@command
def sessions(as_json: AsJson = False, url: Url = None) -> None:
    """List open sessions."""
    found = Client.find(Settings(), url).request("GET", "/sessions")
    if as_json:
        _print_json(found)
        return
    rows = [(s["id"], s["kernel"], s["state"], str(s["executions"]), _moment(s["expires"])) for s in found]
    _print_table("Sessions", ("id", "kernel", "state", "executions", "expires (UTC)"), rows)


@app.command()
@command
def doctor(as_json: AsJson = False, url: Url = None) -> None:
    """Examine the installation, and say how to mend what is wrong."""
    settings = Settings()
    findings = examine(settings, Client.find(settings, url))
    if as_json:
        _print_json([{"check": f.check, "ok": f.ok, "detail": f.detail, "fix": f.fix} for f in findings])
    else:
        rows = [("ok" if f.ok else "WRONG", f.check, f.detail, "" if f.ok else f.fix) for f in findings]
        _print_table("aigbb doctor", ("", "check", "found", "what to do"), rows)
    if not all(f.ok for f in findings):
        raise typer.Exit(REFUSED)
