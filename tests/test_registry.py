"""The registry: whole commits, numbered versions, nothing kept that nobody uses."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st

from kernels.errors import InsufficientStorage
from kernels.packages import Lock
from server.functions import Function
from server.registry import Commit, GenerationRow, Registry, State, Version

FIRST = GenerationRow(1, Lock("six==1\n"), "[]", "")
SECOND = GenerationRow(2, Lock("six==2\n"), "[]", "")


def function(name: str = "f", source: str = "def f(): pass", env: tuple[str, ...] = ()) -> Function:
    """A function that has everything."""
    return Function(name, source, ("six>=1",), env, "says hé", f"{name}()", {"type": "object", "x": [1, None]})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "registry.sqlite3"


@pytest.fixture
def registry(path: Path) -> Iterator[Registry]:
    """An empty one."""
    with Registry.open(path) as opened:
        yield opened


def versions(state: State) -> dict[str, int]:
    """Active version numbers."""
    return {name: version.number for name, version in state.active.items()}


def test_an_empty_registry_serves_nothing(registry: Registry) -> None:
    assert registry.state() == State()
    assert registry.generation(1) is None
    assert registry.generations() == []
    assert registry.snapshot_of(1) is None
    assert registry.projected() == {}


def test_only_the_owner_reads_it(path: Path, registry: Registry) -> None:
    registry.commit(Commit("r", 1, FIRST, [function()]))
    for file in path.parent.glob("registry.sqlite3*"):
        assert file.stat().st_mode & 0o777 == 0o600


def test_a_function_comes_back_as_it_was(path: Path, registry: Registry) -> None:
    given_ = function(env=("KEY",), source="def f():\r\n    'é'\r\n")
    state = registry.commit(Commit("r", 1, FIRST, [given_], env={"KEY": "välue"}))
    with Registry.open(path) as again:
        assert again.state() == state
    assert state.active["f"] == Version(given_, 1, state.active["f"].created)
    assert state.active["f"].created.endswith("+00:00")
    assert state.variables == {"KEY": "välue"}
    assert state.snapshot == 1
    assert state.generation is not None
    assert state.generation.lock == FIRST.lock


@given(source=st.text(), description=st.text(), env=st.lists(st.text(max_size=5), max_size=3))
def test_any_text_comes_back_as_it_was(source: str, description: str, env: list[str]) -> None:
    given_ = Function("f", source, (), tuple(env), description, "f()")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sqlalchemy.create_engine", in_memory)
        with Registry.open(Path("/dev/null")) as registry:
            assert registry.commit(Commit("r", 1, FIRST, [given_])).active["f"].function == given_


_create_engine = sqlalchemy.create_engine


def in_memory(_: str) -> sqlalchemy.Engine:
    """A database that is quick to make."""
    return _create_engine("sqlite://")


def test_versions_are_numbered_by_function(registry: Registry) -> None:
    registry.commit(Commit("r", 1, FIRST, [function("f"), function("g")]))
    registry.commit(Commit("r", 2, FIRST, [function("f", "def f(): return 2")]))
    state = registry.commit(Commit("r", 3, FIRST, [function("f", "def f(): return 3")]))
    assert versions(state) == {"f": 3, "g": 1}
    assert state.active["f"].function.source == "def f(): return 3"


def test_a_removed_function_goes_on_counting_when_it_returns(registry: Registry) -> None:
    registry.commit(Commit("r", 1, FIRST, [function("f"), function("g")]))
    state = registry.commit(Commit("delete f", 2, FIRST, removed=["f", "never there"]))
    assert versions(state) == {"g": 1}
    assert state.snapshot == 2
    assert versions(registry.commit(Commit("r", 3, FIRST, [function("f")]))) == {"f": 2, "g": 1}


def test_functions_come_sorted(registry: Registry) -> None:
    state = registry.commit(Commit("r", 1, FIRST, [function(name) for name in ("b", "C", "a")]))
    assert list(state.active) == sorted(state.active)


# -- all or nothing


@pytest.mark.parametrize("snapshot", [1, None])
def test_a_commit_that_fails_changes_nothing(path: Path, registry: Registry, snapshot: int | None) -> None:
    """The snapshot's number is taken, or missing: the last statement of the transaction is refused."""
    before = registry.commit(Commit("r", 1, FIRST, [function("f", env=("A",)), function("g")], env={"A": "1"}))
    changed = Commit(
        "r",
        snapshot,  # type: ignore[arg-type]
        SECOND,
        [function("f", "def f(): return 2", env=("A", "B")), function("h")],
        removed=["g"],
        env={"A": "2", "B": "3"},
    )
    refuse_missing_numbers(path)
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        registry.commit(changed)
    assert registry.state() == before
    assert [row.number for row in registry.generations()] == [1]
    assert rows(path, "SELECT name, version FROM versions ORDER BY name") == [("f", 1), ("g", 1)]


