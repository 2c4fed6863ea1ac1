"""The registry: whole commits, numbered versions, history that stays, nothing kept that nobody uses."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st

from kernels.errors import InsufficientStorage
from kernels.packages import Lock
from server.errors import StoreDamaged
from server.functions import Declared, Function
from server.registry import Commit, Event, GenerationRow, Kept, Registry, State, Version

FIRST = GenerationRow(1, Lock("six==1\n"), "[]", "2026-01-01T00:00:00+00:00")
SECOND = GenerationRow(2, Lock("six==2\n"), "[]", "2026-01-02T00:00:00+00:00")
THEN = "2026-01-03T00:00:00+00:00"


def function(name: str = "f", source: str = "def f(): pass", env: tuple[str, ...] = ()) -> Function:
    """A function that has everything."""
    return Function(
        name=name,
        source=source,
        packages=("six>=1",),
        env=env,
        description="says hé",
        signature=f"{name}()",
        parameters={"type": "object", "x": [1, None], "properties": {"z": {}, "a": {}}},
        returns={"type": "string", "anyOf": []},
        tags=("one", "two"),
        bound=("z",),
        declared=Declared("in words", {"type": "object"}, {"type": "string"}),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "registry.sqlite3"


@pytest.fixture
def registry(path: Path) -> Iterator[Registry]:
    """An empty one."""
    with Registry.open(path) as opened:
        yield opened


def change(
    registry: Registry,
    number: int,
    generation: GenerationRow,
    *added: Function,
    activated: Collection[Version] = (),
    removed: Collection[str] = (),
    env: Mapping[str, str] | None = None,
    events: Collection[Event] = (),
) -> Commit:
    """A commit of snapshot `number`, with the next version of each function, as a registration makes it."""
    versions = [Version(one, registry.next_number(one.name), THEN) for one in added]
    after = registry.state().with_changes([*versions, *activated], removed, env or {})
    state = replace(after, snapshot=number, generation=generation)
    return Commit("because", state, versions, activated, removed, events)


def commit(registry: Registry, number: int, generation: GenerationRow, *added: Function, **more: Any) -> State:
    """Commit, and read what serves then."""
    registry.commit(change(registry, number, generation, *added, **more))
    return registry.state()


def event(action: str = "register", name: str | None = "f", outcome: str = "ok", at: str = "") -> Event:
    """A line of history."""
    return Event("key", "request", action, name, 1, "digest", outcome, 1.5, at)


def numbers(state: State) -> dict[str, int]:
    """Active version numbers."""
    return {name: version.number for name, version in state.active.items()}


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    """What another program reads."""
    connection = sqlite3.connect(path)
    found = connection.execute(query).fetchall()
    connection.close()
    return found


def test_an_empty_registry_serves_nothing(registry: Registry) -> None:
    assert registry.state() == State()
    assert registry.last_snapshot() == 0
    assert registry.generation(1) is None
    assert registry.generations() == []
    assert registry.snapshot_of(1) is None
    assert registry.projected() == {}
    assert registry.versions("f") == []
    assert registry.version("f", 1) is None
    assert registry.next_number("f") == 1
    assert registry.history(None, 10, None) == []
    assert registry.kept("key", 0.0) is None


def test_only_the_owner_reads_it(path: Path, registry: Registry) -> None:
    commit(registry, 1, FIRST, function())
    for file in path.parent.glob("registry.sqlite3*"):
        assert file.stat().st_mode & 0o777 == 0o600


def test_a_function_comes_back_as_it_was(path: Path, registry: Registry) -> None:
    given_ = function(env=("KEY",), source="def f():\r\n    'é'\r\n")
    state = commit(registry, 1, FIRST, given_, env={"KEY": "välue"})
    with Registry.open(path) as again:
        assert again.state() == state
    assert state == State({"f": Version(given_, 1, THEN)}, {"KEY": "välue"}, 1, FIRST)


def test_the_members_of_a_schema_keep_their_order(registry: Registry) -> None:
    found = commit(registry, 1, FIRST, function()).active["f"].function
    assert list(found.parameters["properties"]) == ["z", "a"]
    assert list(found.parameters) == ["type", "x", "properties"]
    assert found.digest == function().digest


TEXTS = st.lists(st.text(max_size=5), max_size=3).map(tuple)


@given(source=st.text(), description=st.text(), lists=st.tuples(TEXTS, TEXTS, TEXTS))
def test_any_text_comes_back_as_it_was(source: str, description: str, lists: tuple[tuple[str, ...], ...]) -> None:
    env, tags, bound = lists
    given_ = Function("f", source, (), env, description, "f()", tags=tags, bound=bound, declared=Declared(description))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sqlalchemy.create_engine", in_memory)
        with Registry.open(Path("/dev/null")) as registry:
            assert commit(registry, 1, FIRST, given_).active["f"].function == given_


_create_engine = sqlalchemy.create_engine


def in_memory(_: str) -> sqlalchemy.Engine:
    """A database that is quick to make."""
    return _create_engine("sqlite://")


def test_functions_come_sorted(registry: Registry) -> None:
    state = commit(registry, 1, FIRST, *(function(name) for name in ("b", "C", "a")))
    assert list(state.active) == ["C", "a", "b"]


# -- versions


def test_versions_are_numbered_by_function(registry: Registry) -> None:
    commit(registry, 1, FIRST, function("f"), function("g"))
    commit(registry, 2, FIRST, function("f", "def f(): return 2"))
    state = commit(registry, 3, FIRST, function("f", "def f(): return 3"))
    assert numbers(state) == {"f": 3, "g": 1}
    assert state.active["f"].function.source == "def f(): return 3"
    assert (registry.next_number("f"), registry.next_number("g"), registry.next_number("h")) == (4, 2, 1)


def test_every_version_stays_newest_first(registry: Registry) -> None:
    commit(registry, 1, FIRST, function("f", "1"), function("g"))
    commit(registry, 2, FIRST, function("f", "2"))
    found = registry.versions("f")
    assert [(str(v), v.function.source) for v in found] == [("f@2", "2"), ("f@1", "1")]
    assert registry.version("f", 1) == found[1]
    assert registry.version("f", 3) is None


def test_a_rollback_moves_the_pointer_and_makes_no_version(registry: Registry) -> None:
    first = commit(registry, 1, FIRST, function("f", "1")).active["f"]
    commit(registry, 2, FIRST, function("f", "2"))
    state = commit(registry, 3, FIRST, activated=[first])
    assert state.active == {"f": first}
    assert [v.number for v in registry.versions("f")] == [2, 1]
    assert numbers(commit(registry, 4, FIRST, function("f", "3"))) == {"f": 3}


def test_a_removed_function_keeps_its_versions_and_goes_on_counting(registry: Registry) -> None:
    commit(registry, 1, FIRST, function("f"), function("g"))
    state = commit(registry, 2, FIRST, removed=["f", "never_there"])
    assert numbers(state) == {"g": 1}
    assert state.snapshot == 2
    assert [v.number for v in registry.versions("f")] == [1]
    assert numbers(commit(registry, 3, FIRST, function("f"))) == {"f": 2, "g": 1}


def test_a_deletion_is_undone_by_activating_a_version(registry: Registry) -> None:
    first = commit(registry, 1, FIRST, function("f")).active["f"]
    commit(registry, 2, FIRST, removed=["f"])
    assert commit(registry, 3, FIRST, activated=[first]).active == {"f": first}


def test_a_version_is_never_written_twice(registry: Registry) -> None:
    before = commit(registry, 1, FIRST, function("f", "1"))
    late = replace(change(registry, 2, FIRST, function("f", "2")), added=[Version(function("f", "2"), 1, THEN)])
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        registry.commit(late)
    assert registry.state() == before


# -- all or nothing


def test_a_commit_that_fails_at_its_end_changes_nothing(path: Path, registry: Registry) -> None:
    """Its snapshot's number is taken."""
    before = commit(registry, 1, FIRST, function("f", env=("A",)), function("g"), env={"A": "1"}, events=[event()])
    changed = change(
        registry,
        1,
        SECOND,
        function("f", "def f(): return 2", env=("A", "B")),
        function("h"),
        removed=["g"],
        env={"A": "2", "B": "3"},
        events=[event()],
    )
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        registry.commit(changed)
    assert registry.state() == before
    assert registry.generations() == [FIRST]
    assert rows(path, "SELECT name, version FROM versions ORDER BY name") == [("f", 1), ("g", 1)]
    assert rows(path, "SELECT count(*) FROM history") == [(1,)]


