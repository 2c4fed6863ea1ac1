"""The commands about keys: who else may use the service, and for what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Optional

import typer
from rich.markup import escape
from rich.text import Text

from server.client import path_of
from server.printing import AsJson, Url, command, moment, print_json, print_table, say, service, write

app = typer.Typer(help="Keys for others: make, list, rotate and revoke them.", no_args_is_help=True)

Identity = Annotated[str, typer.Argument(metavar="ID", help="As `aigbb keys list` has it", show_default=False)]
Days = Annotated[Optional[float], typer.Option(help="Days until it expires; left out, it does not")]
_COLOURS = {"active": "green", "expired": "yellow", "revoked": "red"}


@app.command("create")
@command
def create(
    name: Annotated[str, typer.Argument(help="What it is for", show_default=False)],
    scope: Annotated[list[str], typer.Option(help="What it allows; repeat it for more", show_default=False)],
    function: Annotated[Optional[list[str]], typer.Option(help="Only this function; repeat it for more")] = None,
    tag: Annotated[Optional[list[str]], typer.Option(help="Only functions with this tag; repeat it")] = None,
    days: Days = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Make a key. It is shown this once."""
    body = {"name": name, "scopes": scope, "functions": function or [], "tags": tag or [], "expires_in_days": days}
    _show_new(service(url).request("POST", "/keys", body), as_json=as_json)


@app.command("list")
@command
def list_keys(as_json: AsJson = False, url: Url = None) -> None:
    """List keys, without what they open with."""
    found = service(url).request("GET", "/keys")
    if as_json:
        print_json(found)
        return
    columns = ("id", "name", "", "scopes", "only", "last used (UTC)", "expires (UTC)")
    print_table("Keys", columns, [_row(key) for key in found])


@app.command("rotate")
@command
def rotate(identity: Identity, days: Days = None, as_json: AsJson = False, url: Url = None) -> None:
    """Make another secret for a key; the one before opens nothing any more."""
    body = {} if days is None else {"expires_in_days": days}
    _show_new(service(url).request("POST", path_of("keys", identity, "rotate"), body), as_json=as_json)


@app.command("revoke")
@command
def revoke(identity: Identity, as_json: AsJson = False, url: Url = None) -> None:
    """From now on, a key opens nothing."""
    service(url).request("DELETE", path_of("keys", identity))
    if as_json:
        print_json({"id": identity, "status": "revoked"})
    else:
        write(f"{escape(identity)} is revoked.")


def _show_new(made: Mapping[str, Any], *, as_json: bool) -> None:
    """The secret alone is the answer, so that it can be piped."""
    if as_json:
        print_json(made)
        return
    until = f", until {moment(made['expires'])} (UTC)" if made["expires"] else ""
    say(f"Key [bold]{made['id']}[/] for {escape(made['name'])}: {', '.join(made['scopes'])}{until}.")
    say("It is shown this once:")
    write(made["key"])


def _row(key: Mapping[str, Any]) -> tuple[str | Text, ...]:
    only = [*key["functions"], *(f"tag {tag}" for tag in key["tags"])]
    return (
        key["id"],
        key["name"],
        Text(key["status"], _COLOURS[key["status"]]),
        ", ".join(key["scopes"]),
        ", ".join(only),
        moment(key["last_used"]) if key["last_used"] else "",
        moment(key["expires"]) if key["expires"] else "",
    )
