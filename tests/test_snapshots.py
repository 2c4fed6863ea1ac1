"""The generated package, and the folder that people see and edit."""

from __future__ import annotations

import ast
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kernels.errors import InvalidRequirement
from server.errors import InvalidRequest
from server.functions import Declared, Draft, Function
from server.snapshots import (
    Projection,
    SnapshotContents,
    digest_of,
    doom_snapshots,
    render_init,
    sweep_snapshots,
    write_snapshot,
)


def function(name: str, source: str | None = None, packages: tuple[str, ...] = ()) -> Function:
    """A function; without a source, one that answers its own name."""
    return Function(name, source or f"def {name}():\n    return {name!r}\n", packages, (), "", f"{name}()")


def functions(*names: str, **sources: str) -> list[Function]:
    """Several."""
    return [*(function(name) for name in names), *(function(name, source) for name, source in sources.items())]


def ask(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a plain Python that has the package."""
    head = f"import sys; sys.path.insert(0, {str(folder)!r})\n"
    return subprocess.run([sys.executable, "-I", "-S", "-c", head + code], capture_output=True, text=True)


# -- snapshots


def test_a_snapshot_is_a_package_for_any_python(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "3", functions("b", "a"), {})
    ran = ask(tmp_path / "3", "from aigbb_functions import *; import aigbb_functions as m; print(a(), b(), m.__all__)")
    assert (ran.stdout, ran.stderr) == ("a b ['a', 'b']\n", "")


def test_a_snapshot_without_functions_imports_too(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "1", [], {})
    assert ask(tmp_path / "1", "import aigbb_functions as m; print(m.__all__)").stdout == "[]\n"


def test_sources_are_written_to_the_byte(tmp_path: Path) -> None:
    source = "def f():\r\n    return 'é'\n"
    write_snapshot(tmp_path / "1", functions(f=source), {})
    assert (tmp_path / "1" / "aigbb_functions" / "f.py").read_bytes() == source.encode()


def test_variables_are_for_the_owner_only(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "1", [], {"KEY": "hush é"})
    path = tmp_path / "1" / "environment.json"
    assert json.loads(path.read_text()) == {"KEY": "hush é"}
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_manifest_says_what_has_to_be_loaded_again(tmp_path: Path) -> None:
    sources = {"alone": "def alone(): return 1\n", "uses": "from aigbb_functions import alone\ndef uses(): alone()\n"}
    write_snapshot(tmp_path / "1", functions(**sources), {}, {"alone": 3, "uses": 12})
    assert json.loads((tmp_path / "1" / "manifest.json").read_text()) == {
        "alone": {
            "version": 3,
            "digest": "d55f9c65a16706efa6a2d921e65dbe158e34fde37c1509e4a6425283ac7e0ace",
            "uses": False,
            "written": [],
            "declared": False,
        },
        "uses": {
            "version": 12,
            "digest": "a5823517c61ec2bfc638fc619a493f4fd684466ed499b1cec1562f34db2aeef3",
            "uses": True,
            "written": [],
            "declared": False,
        },
    }


def test_the_manifest_of_no_functions_is_empty(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "1", [], {})
    assert json.loads((tmp_path / "1" / "manifest.json").read_text()) == {}


def test_a_function_without_a_number_has_zero(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "1", functions("f"), {}, {"other": 3})
    assert json.loads((tmp_path / "1" / "manifest.json").read_text())["f"]["version"] == 0


def test_the_digest_of_a_manifest_is_that_of_the_source_alone(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "1", [function("f")], {})
    write_snapshot(tmp_path / "2", [function("f", packages=("six",))], {})
    write_snapshot(tmp_path / "3", [function("f", "def f(): return 3\n")], {})
    found = [json.loads((tmp_path / n / "manifest.json").read_text())["f"]["digest"] for n in ("1", "2", "3")]
    assert found[0] == found[1] != found[2]


# -- the snapshot before


def inode(snapshot: Path, name: str) -> int:
    """Which file on disk a function has."""
    return (snapshot / "aigbb_functions" / f"{name}.py").stat().st_ino


def test_files_that_are_the_same_are_linked_and_others_written(tmp_path: Path) -> None:
    old, new = tmp_path / "1", tmp_path / "2"
    write_snapshot(old, functions("same", "changed", "gone"), {})
    write_snapshot(new, functions("same", "added", changed="def changed(): return 2\n"), {}, previous=old)
    assert inode(new, "same") == inode(old, "same")
    assert inode(new, "changed") != inode(old, "changed")
    assert sorted(p.name for p in (new / "aigbb_functions").iterdir()) == [
        "__init__.py",
        "added.py",
        "changed.py",
        "same.py",
    ]
    assert (old / "aigbb_functions" / "changed.py").read_text() == function("changed").source
    ran = ask(new, "from aigbb_functions import *; print(same(), changed(), added())")
    assert (ran.stdout, ran.stderr) == ("same 2 added\n", "")


@pytest.mark.parametrize("lost", ["aigbb_functions/f.py", "manifest.json", ""])
def test_what_the_snapshot_before_has_lost_is_written_again(tmp_path: Path, lost: str) -> None:
    write_snapshot(tmp_path / "1", functions("f"), {})
    path = tmp_path / "1" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_snapshot(tmp_path / "2", functions("f"), {}, previous=tmp_path / "1")
    assert ask(tmp_path / "2", "import aigbb_functions as m; print(m.f())").stdout == "f\n"


def test_a_snapshot_outlives_the_one_that_it_was_linked_from(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "1", functions("f"), {})
    write_snapshot(tmp_path / "2", functions("f"), {}, previous=tmp_path / "1")
    for doomed in doom_snapshots(tmp_path, {2}, 2):
        shutil.rmtree(doomed)
    assert ask(tmp_path / "2", "import aigbb_functions as m; print(m.f())").stdout == "f\n"


def test_a_snapshot_replaces_what_a_killed_service_left(tmp_path: Path) -> None:
    for left in (".writing-1", "1"):
        (tmp_path / left / "aigbb_functions").mkdir(parents=True)
        (tmp_path / left / "aigbb_functions" / "old.py").touch()
    write_snapshot(tmp_path / "1", functions("new"), {})
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert sorted(p.name for p in (tmp_path / "1" / "aigbb_functions").iterdir()) == ["__init__.py", "new.py"]


def test_a_snapshot_that_cannot_be_finished_has_no_number(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_snapshot(tmp_path / "1", functions(f="'\ud800'"), {})
    assert not (tmp_path / "1").exists()


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise ValueError('one\\ntwo')", "ValueError: one"),
        ("raise ValueError", "ValueError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("def f(:", "SyntaxError: "),
        ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("x = 1", "AttributeError: "),
        ("class E(Exception):\n    def __str__(self): raise self\nraise E", "aigbb_functions.f.E: "),
    ],
)
def test_a_broken_function_is_one_line_and_harms_no_other(tmp_path: Path, broken: str, reason: str) -> None:
    write_snapshot(tmp_path / "1", functions("a", "z", f=broken), {})
    ran = ask(tmp_path / "1", "from aigbb_functions import *; print(a(), z(), 'f' in globals())")
    assert ran.stdout == "a z False\n"
    assert ran.stderr.startswith(f"aigbb_functions: f is not available ({reason}")
    assert ran.stderr.count("\n") == 1


def test_asking_for_a_broken_or_unknown_function_says_why(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "1", functions(f="1 / 0"), {})
    assert "ZeroDivisionError" in ask(tmp_path / "1", "from aigbb_functions import f").stderr
    assert "no function 'g'" in ask(tmp_path / "1", "import aigbb_functions; aigbb_functions.g").stderr


USES = (
    "from aigbb_functions import {name}",
    "from aigbb_functions.{name} import {name}",
    "import aigbb_functions; {name} = aigbb_functions.{name}",
)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_functions_import_each_other_in_any_order(tmp_path: Path, use: str, order: tuple[str, ...]) -> None:
    """The package imports by name; one uses the next, when called and already when imported."""
    first, second, third = order
    sources = {
        first: f"{use.format(name=second)}\nonce = {second}()\ndef {first}(): return [{second}(), once]\n",
        second: f"from aigbb_functions import {third}\nonce = {third}()\ndef {second}(): return {third}() + once\n",
        third: f"def {third}(): return 1\n",
    }
    write_snapshot(tmp_path / "1", functions(**sources), {})
    ran = ask(tmp_path / "1", f"from aigbb_functions import *; print(a, b, c, {first}())")
    assert ran.stderr == ""
    assert ran.stdout.count("<function ") == 3
    assert ran.stdout.endswith(" [2, 2]\n")


def test_a_name_is_a_function_whoever_imported_its_file_first(tmp_path: Path) -> None:
    sources = {
        "a": "from aigbb_functions.c import c\ndef a(): return c()\n",
        "b": "from aigbb_functions import c\ndef b(): return c()\n",
        "c": "def c(): return 1\n",
    }
    write_snapshot(tmp_path / "1", functions(**sources), {})
    ran = ask(tmp_path / "1", "from aigbb_functions import *; print(a(), b(), c())")
    assert (ran.stdout, ran.stderr) == ("1 1 1\n", "")


def test_two_functions_that_call_each_other_later_are_fine(tmp_path: Path) -> None:
    sources = {
        "a": "def a(n):\n    from aigbb_functions import b\n    return b(n - 1) if n else 'a'\n",
        "b": "def b(n):\n    from aigbb_functions import a\n    return a(n - 1) if n else 'b'\n",
    }
    write_snapshot(tmp_path / "1", functions(**sources), {})
    assert ask(tmp_path / "1", "from aigbb_functions import a; print(a(3))").stdout == "b\n"


def test_the_generated_file_is_the_same_for_the_same_functions() -> None:
    assert render_init(["b", "a"]) == render_init(["a", "b"])
    ast.parse(render_init([]))


def test_the_checkouts_own_package_is_up_to_date() -> None:
    folder = Path(__file__).parents[1] / "aigbb_functions"
    names = [path.stem for path in folder.glob("*.py") if not path.name.startswith("_")]
    assert (folder / "__init__.py").read_text() == render_init(names)


def numbered(folder: Path, *names: str) -> None:
    """Folders that look like snapshots."""
    for name in names:
        (folder / name / "aigbb_functions").mkdir(parents=True)


def names_in(folder: Path) -> set[str]:
    """What there is."""
    return {path.name for path in folder.iterdir()}


def test_pruning_deletes_old_snapshots_that_are_not_kept(tmp_path: Path) -> None:
    numbered(tmp_path, "1", "2", "3", "12", ".writing-4")
    assert doom_snapshots(tmp_path, {2}, 3) == [tmp_path / ".removing-1", tmp_path / ".removing-3"]
    assert names_in(tmp_path) == {"2", "12", ".writing-4", ".removing-1", ".removing-3"}
    assert doom_snapshots(tmp_path, {2}, 3) == [tmp_path / ".removing-1", tmp_path / ".removing-3"]


def test_sweeping_deletes_what_was_begun_and_what_was_never_committed(tmp_path: Path) -> None:
    numbered(tmp_path, "1", "2", "12", ".writing-13")
    (tmp_path / ".DS_Store").touch()
    sweep_snapshots(tmp_path, 2)
    assert names_in(tmp_path) == {"1", "2", ".DS_Store"}


# -- the folder that people see


@pytest.fixture
def projection(tmp_path: Path) -> Projection:
    """One that is not there yet."""
    return Projection(tmp_path / "aigbb_functions")


def file(projection: Projection, name: str) -> Path:
    """A function's file."""
    return projection.folder / f"{name}.py"


def active(*given: Function) -> Mapping[str, Function]:
    """By name."""
    return {one.name: one for one in given}


def test_functions_are_written_and_remembered(projection: Projection) -> None:
    written = projection.write(functions("f", "g"), {})
    assert written == {"f": digest_of(function("f").source), "g": digest_of(function("g").source)}
    assert projection.sources() == {"f": function("f").source, "g": function("g").source}
    assert projection.edited(active(*functions("f", "g")), written) == []
    assert ask(projection.folder.parent, "from aigbb_functions import *; print(f(), g())").stdout == "f g\n"


def test_a_stale_file_of_ours_is_rewritten_or_removed(projection: Projection) -> None:
    before = projection.write(functions("f", "g"), {})
    newer = function("f", "def f(): return 2\n")
    written = projection.write([newer], before)
    assert projection.sources() == {"f": newer.source}
    assert written == {"f": digest_of(newer.source)}


def test_writing_again_touches_nothing(projection: Projection) -> None:
    given = [function("f", packages=("six",))]
    before = projection.write(given, {})
    paths = [*projection.folder.iterdir(), projection.requirements]
    inodes = [path.stat().st_ino for path in paths]
    assert projection.write(given, before) == before
    assert [path.stat().st_ino for path in paths] == inodes


def test_an_edited_file_is_left_alone_and_reported(projection: Projection) -> None:
    before = projection.write(functions("f", "g", "h"), {})
    file(projection, "f").write_text("def f(): return 'mine'\n")
    file(projection, "g").write_text("def g(): return 'mine'\n")
    after = [function("f", "def f(): return 'service'\n"), function("h")]
    assert projection.edited(active(*functions("f", "g", "h")), before) == ["f", "g"]
    written = projection.write(after, before)
    assert file(projection, "f").read_text() == "def f(): return 'mine'\n"
    assert file(projection, "g").exists()
    assert written.keys() == {"h"}
    assert projection.edited(active(*after), {**before, **written}) == ["f", "g"]


def test_a_new_file_is_reported_until_it_is_registered(projection: Projection) -> None:
    before = projection.write(functions("f"), {})
    file(projection, "new").write_text(function("new").source)
    assert projection.edited(active(*functions("f")), before) == ["new"]
    written = projection.write(functions("f", "new"), before)
    assert written.keys() == {"f", "new"}
    assert projection.edited(active(*functions("f", "new")), written) == []


def test_a_file_that_equals_what_serves_is_nobodys_edit(projection: Projection) -> None:
    projection.write(functions("f"), {})
    assert projection.edited(active(*functions("f")), {}) == []


def test_a_file_that_somebody_removed_comes_back(projection: Projection) -> None:
    before = projection.write(functions("f"), {})
    file(projection, "f").unlink()
    assert projection.edited(active(*functions("f")), before) == []
    projection.write(functions("f"), before)
    assert file(projection, "f").exists()


def test_of_some_names_only_these_are_brought_up_to_date(projection: Projection) -> None:
    before = projection.write(functions("f", "g", "h"), {})
    after = [function(name, f"def {name}(): return 2\n") for name in ("f", "g")]
    written = projection.write(after, before, ["f", "h"])
    assert written == {"f": digest_of("def f(): return 2\n")}
    assert projection.sources() == {"f": "def f(): return 2\n", "g": function("g").source}
    ran = ask(projection.folder.parent, "import aigbb_functions as m; print(m.__all__)")
    assert ran.stdout == "['f', 'g']\n"


def test_an_edited_file_is_left_alone_also_when_it_is_named(projection: Projection) -> None:
    before = projection.write(functions("f", "g"), {})
    file(projection, "f").write_text("def f(): return 'mine'\n")
    file(projection, "g").write_text("def g(): return 'mine'\n")
    assert projection.write([function("f", "def f(): return 2\n")], before, ["f", "g"]) == {}
    assert projection.sources() == {"f": "def f(): return 'mine'\n", "g": "def g(): return 'mine'\n"}


def test_what_cannot_be_a_function_is_not_looked_at(projection: Projection) -> None:
    projection.write([], {})
    for name in ("_helper.py", ".hidden.py", "notes.txt"):
        (projection.folder / name).write_text("x")
    (projection.folder / "folder.py").mkdir()
    (projection.folder / "gone.py").symlink_to("/nowhere/at/all.py")
    assert projection.sources() == {}
    projection.write(functions("f"), {})
    assert (projection.folder / "_helper.py").exists()


def test_a_file_that_is_no_text_is_a_draft_like_any_other(projection: Projection) -> None:
    projection.write([], {})
    file(projection, "f").write_bytes(b"def f(): return '\xff'\n")
    assert projection.edited({}, {}) == ["f"]
    assert projection.drafts(["f"]) == {"f": Draft("def f(): return '\udcff'\n", "f", (), {}, [], [])}


def test_a_folder_that_is_not_there_has_nothing(projection: Projection) -> None:
    assert projection.sources() == {}
    assert projection.edited({}, {"f": "x"}) == []
    assert projection.packages() == {}
    assert projection.own_requirements() == ()


# -- extra-requirements.txt


def test_packages_are_listed_with_who_uses_them(projection: Projection) -> None:
    projection.write([function("f", packages=("six>=1", "numpy")), function("g", packages=("six>=1",))], {})
    lines = [line for line in projection.requirements.read_text().splitlines() if not line.startswith("#")]
    assert lines == ["numpy  # used by: f", "six>=1  # used by: f, g"]
    assert projection.packages() == {"f": ["numpy", "six>=1"], "g": ["six>=1"]}
    assert projection.own_requirements() == ()
    drafts = projection.drafts(["f", "g"])
    assert {name: d.packages for name, d in drafts.items() if isinstance(d, Draft)} == {
        "f": ["numpy", "six>=1"],
        "g": ["six>=1"],
    }


def test_lines_added_by_hand_are_kept(projection: Projection) -> None:
    before = projection.write([function("f", packages=("six",))], {})
    with projection.requirements.open("a") as requirements:
        requirements.write("\nRich>=13   # I want this\npolars\r\n")
    projection.write(functions("f"), before)
    text = projection.requirements.read_text()
    assert "Rich>=13   # I want this\npolars\n" in text
    assert "six" not in text
    assert projection.own_requirements() == ("polars", "rich>=13")
    projection.write(functions("f"), before)
    assert projection.requirements.read_text() == text


def test_a_line_by_hand_that_is_no_requirement_is_refused_but_kept(projection: Projection) -> None:
    projection.write([], {})
    projection.requirements.write_text("-r other.txt\n")
    with pytest.raises(InvalidRequirement):
        projection.own_requirements()
    projection.write([], {})
    assert "-r other.txt\n" in projection.requirements.read_text()


def test_the_list_can_be_given_to_an_installer(projection: Projection) -> None:
    projection.write([function("f", packages=("six>=1", 'numpy ; python_version > "3"'))], {})
    listed = [line.partition("  #")[0] for line in projection.requirements.read_text().splitlines()]
    assert [line for line in listed if line and line[0] != "#"] == ['numpy ; python_version > "3"', "six>=1"]


# -- what a function has beside its source


TOLD = Declared("Says so.", {"type": "object", "properties": {"a": {}}}, {})


def told(**more: Any) -> Function:
    """A function with more than a source."""
    effects: dict[str, Any] = {"effects": "write", "declared_effects": "write", "confirm": "never"}
    return replace(function("f"), tags=("x", "y"), bound=("a",), declared=TOLD, **effects, **more)


def test_what_is_beside_the_source_has_a_file_and_comes_back_from_it(projection: Projection) -> None:
    projection.write([told(), function("g")], {})
    assert json.loads((projection.folder / "f.json").read_text()) == {
        "tags": ["x", "y"],
        "bound": ["a"],
        "description": "Says so.",
        "input_schema": {"type": "object", "properties": {"a": {}}},
        "responses": {},
        "effects": "write",
        "confirm": "never",
    }
    assert not (projection.folder / "g.json").exists()
    draft = projection.drafts(["f"])["f"]
    assert isinstance(draft, Draft)
    assert (draft.tags, draft.bound, draft.declared) == (["x", "y"], ["a"], TOLD)
    assert (draft.effects, draft.confirm) == ("write", "never")


def test_a_file_beside_that_somebody_wrote_in_another_way_says_the_same(projection: Projection) -> None:
    functions, before = {"f": told()}, projection.write([told()], {})
    path = projection.folder / "f.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert projection.edited(functions, before) == []
    assert projection.write(functions.values(), before) == before
    path.write_text("{")
    assert projection.edited(functions, before) == ["f"]


def test_effects_that_are_only_inferred_are_not_written_down(projection: Projection) -> None:
    projection.write([replace(function("f"), effects="read")], {})
    assert not (projection.folder / "f.json").exists()
    draft = projection.drafts(["f"])["f"]
    assert isinstance(draft, Draft)
    assert (draft.effects, draft.confirm) == (None, "policy")


def test_the_file_beside_goes_with_what_it_says(projection: Projection) -> None:
    before = projection.write([told()], {})
    before = projection.write([function("f")], before)
    assert not (projection.folder / "f.json").exists()
    before = projection.write([told()], before)
    projection.write([], before)
    assert list(projection.folder.glob("f.*")) == []


def test_an_edited_file_beside_is_an_edit_and_is_left_alone(projection: Projection) -> None:
    before = projection.write([told()], {})
    assert projection.edited({"f": told()}, before) == []
    (projection.folder / "f.json").write_text('{"tags": ["z"]}')
    assert projection.edited({"f": told()}, before) == ["f"]
    assert projection.write([told()], before) == {}
    assert (projection.folder / "f.json").read_text() == '{"tags": ["z"]}'


@pytest.mark.parametrize("text", ["{", "[]", '{"tag": ["x"]}', '{"tags": "x"}', '{"input_schema": 1}', "\xff"])
def test_a_bad_file_beside_is_said_to_be_one(projection: Projection, text: str) -> None:
    projection.write([function("f"), function("g")], {})
    (projection.folder / "f.json").write_bytes(text.encode("latin-1"))
    drafts = projection.drafts(["f", "g"])
    assert isinstance(drafts["f"], InvalidRequest)
    assert "f.json is not valid" in drafts["f"].detail
    assert isinstance(drafts["g"], Draft)


# -- what a snapshot shares with the one before


def test_files_that_are_the_same_are_shared_with_the_snapshot_before(tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    write_snapshot(one, functions(same="def same(): pass\n", other="def other(): pass\n"), {})
    write_snapshot(two, functions(same="def same(): pass\n", other="def other(): return 1\n"), {}, previous=one)
    files = {name: [(s / "aigbb_functions" / f"{name}.py") for s in (one, two)] for name in ("same", "other")}
    assert files["same"][0].samefile(files["same"][1])
    assert not files["other"][0].samefile(files["other"][1])
    assert files["other"][0].read_text() == "def other(): pass\n"


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("def f(): evil()\n")])
def test_a_snapshot_before_that_is_damaged_is_not_needed(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    write_snapshot(one, functions(f="def f(): pass\n"), {})
    damage(one / "aigbb_functions" / "f.py")
    write_snapshot(two, functions(f="def f(): pass\n"), {}, previous=one)
    assert (two / "aigbb_functions" / "f.py").read_text() == "def f(): pass\n"


def test_a_snapshot_is_whole_as_it_was_written(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "1", functions("f", "g"), {"KEY": "value"})
    contents = SnapshotContents.of(functions("g", "f"), {"KEY": "value"})
    assert contents.fault(tmp_path / "1") is None
    (tmp_path / "1" / "aigbb_functions" / "__pycache__").mkdir()
    (tmp_path / "1" / "notes").mkdir()
    assert contents.fault(tmp_path / "1") is None


def swapped(path: Path) -> None:
    """A link to the same text, which others can change."""
    path.symlink_to(path.rename(path.parents[2] / path.name))


@pytest.mark.parametrize(
    "damage",
    [
        lambda snapshot: (snapshot / "aigbb_functions" / "f.py").write_text(""),
        lambda snapshot: (snapshot / "aigbb_functions" / "f.py").unlink(),
        lambda snapshot: (snapshot / "manifest.json").write_text(""),
        lambda snapshot: (snapshot / "manifest.json").unlink(),
        lambda snapshot: (snapshot / "manifest.json").write_text("{}"),
        lambda snapshot: (snapshot / "environment.json").write_text(""),
        lambda snapshot: (snapshot / "environment.json").write_text('{"KEY": "other"}'),
        shutil.rmtree,
        lambda snapshot: (snapshot / "aigbb_functions" / "__init__.py").unlink(),
        lambda snapshot: (snapshot / "aigbb_functions" / "more.py").touch(),
        lambda snapshot: (snapshot / "json.py").touch(),
        lambda snapshot: swapped(snapshot / "aigbb_functions" / "f.py"),
    ],
    ids=[
        "emptied",
        "deleted",
        "manifest emptied",
        "no manifest",
        "unlisted",
        "cut",
        "other",
        "gone",
        "no package",
        "one more",
        "what hides a module",
        "a link",
    ],
)
def test_a_snapshot_that_is_not_what_was_written_is_told(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    write_snapshot(tmp_path / "1", functions("f", "g"), {"KEY": "value"})
    damage(tmp_path / "1")
    contents = SnapshotContents.of(functions("f", "g"), {"KEY": "value"})
    assert contents.fault(tmp_path / "1") is not None
    contents.write(tmp_path / "1")
    assert contents.fault(tmp_path / "1") is None
