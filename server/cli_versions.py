"""The commands about a function's versions: look at them, roll back, take out of service, and the history of it all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Optional

import typer
from rich.markup import escape
from rich.text import Text

from server.cli_functions import Env, print_registered
from server.client import path_of
from server.printing import (
    AsJson,
    Url,
    command,
    followed,
    moment,
    pairs,
    print_code,
    print_json,
    print_table,
    service,
    write,
)

app = typer.Typer()
VERSIONS = "Versions"

Name = Annotated[str, typer.Argument(help="A function's name", show_default=False)]


@app.command(rich_help_panel=VERSIONS)
@command
def versions(name: Name, as_json: AsJson = False, url: Url = None) -> None:
    """List every version that a function ever had, newest first; also of a deleted one."""
    found = service(url).request("GET", path_of("functions", name, "versions"))
    if as_json:
        print_json(found)
        return
    rows: list[tuple[str | Text, ...]] = [
        (
            str(v["version"]),
            Text("active", "green") if v["active"] else "",
            moment(v["created"]),
            v["signature"],
            ", ".join(v["packages"]),
        )
        for v in found
    ]
    print_table(f"Versions of {name}", ("version", "", "created (UTC)", "signature", "packages"), rows)


@app.command(rich_help_panel=VERSIONS)
@command
def diff(
    name: Name,
    number: Annotated[
        Optional[int], typer.Argument(metavar="[N]", min=1, help="A version's number", show_default=False)
    ] = None,
    against: Annotated[Optional[int], typer.Option(min=1, help="Another version; by default the one before")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Show what changed in a version, by default the newest."""
    client = service(url)
    if number is None:
        number = client.request("GET", path_of("functions", name, "versions"))[0]["version"]
    found = client.request("GET", path_of("functions", name, "versions", number, "diff"), against=against)
    if as_json:
        print_json(found)
    elif found["diff"]:
        print_code(found["diff"], "diff")
    else:
        write(f"Nothing differs between {escape(name)}@{found['old']} and {escape(name)}@{found['new']}.")


@app.command(rich_help_panel=VERSIONS)
@command
def activate(
    name: Name,
    number: Annotated[int, typer.Argument(metavar="N", min=1, help="A version's number", show_default=False)],
    env: Env = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Roll back, or undo a deletion: have a version serve again."""
    path, sent = path_of("functions", name, "activate"), {"version": number, "env": pairs(env)}
    done = followed(service(url), path, sent, f"Activating {name}@{number}", as_json=as_json)
    if as_json:
        print_json(done)
    else:
        print_registered([done])


@app.command(rich_help_panel=VERSIONS)
@command
def delete(name: Name, as_json: AsJson = False, url: Url = None) -> None:
    """Take a function out of service; `activate` brings it back."""
    client = service(url)
    version = client.request("GET", path_of("functions", name))["version"]
    client.request("DELETE", path_of("functions", name))
    if as_json:
        print_json({"name": name, "version": version})
    else:
        write(f"{escape(name)}@{version} is out of service. Undo: [bold]aigbb activate {escape(name)} {version}[/]")


@app.command(rich_help_panel=VERSIONS)
@command
def history(
    name: Annotated[Optional[str], typer.Argument(help="Only of this function", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many lines")] = 20,
    everything: Annotated[
        bool, typer.Option("--all", help="Executions, calls, decisions and keys too; for admins")
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Show who changed what, newest first."""
    client = service(url)
    found = client.request("GET", "/history", name=name, limit=limit)
    if everything:
        found += [line for line in client.request("GET", "/audit", limit=limit) if name in (None, line["name"])]
        found = sorted(found, key=lambda line: str(line["at"]), reverse=True)[:limit]
    if as_json:
        print_json(found)
        return
    rows: list[tuple[str | Text, ...]] = [
        (
            moment(line["at"]),
            line["action"],
            _of(line),
            Text(line["outcome"], "green" if line["outcome"] == "ok" else "yellow"),
            f"{line['duration_ms']:.0f} ms",
            line["key"],
        )
        for line in found
    ]
    print_table("History", ("at (UTC)", "action", "function", "outcome", "took", "by"), rows)


def _of(line: Mapping[str, Any]) -> str:
    return f"{line['name']}@{line['version']}" if line["version"] else line["name"] or ""