def refuse_missing_numbers(path: Path) -> None:
    """SQLite would number a snapshot by itself."""
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TRIGGER no_number BEFORE INSERT ON snapshots WHEN NEW.number IS NULL OR NEW.number < 0 "
            "BEGIN SELECT RAISE(ABORT, 'no number'); END"
        )
    connection.close()


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    """What another program reads."""
    connection = sqlite3.connect(path)
    found = connection.execute(query).fetchall()
    connection.close()
    return found


def test_a_second_version_of_a_function_in_one_commit_that_fails_is_undone(registry: Registry) -> None:
    """Broken in the middle: the second function cannot be stored."""
    before = registry.commit(Commit("r", 1, FIRST, [function("f")]))
    broken = Function("g", "def g(): pass", (), (), "", "g()", {"x": object()})
    with pytest.raises(TypeError, match="not JSON serializable"):
        registry.commit(Commit("r", 2, SECOND, [function("f", "def f(): return 2"), broken]))
    assert registry.state() == before
    assert versions(registry.commit(Commit("r", 2, FIRST, [function("f", "def f(): return 3")]))) == {"f": 2}


def test_a_reader_sees_the_old_state_or_the_new(path: Path, registry: Registry) -> None:
    """Every commit adds one function and one variable of its number."""
    registry.commit(Commit("r", 1, FIRST, [function("f1", env=("V1",))], env={"V1": "1"}))
    done = threading.Event()

    def write() -> None:
        with Registry.open(path) as writer:
            for n in range(2, 30):
                writer.commit(Commit("r", n, FIRST, [function(f"f{n}", env=(f"V{n}",))], env={f"V{n}": "1"}))
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen = set()
    while not done.is_set():
        state = registry.state()
        seen.add((len(state.active) - state.snapshot, len(state.variables) - state.snapshot))
    thread.join()
    assert seen == {(0, 0)}


def test_the_state_is_read_in_one_transaction(path: Path, registry: Registry) -> None:
    """Another service's commit between two reads of ours is not seen by half."""
    registry.commit(Commit("r", 1, FIRST, [function("f")]))
    pending = [Commit("r", 2, SECOND, [function("g", env=("V",))], env={"V": "1"})]

    def commit_in_between(_: object, __: object, statement: str, *___: object) -> None:
        if pending and statement.startswith("SELECT"):
            with Registry.open(path) as other:
                other.commit(pending.pop())

    sqlalchemy.event.listen(registry._engine, "after_cursor_execute", commit_in_between)
    assert (versions(state := registry.state()), dict(state.variables), state.snapshot) == ({"f": 1}, {}, 1)
    assert (versions(state := registry.state()), dict(state.variables), state.snapshot) == (
        {"f": 1, "g": 1},
        {"V": "1"},
        2,
    )


# -- variables


