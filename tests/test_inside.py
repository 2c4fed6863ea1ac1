"""What runs inside kernels: how the process is prepared, and how functions come to a shell's namespace."""

from __future__ import annotations

import builtins
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from pydantic import TypeAdapter

from kernels.environments import Generation
from kernels.inside import launch
from kernels.inside.functions import Functions, Newer
from kernels.inside.library import Library, is_stale
from kernels.inside.package import PACKAGE
from kernels.kernel import Kernel
from kernels.kernelspecs import ALIAS, Shelf
from kernels.outputs import fold
from kernels.packages import Lock
from kernels.tasks import Task
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
    return Functions(shell, Library(place.folder))


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


# -- functions.py: what is imported again


def test_only_a_changed_function_is_imported_again(shell: Shell, place: Generation, functions: Functions) -> None:
    publish(place, 1, same=returning("same", 1), other=returning("other", 1))
    functions.refresh()
    before = dict(shell.user_ns)
    publish(place, 2, same=returning("same", 1), other=returning("other", 2), new=returning("new", 3))
    functions.refresh()
    assert shell.user_ns["same"] is before["same"]
    assert (shell.user_ns["other"](), shell.user_ns["new"]()) == (2, 3)


COUNTING = """
import builtins

builtins.imported = getattr(builtins, "imported", 0) + 1

def counting():
    return 1
"""


def test_an_import_that_did_something_does_it_once(
    place: Generation, functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.imported", 0, raising=False)
    for number in (1, 2, 3):
        publish(place, number, counting=COUNTING, other=returning("other", number))
        functions.refresh()
    assert vars(builtins)["imported"] == 1


USES = "from aigbb_functions import inner\n\ndef outer():\n    return inner() + 1\n"


def test_a_function_that_uses_others_is_imported_again_with_them(
    shell: Shell, place: Generation, functions: Functions
) -> None:
    publish(place, 1, inner=returning("inner", 1), outer=USES)
    functions.refresh()
    assert shell.user_ns["outer"]() == 2
    publish(place, 2, inner=returning("inner", 10), outer=USES)
    functions.refresh()
    assert shell.user_ns["outer"]() == 11
    assert shell.user_ns["outer"].__globals__["inner"] is shell.user_ns["inner"]


def test_a_chain_of_uses_is_imported_again_whole(shell: Shell, place: Generation, functions: Functions) -> None:
    middle = "import aigbb_functions\n\ndef inner():\n    return aigbb_functions.zero() + 1\n"
    for number in (5, 6):
        publish(place, number, zero=returning("zero", number), inner=middle, outer=USES)
        functions.refresh()
        assert shell.user_ns["outer"]() == number + 2


def test_a_function_whose_dependency_went_is_told_and_comes_back_with_it(
    shell: Shell, place: Generation, functions: Functions
) -> None:
    publish(place, 1, inner=returning("inner", 1), outer=USES)
    functions.refresh()
    publish(place, 2, outer=USES)
    functions.refresh()
    assert shell.user_ns == {}
    [line] = functions.take_unsaid()
    assert line.startswith("aigbb_functions: outer is not available (ImportError: cannot import name 'inner'")
    publish(place, 3, inner=returning("inner", 5), outer=USES)
    functions.refresh()
    assert shell.user_ns["outer"]() == 6
    assert functions.take_unsaid() == []


def test_a_broken_function_is_there_once_a_snapshot_repairs_it(
    shell: Shell, place: Generation, functions: Functions
) -> None:
    publish(place, 1, mended="1 / 0\n")
    functions.refresh()
    assert functions.failures == {"mended": "ZeroDivisionError: division by zero"}
    publish(place, 2, mended=returning("mended", 1))
    functions.refresh()
    assert shell.user_ns["mended"]() == 1
    assert functions.failures == {}
    assert len(functions.take_unsaid()) == 1


def test_a_function_that_breaks_is_withdrawn(shell: Shell, place: Generation, functions: Functions) -> None:
    publish(place, 1, f=returning("f", 1))
    functions.refresh()
    publish(place, 2, f="import sys\nsys.exit('gone')\n")
    functions.refresh()
    assert shell.user_ns == {}
    assert functions.take_unsaid() == ["aigbb_functions: f is not available (SystemExit: gone)"]


def test_a_function_that_failed_is_tried_again_with_each_snapshot(
    shell: Shell, place: Generation, functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = "import builtins\n\nbuiltins.is_there\n\ndef late():\n    return 1\n"
    publish(place, 1, late=waiting)
    functions.refresh()
    assert shell.user_ns == {}
    monkeypatch.setattr("builtins.is_there", True, raising=False)
    publish(place, 2, late=waiting)
    functions.refresh()
    assert shell.user_ns["late"]() == 1


def test_a_deleted_function_that_was_broken_is_forgotten(place: Generation, functions: Functions) -> None:
    publish(place, 1, bad="1 / 0\n")
    functions.refresh()
    publish(place, 2)
    functions.refresh()
    assert (functions.failures, dict(functions.known)) == ({}, {})


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("f = 3\n", "TypeError: f is int, not a function, once the file has run"),
        ("def g():\n    pass\n", "AttributeError: module 'aigbb_functions.f' has no attribute 'f'"),
        ("def f(:\n", "SyntaxError: invalid syntax"),
        ("raise ValueError('one\\ntwo')\n", "ValueError: one"),
    ],
)
def test_a_file_that_leaves_no_function_is_broken(
    shell: Shell, place: Generation, functions: Functions, source: str, reason: str
) -> None:
    publish(place, 1, f=source, good=returning("good", 1))
    functions.refresh()
    assert shell.user_ns.keys() == {"good"}
    assert functions.failures == {"f": reason}
    assert "aigbb_functions.f" not in sys.modules