def test_a_commit_whose_event_is_refused_changes_nothing(path: Path, registry: Registry) -> None:
    """The last statement of the transaction."""
    before = commit(registry, 1, FIRST, function("f"))
    nameless = replace(event(), action=None)  # type: ignore[arg-type]
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        registry.commit(change(registry, 2, SECOND, function("g"), events=[event(), nameless]))
    assert registry.state() == before
    assert registry.last_snapshot() == 1
    assert registry.history(None, 10, None) == []


def test_a_function_that_cannot_be_stored_takes_the_others_back(registry: Registry) -> None:
    before = commit(registry, 1, FIRST, function("f"))
    broken = Function("g", "def g(): pass", (), (), "", "g()", {"x": object()})
    with pytest.raises(TypeError, match="not JSON serializable"):
        registry.commit(change(registry, 2, SECOND, function("f", "def f(): return 2"), broken))
    assert registry.state() == before
    assert numbers(commit(registry, 2, FIRST, function("f", "def f(): return 3"))) == {"f": 2}


def test_a_reader_sees_the_old_state_or_the_new(path: Path, registry: Registry) -> None:
    """Every commit adds one function and one variable of its number."""
    commit(registry, 1, FIRST, function("f1", env=("V1",)), env={"V1": "1"})
    done = threading.Event()

    def write() -> None:
        with Registry.open(path) as writer:
            for n in range(2, 30):
                commit(writer, n, FIRST, function(f"f{n}", env=(f"V{n}",)), env={f"V{n}": "1"})
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
    commit(registry, 1, FIRST, function("f"))
    pending = [change(registry, 2, SECOND, function("g", env=("V",)), env={"V": "1"})]

    def commit_in_between(_: object, __: object, statement: str, *___: object) -> None:
        if pending and statement.startswith("SELECT"):
            with Registry.open(path) as other:
                other.commit(pending.pop())

    sqlalchemy.event.listen(registry._database._engine, "after_cursor_execute", commit_in_between)
    before, after = registry.state(), registry.state()
    assert (numbers(before), before.variables, before.snapshot, before.generation) == ({"f": 1}, {}, 1, FIRST)
    assert (numbers(after), after.variables, after.snapshot, after.generation) == (
        {"f": 1, "g": 1},
        {"V": "1"},
        2,
        SECOND,
    )


