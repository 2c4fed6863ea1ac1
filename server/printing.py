"""What all commands share: how they answer people and programs, and the exit codes that they end with."""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Annotated, Any, Optional

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table
from rich.text import Text

from server.client import Client, ServiceProblem
from server.errors import AigbbError, Unreachable
from server.settings import Settings

CODE_FAILED, REFUSED, NO_SERVICE, BUILD_FAILED = 1, 2, 3, 4
_BUILD_CODES = {"build_failed", "index_unavailable", "insufficient_storage", "kernel_start_failed"}

out = Console()
err = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON, for programs")]
Url = Annotated[Optional[str], typer.Option(help="The service, if not the one of the settings")]


# -- commands


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose failures end in one readable answer and an exit code."""

    @functools.wraps(function)
    def wrapped(**given: Any) -> None:
        try:
            function(**given)
        except AigbbError as error:
            explain(error, as_json=given.get("as_json", False))
            raise typer.Exit(_exit_code(error)) from error
        except ValidationError as error:
            for fault in error.errors():
                say(f"[red]setting[/] {'.'.join(map(str, fault['loc']))}: {escape(fault['msg'])}")
            raise typer.Exit(REFUSED) from error

    return wrapped


def service(url: str | None) -> Client:
    """The service that a command asks."""
    return Client.find(Settings(), url)


def pairs(texts: Sequence[str] | None) -> dict[str, str]:
    """NAME=VALUE options as one object."""
    return dict(_pair(text) for text in texts or ())


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE")
    return name, value


def waiting(message: str, *, as_json: bool = False) -> Status | nullcontext[None]:
    """A sign of life while something takes long, where a person looks on."""
    return nullcontext() if as_json or not err.is_terminal else err.status(message)


def followed(client: Client, path: str, body: object, message: str, *, as_json: bool) -> Any:
    """What a POST answers; a person who looks on sees how far it is."""
    if as_json or not err.is_terminal:
        return client.request("POST", path, body)
    with err.status(message) as status:
        return client.events(path, body, lambda _, step: status.update(f"{step['phase']}: {step['message']}"))


# -- answers


def say(markup: str) -> None:
    """One line to stderr: beside the answer, not part of it."""
    err.print(markup, highlight=False, soft_wrap=True)


def write(markup: str) -> None:
    """One line of the answer."""
    out.print(markup, highlight=False, soft_wrap=True)


def print_json(value: object) -> None:
    """An answer for programs; on a terminal in colours."""
    print_code(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "json")


def print_code(code: str, lexer: str) -> None:
    """Text as it is; on a terminal in the colours of its language."""
    if not out.is_terminal:
        sys.stdout.write(code)
        return
    from rich.syntax import Syntax  # Pygments, which few commands need

    coloured = Syntax("", lexer, theme="ansi_dark").highlight(code)
    coloured.rstrip()
    out.print(coloured, soft_wrap=True)


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str | Text]], to: Console | None = None
) -> None:
    """A table that loses no letter on a narrow screen. Columns without a word in any row are left out."""
    kept = [i for i in range(len(columns)) if not rows or any(row[i] for row in rows)]
    table = Table(title=title, title_justify="left")
    for i in kept:
        table.add_column(columns[i], overflow="fold", min_width=len(columns[i]))
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in (row[i] for i in kept)))
    (to or out).print(table)


def moment(text: str) -> str:
    """A time of the service's, to the minute."""
    return text[:16].replace("T", " ")


# -- problems


def _exit_code(error: AigbbError) -> int:
    if isinstance(error, Unreachable):
        return NO_SERVICE
    code = error.body.get("code") if isinstance(error, ServiceProblem) else error.code
    return BUILD_FAILED if code in _BUILD_CODES else REFUSED