KNOWN = {"version": 1, "digest": "a", "uses": False}


@pytest.mark.parametrize(
    ("function", "known", "stale"),
    [
        (KNOWN, None, True),
        (KNOWN, KNOWN, False),
        ({**KNOWN, "version": 2}, KNOWN, False),
        ({**KNOWN, "digest": "b"}, KNOWN, True),
        ({**KNOWN, "uses": True}, {**KNOWN, "uses": True}, True),
    ],
)
def test_what_has_to_be_imported_again(function: dict[str, Any], known: dict[str, Any] | None, stale: bool) -> None:
    assert is_stale(function, known) is stale


# -- package.py: the functions' own package


def package() -> Any:
    """The package as a cell imports it."""
    return importlib.import_module(PACKAGE)


def test_every_function_is_an_attribute_of_the_package(place: Generation, functions: Functions) -> None:
    publish(place, 1, one=returning("one", 1), two=returning("two", 2))
    functions.refresh()
    names: dict[str, Any] = {}
    exec("from aigbb_functions import *", names)
    assert (package().one(), package().two(), names["one"](), names["two"]()) == (1, 2, 1, 2)
    assert package().__all__ == ["one", "two"]
    assert callable(package().one), "and not its file's module"


def test_a_module_of_the_package_can_be_imported_by_its_own_name(place: Generation, functions: Functions) -> None:
    publish(place, 1, one=returning("one", 1))
    functions.refresh()
    assert importlib.import_module("aigbb_functions.one").one is package().one


def test_the_package_has_no_other_attributes_and_says_why(place: Generation, functions: Functions) -> None:
    publish(place, 1, one=returning("one", 1), bad="1 / 0\n")
    functions.refresh()
    with pytest.raises(AttributeError, match="aigbb_functions has no function 'two'"):
        _ = package().two
    with pytest.raises(ZeroDivisionError):
        _ = package().bad
    with pytest.raises(ImportError, match="cannot import name 'two'"):
        exec("from aigbb_functions import two")


def test_functions_may_be_called_as_one_likes(place: Generation, functions: Functions) -> None:
    names = ("show", "load", "hide", "refresh")
    publish(place, 1, {}, **{name: returning(name, number) for number, name in enumerate(names)})
    functions.refresh()
    publish(place, 2, {}, **{name: returning(name, number + 1) for number, name in enumerate(names)})
    functions.refresh()
    assert [getattr(package(), name)() for name in names] == [1, 2, 3, 4]


# -- secrets

WITH_SECRET = "import os\n\nKEY = os.environ['A_KEY']\n\ndef needs():\n    return KEY\n"


def publish_needy(place: Generation) -> None:
    """A function that waits for a secret, one that uses it, and one that has none."""
    using = "from aigbb_functions import needs\n\ndef uses():\n    return needs()\n"
    sources = {"needs": WITH_SECRET, "uses": using, "plain": returning("plain", 1)}
    listed = [Function(name, source, (), (), "", "") for name, source in sources.items()]
    snapshot = place.folder.parents[1] / "snapshots" / "1"
    write_snapshot(snapshot, listed, {}, secrets={"needs": ["A_KEY"], "uses": ["A_KEY"]})
    place.pointer.write_text(str(snapshot))


def test_functions_wait_for_their_secrets(shell: Shell, place: Generation, functions: Functions) -> None:
    publish_needy(place)
    functions.refresh()
    assert (list(functions.offered), functions.failures, package().__all__) == (["plain"], {}, ["plain"])
    assert functions.library.missing("uses") == ["A_KEY"]
    with pytest.raises(AttributeError, match="needs waits for secrets that this process was not given"):
        _ = package().needs
    exec("from aigbb_functions import *")
    os.environ["A_KEY"] = "value"
    functions.library.give(["A_KEY"])
    functions.refresh()
    assert (shell.user_ns["needs"](), shell.user_ns["uses"]()) == ("value", "value")
    assert package().__all__ == ["needs", "plain", "uses"]