def test_a_full_disk_is_called_that_and_changes_nothing(registry: Registry) -> None:
    commit(registry, 1, FIRST, function(), events=[event()])
    before = registry.state()
    with registry._database._engine.begin() as connection:  # the pool hands the same connection to the commit
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(InsufficientStorage):
        registry.commit(change(registry, 2, SECOND, function(source="x" * 100_000)))
    with pytest.raises(InsufficientStorage):
        registry.record([event("x" * 100_000)])
    with pytest.raises(InsufficientStorage):
        registry.keep("key", Kept("digest", 201, "x" * 100_000), 100.0, 0.0)
    assert registry.state() == before
    assert len(registry.history(None, 10, None)) == 1
    assert registry.kept("key", 0.0) is None


def test_a_database_that_is_none_is_an_error(path: Path) -> None:
    path.write_text("not a database, but long enough to be looked at" * 10)
    with pytest.raises(StoreDamaged, match="not a database"), Registry.open(path):
        pass


# -- variables


def test_variables_that_no_active_function_names_are_dropped(path: Path, registry: Registry) -> None:
    env = {"A": "1", "B": "2", "unused": "3"}
    state = commit(registry, 1, FIRST, function("f", env=("A",)), function("g", env=("A", "B")), env=env)
    assert state.variables == {"A": "1", "B": "2"}
    assert commit(registry, 2, FIRST, function("g", env=("A",))).variables == {"A": "1"}
    assert commit(registry, 3, FIRST, removed=["f"]).variables == {"A": "1"}
    assert commit(registry, 4, FIRST, removed=["g"]).variables == {}
    assert rows(path, "SELECT * FROM variables") == []