def explain(error: AigbbError, *, as_json: bool) -> None:
    """What went wrong and what to do about it, for a person or a program."""
    body: dict[str, Any] = {"code": error.code, "detail": error.detail, "hint": error.hint, **error.extra}
    if isinstance(error, ServiceProblem):
        body = error.body
    if as_json:
        print_json(body)
        return
    say(f"[bold red]{escape(body.get('code', 'error'))}[/]  {escape(error.detail)}")
    if body.get("errors"):
        _print_errors(body["errors"])
    for line in _circumstances(body):
        say(f"  {escape(line)}")
    if error.hint and not body.get("errors"):
        say(f"[dim]{escape(error.hint)}[/]")
    if tips := _tips(body.get("fix") or {}):
        say(f"try: [bold]{escape(tips)}[/]")


def _print_errors(errors: Sequence[Mapping[str, Any]]) -> None:
    """One row for each parameter of a call, or for each field of a request."""
    what = "parameter" if "parameter" in errors[0] else "field"
    rows = [
        (".".join(filter(None, [one[what], one.get("path", "")])), one["message"], one.get("suggestion", ""))
        for one in errors
    ]
    print_table("", (what, "what is wrong", "did you mean"), rows, err)


def _circumstances(body: Mapping[str, Any]) -> Iterator[str]:
    """What else a problem says, a line each."""
    yield from map(str, body.get("traceback", ()))
    yield from str(body.get("log", "")).splitlines()[-10:]
    if place := body.get("location"):
        yield f"line {place['line']}: {place['text']}"
        yield " " * (len(f"line {place['line']}: ") + place["column"] - 1) + "^"
    for asked in body.get("requirements", ()):
        yield f"{asked['requirement']}  asked for by {', '.join(asked['functions'])}"
    if give_way := body.get("give_way"):
        yield f"would have to give way: {', '.join(give_way)}"
    for broken in body.get("functions", ()):
        yield f"{broken['function']}: {broken['error']}"
    for name, words in (("candidates", "it defines"), ("versions", "there are"), ("signature", "call it as")):
        if told := body.get(name):
            yield f"{words}: {told if isinstance(told, str) else ', '.join(map(str, told))}"
    if body.get("suggestions") and not body.get("fix"):
        yield f"did you mean: {', '.join(body['suggestions'])}"


def _tips(fix: Mapping[str, Any]) -> str:
    """What a program could apply, in words."""
    tips: list[str] = []
    for member, value in fix.items():
        match member, value:
            case "packages", list():
                tips.append(" ".join(f"--package {shlex.quote(package)}" for package in value))
            case "env", list():
                tips.append(" ".join(f"--env {name}=..." for name in value))
            case (("rename" | "replace"), dict()):
                tips += [f"{new} instead of {old}" for old, new in value.items()]
            case (("name" | "names" | "version"), _):
                tips.append(f"{member.removesuffix('s')} {value}")
            case (("if_match" | "on_conflict"), _):
                tips.append(f"--{member.replace('_', '-')} {value}")
    return ", ".join(tips)


# -- outputs


def show_output(item: Mapping[str, Any]) -> None:
    """What code displayed, as text; or which forms it has. An error in the notebook format is none of it."""
    if "data" in item:
        sys.stdout.write(item["data"].get("text/plain", f"[{', '.join(item['data'])}]") + "\n")


def show_event(name: str, item: Mapping[str, Any]) -> None:
    """What happened in an execution, as it happens."""
    if name in ("stdout", "stderr"):
        stream = sys.stdout if name == "stdout" else sys.stderr
        stream.write(item["text"])
        stream.flush()
    elif name in ("display", "result"):
        show_output(item)
    elif name == "error":
        show_error(item, item["hint"])
    elif name == "cut":
        say(f"[yellow]{escape(item['detail'])}[/]")


def show_error(error: Mapping[str, Any], hint: str | None) -> None:
    """An exception in the code that ran, and what to do about it."""
    err.print("\n".join(error["traceback"]), markup=False, highlight=False, soft_wrap=True)
    if hint:
        say(f"[dim]{escape(hint)}[/]")