def test_a_grant_that_comes_later_has_the_function_imported_again(place: Generation, functions: Functions) -> None:
    os.environ["A_KEY"] = "from elsewhere"
    publish(place, 0, needs=WITH_SECRET)
    functions.refresh()
    assert list(functions.offered) == ["needs"]
    publish_needy(place)
    functions.refresh()
    assert list(functions.offered) == ["plain"]


def test_a_notebook_does_not_wait_and_says_what_is_missing(place: Generation, functions: Functions) -> None:
    functions.library.give(None)
    publish_needy(place)
    functions.refresh()
    assert sorted(functions.offered) == ["plain"]
    reason = "KeyError: 'A_KEY'; it has secrets, A_KEY, which are not given to notebooks"
    assert functions.take_unsaid() == [
        f"aigbb_functions: {name} is not available ({reason})" for name in ("needs", "uses")
    ]


def test_a_variable_does_not_take_a_secrets_place(place: Generation, functions: Functions) -> None:
    os.environ["A_KEY"] = "the secret"
    functions.library.give(["A_KEY"])
    publish(place, 1, {"A_KEY": "a variable", "B_KEY": "another"}, one=returning("one", 1))
    functions.refresh()
    assert (os.environ["A_KEY"], os.environ["B_KEY"]) == ("the secret", "another")


def test_a_deleted_function_leaves_the_package(place: Generation, functions: Functions) -> None:
    publish(place, 1, one=returning("one", 1), gone=returning("gone", 1))
    functions.refresh()
    held = package()
    publish(place, 2, one=returning("one", 1))
    functions.refresh()
    assert package() is held
    assert held.__all__ == ["one"]
    assert "aigbb_functions.gone" not in sys.modules
    with pytest.raises(AttributeError):
        _ = held.gone


def test_a_name_that_the_user_bound_is_the_function_in_the_package(
    shell: Shell, place: Generation, functions: Functions
) -> None:
    shell.user_ns["own"] = "mine"
    publish(place, 1, own=returning("own", 1))
    functions.refresh()
    assert (shell.user_ns["own"], package().own()) == ("mine", 1)


DICTS = """
from typing import NotRequired, TypedDict

class Base(TypedDict):
    city: str

class Place(Base, total=False):
    zip: str

def place_of(place: Place) -> str:
    return place["city"]
"""


def test_a_typed_dict_can_be_read_and_typing_is_as_it_was(
    shell: Shell, place: Generation, functions: Functions
) -> None:
    own = typing.TypedDict
    publish(place, 1, place_of=DICTS, bad="from typing import TypedDict\n1 / 0\n")
    functions.refresh()
    assert typing.TypedDict is own
    schema = TypeAdapter(shell.user_ns["place_of"].__annotations__["place"]).json_schema()
    assert schema["required"] == ["city"]
    assert schema["properties"].keys() == {"city", "zip"}


# -- functions.py: variables


def test_all_are_imported_again_when_a_variable_changes(shell: Shell, place: Generation, functions: Functions) -> None:
    source = "import os\n\nSEEN = os.environ['SEEN']\n\ndef seen():\n    return SEEN\n"
    publish(place, 1, {"SEEN": "old"}, seen=source, other=returning("other", 1))
    functions.refresh()
    before = shell.user_ns["other"]
    publish(place, 2, {"SEEN": "new"}, seen=source, other=returning("other", 1))
    functions.refresh()
    assert shell.user_ns["seen"]() == "new"
    assert shell.user_ns["other"] is not before


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
launch["die_with_parent"](int(os.environ["JPY_PARENT_PID"]))
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
    execution = await fold(kernel.execute(Task.code(code), timeout=20, max_output=1 << 20))
    assert json.loads(execution.text("stdout")) == [False, None]


@pytest.mark.anyio
async def test_nothing_of_ours_shadows_what_users_import(kernel: Kernel) -> None:
    code = "import importlib.util\n[importlib.util.find_spec(name) for name in ('launch', 'probe', 'functions')]"
    execution = await fold(kernel.execute(Task.code(code), timeout=20, max_output=1 << 20))
    assert execution.result == "[None, None, None]"


@pytest.mark.skipif(sys.platform != "linux", reason="a sandbox takes Linux")
def test_a_kernel_whose_service_was_killed_while_its_sandbox_came_up_ends(generation: Generation) -> None:
    argv = [str(generation.python), launch.__file__, "--warm"]
    with subprocess.Popen(["sleep", "100"]) as service:
        descriptor = os.pidfd_open(service.pid)
        service.kill()
    try:
        env = {"AIGBB_SERVICE": str(descriptor), "AIGBB_GENERATION": str(generation.folder)}
        done = subprocess.run(argv, env=env, pass_fds=(descriptor,), stdin=subprocess.DEVNULL, timeout=60)
    finally:
        os.close(descriptor)
    assert done.returncode == 1