def test_a_variable_takes_its_new_value(registry: Registry) -> None:
    commit(registry, 1, FIRST, function("f", env=("A",)), env={"A": "1"})
    assert commit(registry, 2, FIRST, env={"A": "2"}).variables == {"A": "2"}


def test_values_are_kept_apart_from_the_versions(path: Path, registry: Registry) -> None:
    commit(registry, 1, FIRST, function("f", env=("A",)), env={"A": "hush"})
    assert "hush" not in str(rows(path, "SELECT * FROM versions"))


# -- generations and snapshots


def test_generations_are_all_remembered(registry: Registry) -> None:
    commit(registry, 1, FIRST)
    commit(registry, 2, SECOND)
    commit(registry, 3, SECOND)
    assert registry.generations() == [SECOND, FIRST]
    assert registry.generation(1) == FIRST
    assert registry.snapshot_of(1) == 1
    assert registry.snapshot_of(2) == 3
    assert registry.last_snapshot() == 3
    assert registry.state().generation == SECOND


def test_a_generation_may_learn_that_it_fits_more_but_its_lock_stays(registry: Registry) -> None:
    commit(registry, 1, FIRST)
    state = commit(registry, 2, GenerationRow(1, Lock("other"), '["six"]', "later"))
    assert state.generation == replace(FIRST, inputs='["six"]')


def test_a_snapshot_says_why_it_was_made(path: Path, registry: Registry) -> None:
    commit(registry, 4, FIRST, function("f"))
    assert rows(path, "SELECT number, generation, reason FROM snapshots") == [(4, 1, "because")]


def test_a_function_from_before_there_were_effects_reads_back(path: Path, registry: Registry) -> None:
    commit(registry, 1, FIRST, function())
    with sqlite3.connect(path) as older:
        names = ", ".join(f"'$.{name}'" for name in ("effects", "confirm", "declared_effects"))
        older.execute(f"UPDATE versions SET value = json_remove(value, {names})")
    [version] = registry.versions("f")
    assert version.function == function()
    assert (version.function.effects, version.function.confirm) == ("unknown", "policy")


def test_what_was_written_into_the_folder_is_remembered(registry: Registry) -> None:
    registry.set_projected({"f": "1", "g": "2", "h": "3"}, [])
    registry.set_projected({"g": "4"}, ["h", "never_there"])
    assert registry.projected() == {"f": "1", "g": "4"}
    registry.set_projected({}, ["f", "g"])
    assert registry.projected() == {}


# -- history


def test_a_commit_brings_its_events_and_others_are_recorded_alone(registry: Registry) -> None:
    commit(registry, 1, FIRST, function("f"), events=[event(at="2026-01-05T00:00:00+00:00")])
    refused = Event("other", "r2", "delete", None, None, None, "function_not_found", 0.25, "2026-01-06T00:00:00+00:00")
    registry.record([refused])
    assert registry.history(None, 10, None) == [
        replace(refused, id=2),
        Event("key", "request", "register", "f", 1, "digest", "ok", 1.5, "2026-01-05T00:00:00+00:00", 1),
    ]


def test_an_event_without_a_time_has_that_of_its_writing(registry: Registry) -> None:
    registry.record([event()])
    (line,) = registry.history(None, 10, None)
    assert line.at.endswith("+00:00")


