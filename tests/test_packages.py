"""Requirement lines, and what the resolver makes of them, against an index on loopback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from kernels.errors import (
    AigbbError,
    BuildFailed,
    BuildNotAllowed,
    DependencyConflict,
    IndexUnavailable,
    InsufficientStorage,
    InvalidRequirement,
    PackageNotFound,
    PythonVersionMismatch,
    VersionNotFound,
)
from kernels.packages import (
    DEFAULT_REQUIREMENTS,
    MAX_LINES,
    Lock,
    Uv,
    applies,
    distribution,
    parse_requirement,
    parse_requirements,
)
from kernels.progress import Step, silent
from tests.index import Index, serve_index

# -- lines


@pytest.mark.parametrize(
    "line",
    [
        "-r /etc/passwd",
        "-e .",
        "--index-url http://127.0.0.1:9/simple",
        "--index-url=http://127.0.0.1:9/simple",
        "--hash=sha256:00",
        "-c constraints.txt",
        "six==1.16.0 --hash=sha256:00",
        "six @ http://127.0.0.1:9/six.whl",
        "six @ file:///tmp/six.whl",
        "six@git+https://127.0.0.1/six.git",
        "git+https://127.0.0.1/six.git",
        "http://127.0.0.1:9/six.whl",
        "./six",
        "../six",
        "/tmp/six",
        "C:\\six",
        "six\nnumpy",
        "six\r-r other.txt",
        "six # a comment\n-r other.txt",
        'six ; python_version < "3\n-r other.txt"',
        "six \\\n--pre",
        "${HOME}",
        "six==",
        "six==1.0 numpy",
        "s\u0456x",
        "six\0",
        "\ud800",
        "six" + " " * 300 + ">1",
        "[socks]",
        ">=1",
    ],
)
def test_what_is_not_a_plain_requirement_is_refused_with_its_index(line: str) -> None:
    with pytest.raises(InvalidRequirement) as caught:
        parse_requirements(["six", "", line])
    assert caught.value.extra["index"] == 2
    assert len(caught.value.detail) < 300


@pytest.mark.parametrize(
    ("line", "canonical"),
    [
        ("six", "six"),
        ("  Flask_SQLAlchemy  ", "flask-sqlalchemy"),
        ("six\n", "six"),
        ("Six >= 1 , < 2", "six<2,>=1"),
        ("six (>=1.0)", "six>=1.0"),
        ("requests[Socks,security]", "requests[security,socks]"),
        ("requests[a.b,A_b]>=2", "requests[a-b]>=2"),
        ("six;python_version>'3'", 'six ; python_version > "3"'),
        ("six==1.0+local", "six==1.0+local"),
    ],
)
def test_a_requirement_has_one_spelling(line: str, canonical: str) -> None:
    assert parse_requirement(line) == canonical
    assert parse_requirement(canonical) == canonical


def test_comments_blank_lines_and_doubles_fold_away() -> None:
    lines = [
        "# a comment",
        "",
        "  ",
        "six # why",
        "six\t#why",
        "SIX",
        "  # indented",
        "numpy>=1,<2",
        "numpy<2,>=1",
        "#x",
    ]
    assert parse_requirements(lines) == ("numpy<2,>=1", "six")


def test_nothing_asked_for_is_nothing() -> None:
    assert parse_requirements([]) == ()


def test_the_default_packages_are_requirements() -> None:
    names = {distribution(r) for r in parse_requirements(DEFAULT_REQUIREMENTS.read_text().splitlines())}
    assert {"ipykernel", "pydantic"} <= names


def test_too_many_lines_are_refused() -> None:
    assert len(parse_requirements(f"p{n}" for n in range(MAX_LINES))) == MAX_LINES
    with pytest.raises(InvalidRequirement, match=str(MAX_LINES)):
        parse_requirements(f"p{n}" for n in range(MAX_LINES + 1))


@given(st.text(max_size=60))
@example("0_")
@example("a[b_]")
def test_whatever_the_text_the_answer_is_one_plain_line_or_a_refusal(text: str) -> None:
    try:
        line = parse_requirement(text)
    except InvalidRequirement:
        return
    assert line.isprintable()
    assert not line.startswith("-")
    assert Requirement(line).url is None


@given(
    st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,8}[A-Za-z0-9])?", fullmatch=True),
    st.lists(st.sampled_from([">=1", "<9", "!=2.1", "~=1.0", "==1.*"]), unique=True),
)
def test_any_spelling_of_a_plain_requirement_is_accepted(name: str, versions: list[str]) -> None:
    line = parse_requirement(f" {name} {' , '.join(versions)}")
    assert Requirement(line).specifier == Requirement(name + ",".join(reversed(versions))).specifier
    assert distribution(line) == name.lower().replace("_", "-").replace(".", "-") or "--" in line or "-" in name


def test_a_marker_says_whether_a_requirement_applies_here() -> None:
    assert applies("six")
    assert applies('six ; python_version >= "3"')
    assert not applies('six ; python_version < "3"')


# -- locks


def test_a_lock_says_what_changed() -> None:
    old = Lock("# Python\na==1 \\\n    --hash=sha256:00\nb==1\nc-d.e==1 ; python_version > '3'\n")
    new = Lock("# Python\na==2\nc-d.e==1\nf==3\n")
    assert old.pins == {"a": "1", "b": "1", "c-d.e": "1"}
    assert new.changes(old) == {"added": ["f==3"], "removed": ["b==1"], "changed": ["a==2"]}
    assert new.changes(None)["added"] == ["a==2", "c-d.e==1", "f==3"]
    assert old.digest != new.digest == Lock(new.text).digest


# -- resolving


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """Some packages that fit together, and some that do not."""
    with serve_index(tmp_path_factory.mktemp("index") / "files") as served:
        for version in ("1.0", "2.0"):
            served.add_wheel("alpha", version)
        served.add_wheel("wants_old", "1.0", requires=["alpha<2"])
        served.add_wheel("wants_new", "1.0", requires=["alpha>=2"])
        served.add_wheel("wants_none", "1.0", requires=["alpha>=9"])
        served.add_wheel("wants_lost", "1.0", requires=["lost"])
        served.add_wheel("elsewhere", "1.0", tag="cp39-cp39-win_amd64")
        served.add_wheel("future", "1.0", python=">=3.99")
        yield served


@pytest.fixture
def own_uv(index: Index, tmp_path: Path) -> Uv:
    """uv with that index, and a cache of its own."""
    return index.uv(Path(sys.executable), tmp_path / "cache")


async def refusal(uv: Uv, owners: dict[str, list[str]]) -> AigbbError:
    """The error that resolving raises."""
    with pytest.raises(AigbbError) as caught:
        await uv.resolve(owners, None, silent)
    return caught.value


def asked(error: AigbbError) -> list[dict[str, Any]]:
    """The requirements that the error names."""
    found: list[dict[str, Any]] = error.extra["requirements"]
    return found


@pytest.mark.anyio
async def test_a_lock_pins_and_hashes_everything(own_uv: Uv) -> None:
    steps: list[Step] = []
    resolved = await own_uv.resolve({"wants-old": ["f"]}, None, steps.append)
    assert resolved.lock.pins == {"alpha": "1.0", "wants-old": "1.0"}
    assert resolved.lock.text.count("--hash=sha256:") == 2
    assert [step.message for step in steps] == ["Resolving 1 requirements", "Resolved 2 packages"]


@pytest.mark.anyio
async def test_what_the_cache_knows_is_not_asked_of_the_index_again(own_uv: Uv) -> None:
    first = await own_uv.resolve({"alpha": ["f"]}, None, silent)
    again = await own_uv.resolve({"alpha": ["f"]}, None, silent)
    assert (first.source, again.source) == ("index", "cache")
    assert first.lock == again.lock


@pytest.mark.anyio
async def test_pins_stay_put_when_something_is_added(own_uv: Uv, tmp_path: Path) -> None:
    before = (await own_uv.resolve({"alpha<2": ["f"]}, None, silent)).lock
    after = (await own_uv.resolve({"alpha": ["f"], "wants-old": ["g"]}, before, silent)).lock
    fresh = (await replace(own_uv, cache=tmp_path / "empty").resolve({"alpha": ["f"]}, None, silent)).lock
    assert after.pins["alpha"] == "1.0"
    assert fresh.pins["alpha"] == "2.0"
    assert after.changes(before) == {"added": ["wants-old==1.0"], "removed": [], "changed": []}


@pytest.mark.anyio
async def test_a_pin_that_cannot_stay_moves(own_uv: Uv) -> None:
    before = (await own_uv.resolve({"alpha": ["f"]}, None, silent)).lock
    after = (await own_uv.resolve({"alpha": ["f"], "wants-old": ["g"]}, before, silent)).lock
    assert after.changes(before)["changed"] == ["alpha==1.0"]


@pytest.mark.anyio
async def test_no_requirements_are_an_empty_lock(own_uv: Uv) -> None:
    assert (await own_uv.resolve({}, None, silent)).lock.pins == {}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("wanted", "suggestions"), [("reqests", ["requests"]), ("yaml", ["PyYAML"]), ("qqqqqqqqq", [])]
)
async def test_an_unknown_package_comes_with_suggestions(own_uv: Uv, wanted: str, suggestions: list[str]) -> None:
    error = await refusal(own_uv, {wanted: ["f"], "alpha": ["g"]})
    assert isinstance(error, PackageNotFound)
    assert error.extra["package"] == wanted
    assert error.extra["suggestions"] == suggestions
    assert error.extra.get("fix") == ({"packages": suggestions} if suggestions else None)
    assert asked(error) == [{"requirement": wanted, "functions": ["f"]}]


@pytest.mark.anyio
async def test_an_unknown_package_of_a_package_is_named(own_uv: Uv) -> None:
    error = await refusal(own_uv, {"wants-lost": ["f"]})
    assert isinstance(error, PackageNotFound)
    assert error.extra["package"] == "lost"
    assert asked(error) == [{"requirement": "wants-lost", "functions": ["f"]}]


@pytest.mark.anyio
@pytest.mark.parametrize("wanted", ["alpha==9", "alpha>5", "alpha>2,<3", "wants-none"])
async def test_a_version_that_there_is_not(own_uv: Uv, wanted: str) -> None:
    error = await refusal(own_uv, {wanted: ["f"], "wants-new": ["g"]})
    assert isinstance(error, VersionNotFound)
    assert wanted in error.detail
    assert {"requirement": wanted, "functions": ["f"]} in asked(error)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("one", "other"), [("alpha<2", "alpha>=2"), ("wants-old", "wants-new"), ("wants-old", "alpha>=2")]
)
async def test_a_conflict_names_both_functions(own_uv: Uv, one: str, other: str) -> None:
    error = await refusal(own_uv, {one: ["f", "g"], other: ["h"], "future ; python_version < '3'": ["i"]})
    assert isinstance(error, DependencyConflict)
    assert asked(error) == [
        {"requirement": one, "functions": ["f", "g"]},
        {"requirement": other, "functions": ["h"]},
    ]
    assert "unsatisfiable" in error.extra["explanation"]


@pytest.mark.anyio
@pytest.mark.parametrize("versions", [["1.0"], ["1.0", "2.0"]])
@pytest.mark.parametrize("wanted", ["raw", "wants-raw", "raw>=1"])
async def test_building_a_source_distribution_is_refused_and_runs_none_of_it(
    tmp_path: Path, wanted: str, versions: list[str]
) -> None:
    with serve_index(tmp_path / "files") as index:
        for version in versions:
            index.add_source("raw", version, tmp_path / "ran")
        index.add_wheel("wants_raw", "1.0", requires=["raw"])
        error = await refusal(index.uv(Path(sys.executable), tmp_path / "cache"), {wanted: ["f"]})
    assert isinstance(error, BuildNotAllowed)
    assert "raw" in error.detail
    assert not (tmp_path / "ran").exists()


@pytest.mark.anyio
async def test_a_wheel_for_other_machines_alone_would_need_a_build(own_uv: Uv) -> None:
    error = await refusal(own_uv, {"elsewhere": ["f"]})
    assert isinstance(error, BuildNotAllowed)
    assert "elsewhere" in error.detail


@pytest.mark.anyio
async def test_a_package_for_another_python_says_which(own_uv: Uv) -> None:
    error = await refusal(own_uv, {"future": ["f"]})
    assert isinstance(error, PythonVersionMismatch)
    assert ">=3.99" in error.detail


@pytest.mark.anyio
@pytest.mark.parametrize("url", ["http://127.0.0.1:9/simple", "http://index.invalid/simple"])
async def test_an_index_that_cannot_be_reached(index: Index, tmp_path: Path, url: str) -> None:
    uv = index.uv(Path(sys.executable), tmp_path / "cache", UV_DEFAULT_INDEX=url)
    error = await refusal(uv, {"alpha": ["f"]})
    assert isinstance(error, IndexUnavailable)
    assert error.status == 503


@pytest.mark.anyio
@pytest.mark.parametrize("status", [401, 429, 500, 503])
async def test_an_index_that_refuses_does_not_mean_that_there_is_no_such_package(
    index: Index, own_uv: Uv, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr("tests.index.Handler.do_GET", lambda handler: handler.send_error(status))
    assert isinstance(await refusal(own_uv, {"alpha": ["f"]}), IndexUnavailable)


@pytest.mark.anyio
async def test_an_index_that_never_answers_is_given_up(index: Index, tmp_path: Path) -> None:
    uv = Uv(Path(sys.executable), tmp_path / "cache", {}, build_timeout=0.5, program=str(sleeper(tmp_path)))
    error = await refusal(uv, {"alpha": ["f"]})
    assert isinstance(error, IndexUnavailable)


def sleeper(folder: Path) -> Path:
    """A program that never ends by itself."""
    return program(folder, "exec sleep 60")


def program(folder: Path, script: str) -> Path:
    """A shell script in place of uv."""
    path = folder / "uv"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("says", "kind"),
    [
        ("error: failed to write: No space left on device (os error 28)", InsufficientStorage),
        ("error: Couldn't parse requirement in `-` at position 0", InvalidRequirement),
        ("error: Failed to initialize cache: Permission denied", BuildFailed),
        ("", BuildFailed),
    ],
)
async def test_what_else_the_installer_may_say(tmp_path: Path, says: str, kind: type[AigbbError]) -> None:
    script = program(tmp_path, f'echo "{says.replace("`", "")}" >&2; exit 2')
    uv = Uv(Path(sys.executable), tmp_path / "cache", {}, program=str(script))
    assert type(await refusal(uv, {"alpha": ["f"]})) is kind


@pytest.mark.anyio
async def test_a_version_that_only_the_installer_refuses_is_an_invalid_requirement(own_uv: Uv) -> None:
    assert isinstance(await refusal(own_uv, {parse_requirement("alpha===foo"): ["f"]}), InvalidRequirement)


@pytest.mark.anyio
async def test_resolving_leaves_nothing_in_the_temporary_folder(
    own_uv: Uv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    await own_uv.resolve({"alpha": ["f"]}, None, silent)
    await refusal(own_uv, {"lost": ["f"]})
    assert list((tmp_path / "temporary").iterdir()) == []
