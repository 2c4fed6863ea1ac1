"""The commands that register functions and find them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import typer
from rich.markup import escape
from rich.text import Text

from server.call_policy import Confirm, Effects
from server.client import path_of
from server.printing import (
    REFUSED,
    AsJson,
    Url,
    command,
    followed,
    moment,
    pairs,
    print_code,
    print_json,
    print_table,
    say,
    service,
    write,
)
from server.tools import Format

app = typer.Typer()
FUNCTIONS = "Functions"
tools_app = typer.Typer(invoke_without_command=True)
app.add_typer(tools_app, name="tools", rich_help_panel=FUNCTIONS)

Pinned = Annotated[str, typer.Argument(metavar="NAME[@N]", help="A function, or a version of it", show_default=False)]
Env = Annotated[Optional[list[str]], typer.Option("--env", "-e", help="NAME=VALUE; repeatable")]


# -- register


@app.command(rich_help_panel=FUNCTIONS)
@command
def register(
    files: Annotated[
        list[Path], typer.Argument(exists=True, dir_okay=False, help="Python files with one function each")
    ],
    name: Annotated[Optional[str], typer.Option(help="Its name, if the file defines several")] = None,
    package: Annotated[Optional[list[str]], typer.Option("--package", "-p", help="A requirement; repeatable")] = None,
    env: Env = None,
    secret: Annotated[Optional[list[str]], typer.Option(help="A stored secret that it is granted; repeatable")] = None,
    network: Annotated[
        bool, typer.Option("--network", help="Its calls have the network where kernels have none")
    ] = False,
    tag: Annotated[Optional[list[str]], typer.Option("--tag", "-t", help="A word to find it by; repeatable")] = None,
    bound: Annotated[Optional[list[str]], typer.Option(help="A parameter that models never see; repeatable")] = None,
    description: Annotated[Optional[str], typer.Option(help="Instead of the docstring")] = None,
    effects: Annotated[Optional[Effects], typer.Option(help="What a call may do; inferred if left out")] = None,
    confirm: Annotated[
        Optional[Confirm], typer.Option(help="Whether a person is asked before a model's call runs [default: policy]")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do everything but the commit; nothing stays")] = False,
    if_match: Annotated[Optional[str], typer.Option(help="The digest that the active version must have")] = None,
    on_conflict: Annotated[
        Literal["new_version", "error"], typer.Option(help="What to do when the name is taken by another source")
    ] = "new_version",
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Register functions with their packages: several files together, all of them or none."""
    if len(files) > 1 and (name or description or if_match):
        raise typer.BadParameter("--name, --description and --if-match are of one function: give one file")
    given = {"name": name, "packages": package, "env": pairs(env), "tags": tag, "bound": bound}
    given |= {"secrets": secret, "description": description, "effects": effects, "confirm": confirm}
    given |= {"if_match": if_match, "on_conflict": on_conflict}
    told = {field: value for field, value in given.items() if value}
    more = {"network": True} if network else {}
    bodies = [{"source": _source(file), **told, **more} for file in files]
    client = service(url)
    if len(bodies) > 1:
        sent = {"functions": bodies, "dry_run": dry_run}
        done = followed(client, "/register/batch", sent, f"Registering {len(bodies)} functions", as_json=as_json)
    else:
        done = followed(client, "/register", bodies[0] | {"dry_run": dry_run}, "Registering", as_json=as_json)
    if as_json:
        print_json(done)
    else:
        print_registered(done["functions"] if len(bodies) > 1 else [done])