def test_recording_nothing_is_nothing(registry: Registry) -> None:
    registry.record([])
    assert registry.history(None, 10, None) == []


def test_history_is_read_page_by_page_newest_first_and_by_name(registry: Registry) -> None:
    registry.record([event(name=name) for name in ("f", "g", "f", "f", None)])
    assert [line.id for line in registry.history(None, 2, None)] == [5, 4]
    assert [line.id for line in registry.history(None, 2, 4)] == [3, 2]
    assert [line.id for line in registry.history("f", 2, None)] == [4, 3]
    assert [line.id for line in registry.history("f", 2, 3)] == [1]
    assert registry.history("nobody", 2, None) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE history SET outcome = 'ok'",
        "UPDATE history SET key = 'me' WHERE id = 1",
        "DELETE FROM history",
        "DELETE FROM history WHERE id = 1",
        "INSERT OR REPLACE INTO history (id, at, key, request_id, action, outcome, duration_ms)"
        " VALUES (1, '', 'me', '', 'register', 'ok', 0)",
    ],
)
def test_lines_of_history_are_neither_changed_nor_deleted(path: Path, registry: Registry, statement: str) -> None:
    registry.record([event(outcome="import_failed")])
    before = registry.history(None, 10, None)
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="history is append-only"):
        connection.execute(statement)
    connection.close()
    assert registry.history(None, 10, None) == before


def test_a_database_that_is_opened_again_has_its_history_and_the_seal(path: Path) -> None:
    for _ in range(2):
        with Registry.open(path) as registry:
            registry.record([event()])
    assert rows(path, "SELECT count(*) FROM history") == [(2,)]
    names = "SELECT name FROM sqlite_master WHERE type = 'trigger' ORDER BY name"
    assert rows(path, names) == [("history_no_delete",), ("history_no_replace",), ("history_no_update",)]


# -- answers to be given again


def test_an_answer_is_kept_until_it_is_too_old(registry: Registry) -> None:
    kept = Kept("digest", 201, '{"é": 1}')
    registry.keep("key", kept, 100.0, 0.0)
    assert registry.kept("key", 99.0) == kept
    assert registry.kept("key", 100.0) is None
    assert registry.kept("other", 99.0) is None


def test_keeping_one_forgets_those_that_are_too_old(path: Path, registry: Registry) -> None:
    for key, now in (("a", 100.0), ("b", 200.0), ("c", 300.0)):
        registry.keep(key, Kept("digest", 200, key), now, now - 100.0)
    assert rows(path, "SELECT key FROM answers ORDER BY key") == [("c",)]


def test_a_key_that_is_used_again_after_its_time_has_the_new_answer(registry: Registry) -> None:
    registry.keep("key", Kept("one", 201, "1"), 100.0, 0.0)
    registry.keep("key", Kept("two", 200, "2"), 300.0, 50.0)
    assert registry.kept("key", 200.0) == Kept("two", 200, "2")


# -- states


def test_a_state_that_would_be_changes_nothing_yet() -> None:
    now = State({"f": Version(function("f", env=("A",)), 4, "then")}, {"A": "1"}, 7, FIRST)
    new = [Version(function("b", env=("B",)), 1, THEN), Version(function("f", "new"), 5, THEN)]
    then = now.with_changes(new, ["f"], {"B": "2"})
    assert list(then.active) == ["b", "f"]
    assert then.active["f"].function.source == "new"
    assert then.variables == {"B": "2"}
    assert (then.snapshot, then.generation) == (7, FIRST)
    assert numbers(now) == {"f": 4}
    assert now.variables == {"A": "1"}


def test_only_variables_that_somebody_names_are_in_use() -> None:
    state = State({"f": Version(function("f", env=("A", "absent")), 1, "")}, {"A": "1", "B": "2"})
    assert state.variables_in_use() == {"A": "1"}


def test_a_version_is_written_with_its_number() -> None:
    assert str(Version(function("f"), 3, THEN)) == "f@3"
