"""What runs inside kernels: how the process is prepared, and how functions come to a shell's namespace."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from kernels.environments import Generation
from kernels.inside import launch
from kernels.inside.functions import PACKAGE, Functions, Newer
from kernels.kernel import Kernel
from kernels.kernelspecs import ALIAS, Shelf
from kernels.outputs import fold
from kernels.packages import Lock
from server.functions import Function
from server.snapshots import write_snapshot


class Shell:
    """The part of IPython's shell where names live; a whole one would take over this process."""

    def __init__(self) -> None:
        self.user_ns: dict[str, Any] = {}
        self.user_ns_hidden: dict[str, Any] = {}

    push = InteractiveShell.push
    drop_by_id = InteractiveShell.drop_by_id


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Generation]:
    """A generation's folder in an empty home; what is loaded from it is unloaded again."""
    folder = tmp_path / "generations" / "3"
    folder.mkdir(parents=True)
    (tmp_path / "snapshots").mkdir()
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules, environment = set(sys.modules), dict(os.environ)
    yield Generation(3, folder, Lock(""))
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in (PACKAGE, "aigbb_inside"):
            del sys.modules[name]
    os.environ.clear()
    os.environ.update(environment)


def publish(place: Generation, number: int, env: Mapping[str, str] | None = None, **sources: str) -> Path:
    """Write a snapshot and point the generation at it."""
    snapshot = place.folder.parents[1] / "snapshots" / str(number)
    functions = [Function(name, source, (), (), "", "") for name, source in sources.items()]
    write_snapshot(snapshot, functions, env or {})
    place.pointer.write_text(str(snapshot))
    return snapshot


def returning(name: str, value: int) -> str:
    """The source of a function that returns a number."""
    return f"def {name}():\n    return {value}\n"


@pytest.fixture
def shell() -> Shell:
    """An empty namespace."""
    return Shell()


@pytest.fixture
def functions(shell: Shell, place: Generation) -> Functions:
    """Nothing loaded yet."""
    return Functions(shell, place.folder)


# -- functions.py: names


def test_functions_are_bound_by_name_and_hidden_from_whos(
    shell: Shell, place: Generation, functions: Functions
) -> None:
    publish(place, 1, one=returning("one", 1), two=returning("two", 2))
    functions.refresh()
    assert (shell.user_ns["one"](), shell.user_ns["two"]()) == (1, 2)
    assert shell.user_ns_hidden.keys() == {"one", "two"}


def test_an_unchanged_pointer_loads_nothing_again(shell: Shell, place: Generation, functions: Functions) -> None:
    publish(place, 1, one=returning("one", 1))
    functions.refresh()
    bound = shell.user_ns["one"]
    functions.refresh()
    assert shell.user_ns["one"] is bound


def test_the_next_snapshot_replaces_adds_and_withdraws(shell: Shell, place: Generation, functions: Functions) -> None:
    old = publish(place, 1, one=returning("one", 1), gone=returning("gone", 1))
    functions.refresh()
    new = publish(place, 2, one=returning("one", 10), two=returning("two", 20))
    functions.refresh()
    assert {name: value() for name, value in shell.user_ns.items()} == {"one": 10, "two": 20}
    assert "gone" not in shell.user_ns_hidden
    assert sys.path[0] == str(new)
    assert str(old) not in sys.path


def test_a_name_that_the_user_bound_is_never_touched(shell: Shell, place: Generation, functions: Functions) -> None:
    shell.user_ns["own"] = "before"
    publish(place, 1, own=returning("own", 1), later=returning("later", 1))
    functions.refresh()
    shell.user_ns["later"] = "after"
    publish(place, 2, own=returning("own", 2), later=returning("later", 2))
    functions.refresh()
    publish(place, 3)
    functions.refresh()
    assert shell.user_ns == {"own": "before", "later": "after"}


def test_a_name_that_the_user_frees_is_the_functions_again(
    shell: Shell, place: Generation, functions: Functions
) -> None:
    shell.user_ns["own"] = "mine"
    publish(place, 1, own=returning("own", 1))
    functions.refresh()
    del shell.user_ns["own"]
    functions.refresh()
    assert shell.user_ns["own"]() == 1


def test_a_broken_function_is_told_once_and_the_others_are_bound(
    shell: Shell, place: Generation, functions: Functions
) -> None:
    publish(place, 1, bad="import no_such_module\n", good=returning("good", 1))
    functions.refresh()
    assert shell.user_ns.keys() == {"good"}
    [line] = functions.take_unsaid()
    assert line.startswith("aigbb_functions: bad is not available (ModuleNotFoundError: ")
    functions.refresh()
    assert functions.take_unsaid() == []


def test_a_lost_snapshot_is_told_once_and_what_was_loaded_stays(
    shell: Shell, place: Generation, functions: Functions
) -> None:
    publish(place, 1, one=returning("one", 1))
    functions.refresh()
    shutil.rmtree(publish(place, 2, one=returning("one", 2)))
    for _ in range(2):
        functions.refresh()
    assert functions.take_unsaid() == ["aigbb_functions: the functions could not be read (No such file or directory)"]
    assert shell.user_ns["one"]() == 1
    publish(place, 2, one=returning("one", 2))
    functions.refresh()
    assert shell.user_ns["one"]() == 2


# -- functions.py: variables


