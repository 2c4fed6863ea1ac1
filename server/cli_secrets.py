"""The commands about secrets. A value comes from a prompt or from stdin: other users see a process's arguments."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.markup import escape

from server.client import path_of
from server.printing import AsJson, Url, command, moment, print_json, print_table, service, write

app = typer.Typer(help="Set, list and delete secrets.", no_args_is_help=True)

Functions = Annotated[
    list[str] | None,
    typer.Option(
        "--function", help="A function that may have it; repeat it for more, others lose it", show_default=False
    ),
]
Name = Annotated[str, typer.Argument(help="A variable's name, such as API_KEY", show_default=False)]


@app.command("set")
@command
def set_secret(name: Name, function: Functions = None, as_json: AsJson = False, url: Url = None) -> None:
    """Set a secret, or replace it: its value is asked for, or read from stdin without the newline at its end."""
    value = typer.prompt("Value", hide_input=True) if sys.stdin.isatty() else sys.stdin.read().removesuffix("\n")
    more = {"functions": function} if function else {}
    done = service(url).request("PUT", path_of("secrets", name), {"value": value, **more})
    if as_json:
        print_json(done)
        return
    users = f", granted to {', '.join(done['functions'])}" if done["functions"] else ""
    write(f"[bold green]{escape(done['name'])}[/] is set{users}")


@app.command("grant")
@command
def grant_secret(name: Name, function: Functions = None, as_json: AsJson = False, url: Url = None) -> None:
    """Replace the functions that may have a secret, each with the source that is active now. None withdraws it."""
    done = service(url).request("PUT", path_of("secrets", name), {"functions": function or []})
    if as_json:
        print_json(done)
    else:
        write(f"[bold green]{escape(done['name'])}[/] is granted to {', '.join(done['functions']) or 'no function'}")


@app.command("list")
@command
def list_secrets(as_json: AsJson = False, url: Url = None) -> None:
    """List secrets by name, and the functions that they are granted to; never a value."""
    found = service(url).request("GET", "/secrets")
    if as_json:
        print_json(found)
    elif not found:
        write("No secret is set.")
    else:
        rows = [(one["name"], moment(one["set"]), ", ".join(one["functions"])) for one in found]
        print_table("Secrets", ("name", "set (UTC)", "granted to"), rows)


@app.command("delete")
@command
def delete_secret(
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Also one that active functions are granted")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Delete a secret."""
    service(url).request("DELETE", path_of("secrets", name), force=force or None)
    if as_json:
        print_json({"deleted": name})
    else:
        write(f"{escape(name)} is deleted")
