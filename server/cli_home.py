"""The command line about the home folder itself, with or without a service on it: back it up, restore it.

What reads and writes homes is imported by these commands alone: the others answer sooner without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.markup import escape

from server.printing import AsJson, command, print_json, say, waiting, write
from server.settings import Settings

if TYPE_CHECKING:
    from server.backup import Manifest

app = typer.Typer()
SERVICE = "Service"


@app.command(rich_help_panel=SERVICE)
@command
def backup(
    file: Annotated[Optional[Path], typer.Argument(help="Where to; by default here, named by the moment")] = None,
    results: Annotated[bool, typer.Option("--results", help="Pictures and long results too")] = False,
    keys: Annotated[bool, typer.Option("--keys", help="The token, and the key of secrets, too")] = False,
    as_json: AsJson = False,
) -> None:
    """Write all that the home holds into one file; the service may be running."""
    from server.backup import KEYS, Choice, back_up, default_name
    from server.damage import usable
    from server.snapshots import Projection

    settings = Settings()
    target = (file or Path(default_name())).absolute()
    with usable(settings.home), waiting("Backing up", as_json=as_json):
        home = settings.open_home()
        manifest = back_up(home, Projection(settings.functions_dir), target, Choice(results=results, keys=keys))
    if as_json:
        print_json({"file": str(target), **_told(manifest)})
        return
    write(f"[bold]{escape(str(target))}[/]  {_counted(manifest)}, {target.stat().st_size / 1024:.0f} KiB")
    for name in KEYS:
        if not keys and (home.path / name).exists():
            say(f"[dim]{name} is not in it: keep a copy of it elsewhere, or add --keys.[/]")


@app.command(rich_help_panel=SERVICE)
@command
def restore(
    file: Annotated[Path, typer.Argument(help="A file that `aigbb backup` has written")],
    replace: Annotated[bool, typer.Option("--replace", help="Also where there is a registry; it is kept")] = False,
    as_json: AsJson = False,
) -> None:
    """Make the home what a backup holds, all of it or nothing. The service must not be running."""
    from server.damage import usable
    from server.restoring import restore as restore_home
    from server.snapshots import Projection

    settings = Settings()
    with usable(settings.home), waiting("Restoring", as_json=as_json):
        home = settings.open_home()
        done = restore_home(home, Projection(settings.functions_dir), file.absolute(), replace=replace)
    if as_json:
        replaced = str(done.replaced) if done.replaced else None
        print_json({"home": str(home.path), "replaced": replaced, **_told(done.manifest)})
        return
    for line in _said(done.manifest, home.path, done.replaced):
        write(line)


def _said(manifest: Manifest, home: Path, replaced: Path | None) -> Iterator[str]:
    yield f"{escape(str(home))} is as of {manifest.created}: {_counted(manifest)}."
    if replaced is not None:
        yield f"What was there before is in {escape(str(replaced))}."
    yield "Start the service: it builds the environment again from its lock."


def _counted(manifest: Manifest) -> str:
    return f"{manifest.functions} function{'' if manifest.functions == 1 else 's'}, {len(manifest.files)} files"


def _told(manifest: Manifest) -> dict[str, Any]:
    return manifest.model_dump()