def test_variables_that_no_active_function_names_are_dropped(path: Path, registry: Registry) -> None:
    env = {"A": "1", "B": "2", "unused": "3"}
    state = registry.commit(Commit("r", 1, FIRST, [function("f", env=("A",)), function("g", env=("A", "B"))], env=env))
    assert state.variables == {"A": "1", "B": "2"}
    state = registry.commit(Commit("r", 2, FIRST, [function("g", env=("A",))]))
    assert state.variables == {"A": "1"}
    state = registry.commit(Commit("r", 3, FIRST, removed=["f"]))
    assert state.variables == {"A": "1"}
    assert registry.commit(Commit("r", 4, FIRST, removed=["g"])).variables == {}
    assert rows(path, "SELECT * FROM variables") == []


def test_a_variable_takes_its_new_value(registry: Registry) -> None:
    registry.commit(Commit("r", 1, FIRST, [function("f", env=("A",))], env={"A": "1"}))
    assert registry.commit(Commit("r", 2, FIRST, env={"A": "2"})).variables == {"A": "2"}


def test_values_are_kept_apart_from_the_versions(path: Path, registry: Registry) -> None:
    registry.commit(Commit("r", 1, FIRST, [function("f", env=("A",))], env={"A": "hush"}))
    assert "hush" not in str(rows(path, "SELECT * FROM versions"))


# -- generations and snapshots


def test_generations_are_all_remembered(registry: Registry) -> None:
    registry.commit(Commit("r", 1, FIRST))
    registry.commit(Commit("r", 2, SECOND))
    registry.commit(Commit("r", 3, SECOND))
    assert [row.number for row in registry.generations()] == [2, 1]
    found = registry.generation(1)
    assert found is not None
    assert found.lock == FIRST.lock
    assert registry.snapshot_of(1) == 1
    assert registry.snapshot_of(2) == 3
    assert registry.state().generation == registry.generation(2)


def test_a_generation_may_learn_that_it_fits_more_but_its_lock_stays(registry: Registry) -> None:
    registry.commit(Commit("r", 1, FIRST))
    state = registry.commit(Commit("r", 2, GenerationRow(1, Lock("other"), '["six"]', "")))
    assert state.generation is not None
    assert (state.generation.inputs, state.generation.lock) == ('["six"]', FIRST.lock)


def test_what_was_written_into_the_folder_is_remembered(registry: Registry) -> None:
    registry.set_projected({"f": "1", "g": "2"})
    registry.set_projected({"g": "3"})
    assert registry.projected() == {"g": "3"}
    registry.set_projected({})
    assert registry.projected() == {}


# -- states


def test_a_state_that_would_be_changes_nothing_yet() -> None:
    now = State({"f": Version(function("f", env=("A",)), 4, "then")}, {"A": "1"}, 7, FIRST)
    then = now.with_changes([function("b"), function("f", "new")], ["f"], {"B": "2"})
    assert list(then.active) == ["b", "f"]
    assert then.active["f"].function.source == "new"
    assert then.variables == {"A": "1", "B": "2"}
    assert (then.snapshot, then.generation) == (7, FIRST)
    assert versions(now) == {"f": 4}


def test_only_variables_that_somebody_names_are_in_use() -> None:
    state = State({"f": Version(function("f", env=("A", "absent")), 1, "")}, {"A": "1", "B": "2"})
    assert state.variables_in_use() == {"A": "1"}


def test_a_database_that_is_none_is_an_error(path: Path) -> None:
    path.write_text("not a database, but long enough to be looked at" * 10)
    with pytest.raises(sqlalchemy.exc.DatabaseError), Registry.open(path):
        pass


def test_a_full_disk_is_called_that_and_changes_nothing(registry: Registry) -> None:
    registry.commit(Commit("r", 1, FIRST, [function()]))
    before = registry.state()
    with registry._engine.begin() as connection:  # the pool hands the same connection to the commit
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(InsufficientStorage):
        registry.commit(Commit("r", 2, SECOND, [function(source="x" * 100_000)]))
    assert registry.state() == before