def test_registered_variables_are_set_before_functions_are_imported(
    shell: Shell, place: Generation, functions: Functions
) -> None:
    source = "import os\n\nSEEN = os.environ['AT_IMPORT']\n\ndef seen():\n    return SEEN\n"
    publish(place, 1, {"AT_IMPORT": "there"}, seen=source)
    functions.refresh()
    assert shell.user_ns["seen"]() == "there"


def test_only_variables_with_a_new_value_are_set_again(place: Generation, functions: Functions) -> None:
    publish(place, 1, {"KEPT": "theirs", "ROTATED": "old"})
    functions.refresh()
    os.environ.update(KEPT="mine", ROTATED="mine")
    publish(place, 2, {"KEPT": "theirs", "ROTATED": "new"})
    functions.refresh()
    assert (os.environ["KEPT"], os.environ["ROTATED"]) == ("mine", "new")


# -- functions.py: a newer generation


def offer(place: Generation, number: int, home: Path | None = None) -> Path:
    """Write the alias for a generation of a home, as the service does. Returns its kernel.json."""
    root = home or place.folder.parents[1]
    shelf = Shelf(place.folder.parents[1] / "kernels", root)
    shelf.put_alias(Generation(number, root / "generations" / str(number), Lock("")))
    return shelf.folder / ALIAS / "kernel.json"


def test_a_newer_generation_is_news_once_each(place: Generation) -> None:
    spec = offer(place, 3)
    newer = Newer(place.folder, [spec])
    assert newer.news() == []
    offer(place, 4)
    [line] = newer.news()
    assert line.startswith("aigbb_functions: kernel 4 has new packages;")
    assert line.endswith('pick the kernel again: "aigbb functions (latest)".')
    assert newer.news() == []
    offer(place, 5)
    assert len(newer.news()) == 1


def test_an_older_generation_is_no_news(place: Generation) -> None:
    assert Newer(place.folder, [offer(place, 2)]).news() == []


def test_another_services_generation_is_no_news(place: Generation, tmp_path: Path) -> None:
    assert Newer(place.folder, [offer(place, 9, tmp_path / "other")]).news() == []


def test_a_generation_that_is_built_but_does_not_serve_yet_is_no_news(place: Generation) -> None:
    spec = offer(place, 3)
    built = place.folder.parent / "4"
    built.mkdir()
    (built / "snapshot").write_text("anything")
    assert Newer(place.folder, [spec]).news() == []


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"metadata": null}', '{"metadata": {"aigbb": 1}}'])
def test_a_kernelspec_that_is_not_ours_is_passed_over(place: Generation, tmp_path: Path, text: str) -> None:
    strange = tmp_path / "kernel.json"
    strange.write_text(text)
    specs = [tmp_path / "missing.json", strange, offer(place, 4)]
    assert len(Newer(place.folder, specs).news()) == 1


# -- launch.py


def test_a_held_generation_is_in_use_until_the_process_lets_go(place: Generation) -> None:
    assert not place.in_use()
    held = [launch.hold(place.folder), launch.hold(place.folder)]
    assert place.in_use()
    os.close(held[0])
    assert place.in_use()
    os.close(held[1])
    assert not place.in_use()


def test_our_code_is_importable_without_a_path_entry(place: Generation) -> None:
    sys.path.insert(0, str(launch.HERE))
    launch.become_importable()
    assert str(launch.HERE) not in sys.path
    from aigbb_inside import functions  # type: ignore[import-not-found]

    assert Path(functions.__file__) == launch.HERE / "functions.py"


CHILD = """
import os, runpy, sys
launch = runpy.run_path(sys.argv[1])
launch["die_with_parent"]()
print("alive", flush=True)
os.read(0, 1)
"""

PARENT = """
import os, subprocess, sys
env = dict(os.environ, JPY_PARENT_PID=str(os.getpid()))
subprocess.run([sys.executable, "-c", *sys.argv[1:]], env=env)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's prctl; ipykernel polls its parent elsewhere")
def test_an_owned_kernel_dies_with_the_service() -> None:
    argv = [sys.executable, "-c", PARENT, CHILD, launch.__file__]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"alive\n"
        parent.send_signal(signal.SIGKILL)
        # The end of its output is the end of the child: stdin is still open, so it has no reason of its own.
        assert parent.stdout.read() == b""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's prctl; ipykernel polls its parent elsewhere")
def test_a_kernel_whose_service_is_gone_already_does_not_start() -> None:
    env = {**os.environ, "JPY_PARENT_PID": str(os.getppid())}
    finished = subprocess.run([sys.executable, "-c", CHILD, launch.__file__], env=env, capture_output=True, timeout=60)
    assert (finished.returncode, finished.stdout) == (1, b"")


@pytest.mark.anyio
async def test_an_owned_kernel_keeps_no_history_and_hands_its_ownership_to_no_child(kernel: Kernel) -> None:
    code = "import json, os\nprint(json.dumps([get_ipython().history_manager.enabled, os.environ.get('AIGBB_OWNED')]))"
    execution = await fold(kernel.execute(code, timeout=20, max_output=1 << 20))
    assert json.loads(execution.text("stdout")) == [False, None]


@pytest.mark.anyio
async def test_nothing_of_ours_shadows_what_users_import(kernel: Kernel) -> None:
    code = "import importlib.util\n[importlib.util.find_spec(name) for name in ('launch', 'probe', 'functions')]"
    execution = await fold(kernel.execute(code, timeout=20, max_output=1 << 20))
    assert execution.result == "[None, None, None]"