def _source(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{file} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def print_registered(done: Sequence[Mapping[str, Any]]) -> None:
    """What became of functions that were registered together."""
    for one in done:
        write(f"[bold green]{escape(one['signature'])}[/]  {_outcome(one)}")
        for warning in one["warnings"]:
            write(f"  [yellow]{warning['code']}[/] {escape(warning['message'])}")
        if one["dry_run"]:
            _print_parameters(one)
    last = max(done, key=lambda one: not one["unchanged"])
    for kind, names in last["package_changes"].items():
        if names:
            write(f"  {kind}: {', '.join(names)}")
    if last["dry_run"]:
        write("  " + ", ".join(f"{stage} {time:.0f} ms" for stage, time in last["timings_ms"].items()))
        write("Dry run: nothing was changed.")


def _outcome(done: Mapping[str, Any]) -> str:
    where = f"on {done['kernel']}"
    if done["unchanged"]:
        return f"unchanged, version {done['version']} {where}"
    if done["dry_run"]:
        return f"would be version {done['version']} {'on a new kernel' if done['new_generation'] else where}"
    return f"version {done['version']} {where}"


@app.command(rich_help_panel=FUNCTIONS)
@command
def sync(as_json: AsJson = False, url: Url = None) -> None:
    """Take over files that are new or were edited in the functions' folder; bad ones are left alone."""
    done = followed(service(url), "/sync", None, "Looking at the files", as_json=as_json)
    if as_json:
        print_json(done)
    elif not done["registered"] and not done["problems"]:
        write("Every file is registered as it is.")
    else:
        _print_synced(done)
    if done["problems"]:
        raise typer.Exit(REFUSED)


def _print_synced(done: Mapping[str, Any]) -> None:
    rows: list[tuple[str | Text, ...]] = [
        (f"{one['name']}.py", Text(f"version {one['version']}", "green"), "") for one in done["registered"]
    ]
    rows += [(p["file"], Text(f"{p['code']}: {p['detail']}", "red"), p["hint"]) for p in done["problems"]]
    print_table("Files", ("file", "what became of it", "what to do"), rows)


# -- find


@app.command(rich_help_panel=FUNCTIONS)
@command
def functions(
    query: Annotated[Optional[str], typer.Argument(help="Words to look for", show_default=False)] = None,
    tag: Annotated[Optional[list[str]], typer.Option("--tag", "-t", help="Only with this tag; repeatable")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List what is registered, or what fits some words, best match first."""
    found = service(url).pages("/functions", q=query, tag=tag or None)
    if as_json:
        print_json(found)
    elif not found:
        write("No function fits." if query or tag else "No function is registered.")
    else:
        _print_functions(found)


def _print_functions(found: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        (
            Text.assemble((f["name"], "bold"), f["signature"].removeprefix(f["name"])),
            str(f["version"]),
            ", ".join(f["packages"]),
            ", ".join(f["tags"]),
            f["description"].strip().partition("\n")[0],
        )
        for f in found
    ]
    print_table("Functions", ("signature", "version", "packages", "tags", "description"), rows)


@app.command(rich_help_panel=FUNCTIONS)
@command
def show(name: Pinned, as_json: AsJson = False, url: Url = None) -> None:
    """Show a function, or a version of it, with its parameters and its source."""
    plain, at, number = name.partition("@")
    path = path_of("functions", plain, "versions", number) if at else path_of("functions", plain)
    found = service(url).request("GET", path)
    if as_json:
        print_json(found)
        return
    state = "active" if found["active"] else "not active"
    write(f"[bold green]{escape(found['signature'])}[/]  version {found['version']}, {state}")
    if found["description"]:
        write(escape(found["description"]))
    _print_parameters(found)
    for label, value in _facts(found):
        write(f"[dim]{label}[/]  {escape(value)}")
    write("")
    print_code(found["source"].rstrip() + "\n", "python")


def _facts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    told = [
        ("returns", _kind(found["returns"]) if found["returns"] else ""),
        ("packages", ", ".join(found["packages"])),
        ("variables", ", ".join(found["env"])),
        ("secrets", ", ".join(found["secrets"])),
        ("network", "yes" if found["network"] else ""),
        ("tags", ", ".join(found["tags"])),
        ("effects", found["effects"]),
        ("confirm", "" if found["confirm"] == "policy" else found["confirm"]),
        ("not strict", found["not_strict"] or ""),
        ("created", f"{moment(found['created'])} (UTC)"),
        ("digest", found["digest"]),
    ]
    return [(label, value) for label, value in told if value]


def _print_parameters(found: Mapping[str, Any]) -> None:
    schema = found["parameters"]
    required = schema.get("required", ())
    rows = []
    for name, part in schema.get("properties", {}).items():
        need = "required" if name in required else _json(part["default"]) if "default" in part else "optional"
        rows.append((name, _kind(part), f"{need}, bound" if name in found["bound"] else need, _text(part)))
    if rows:
        print_table("", ("parameter", "type", "default", "description"), rows)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _text(schema: Any) -> str:
    return str(schema.get("description", ""))


def _kind(schema: Any) -> str:
    """A JSON Schema as short as a type."""
    match schema:
        case {"$ref": str(place)}:
            return place.rpartition("/")[2]
        case {"enum": [*values]}:
            return " | ".join(map(_json, values))
        case {"const": value}:
            return _json(value)
        case {"anyOf": [*parts]} | {"oneOf": [*parts]}:
            return " | ".join(dict.fromkeys(map(_kind, parts)))
        case {"type": "array", "items": dict(items)} if items:
            return f"array[{_kind(items)}]"
        case {"type": "object", "additionalProperties": dict(values)} if values:
            return f"object[{_kind(values)}]"
        case {"type": str(name)}:
            return f"{name} ({schema['format']})" if "format" in schema else name
    return "any"


@tools_app.callback()
@command
def tools(
    context: typer.Context,
    form: Annotated[Format, typer.Option("--format", help="Whose form; `prompt` is plain text")] = "openai",
    strict: Annotated[bool, typer.Option("--strict", help="In strict form, where there is one")] = False,
    tag: Annotated[Optional[list[str]], typer.Option("--tag", "-t", help="Only with one of these tags")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Print the functions as models take them; `export` writes them to a file."""
    if context.invoked_subcommand:
        return
    answer = service(url).fetch("GET", "/tools", format=form, strict=strict, tags=",".join(tag or ()))
    if form == "prompt" and not as_json:
        print_code(answer.text.rstrip() + "\n", "markdown")
    else:
        print_json(answer.text if form == "prompt" else answer.json())
    if loose := answer.headers.get("Not-Strict"):
        say(f"[yellow]not strict[/]  {escape(loose)}")


@tools_app.command()
@command
def export(
    file: Annotated[Path, typer.Argument(help="Where they are written", show_default=False)] = Path("tools.json"),
    tag: Annotated[Optional[list[str]], typer.Option("--tag", "-t", help="Only with one of these tags")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Write the functions to a file in OpenAI's form, as fine-tuning reads them."""
    found = service(url).fetch("GET", "/tools", format="openai", tags=",".join(tag or ())).json()
    try:
        file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"{file} could not be written: {error.strerror}.") from error
    if as_json:
        print_json({"file": str(file), "functions": len(found)})
    else:
        say(f"{len(found)} function{'' if len(found) == 1 else 's'} in {escape(str(file))}")
