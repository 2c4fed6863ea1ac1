"""Executions over HTTP: answered later, waited for, followed through dropped connections, cancelled."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from server.client import parse_events
from tests.conftest import Server, running_server
from tests.doors import EVENTS, execute, problem, register, stream, wait_until

LATER = {"Prefer": "respond-async"}
SLEEP = "import time\nprint('on', flush=True)\ntime.sleep(100)"
# Goes on when it is told to, and says so often.
COUNTS = """
import time
from pathlib import Path
for n in range(200):
    print(n, flush=True)
    if n == 100:
        while not Path({go!r}).exists():
            time.sleep(0.01)
'done'
"""


@pytest.fixture
def tmp_path(shown: Path) -> Path:
    """A folder that kernels may write, too."""
    return shown


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Server]:
    """A service with two places, that keeps few executions."""
    folder = tmp_path_factory.mktemp("executions")
    with running_server(folder, cache, max_running=2, max_waiting=4, keep_executions=4, timeout=60) as started:
        with started.client() as client:
            register(client, "def half(n: int) -> float:\n    print(n)\n    return n / 2\n", effects="read")
        yield started


@pytest.fixture
def client(server: Server) -> Iterator[httpx2.Client]:
    """A client of it; what it has begun is over afterwards."""
    with server.client() as opened:
        yield opened
        for one in opened.get("/executions").json():
            opened.post(f"/executions/{one['id']}/cancel")
        wait_until(lambda: opened.get("/healthz").json()["running"] == 0)


def begin(client: httpx2.Client, code: str, **more: Any) -> str:
    """The id of an execution that goes on by itself."""
    answer = client.post("/execute", json={"code": code, **more}, headers=LATER)
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert answer.headers["location"] == f"/executions/{body['id']}"
    assert answer.headers["preference-applied"] == "respond-async"
    assert answer.headers["x-execution-id"] == body["id"]
    return str(body["id"])


def ended(client: httpx2.Client, identity: str) -> dict[str, Any]:
    """It, when it has ended."""
    body: dict[str, Any] = client.get(f"/executions/{identity}", params={"wait": 60}).json()
    assert body["ended"]
    return body


def events(client: httpx2.Client, identity: str, after: str = "") -> Generator[tuple[str, str]]:
    """Its events as (number, name and data)."""
    headers = {**EVENTS, **({"Last-Event-ID": after} if after else {})}
    with client.stream("GET", f"/executions/{identity}", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-execution-id"] == identity
        told: list[str] = []
        for line in answer.iter_lines():
            if line:
                told.append(line)
            else:
                yield told.pop().removeprefix("id: "), "\n".join(told)
                told.clear()


# -- ids


def test_every_answer_has_the_id_of_its_execution(client: httpx2.Client) -> None:
    answers = [
        client.post("/execute", json={"code": "1/0"}),
        client.post("/functions/half/call", json={"n": 3}),
    ]
    ids = [answer.json()["id"] for answer in answers]
    assert [answer.headers["x-execution-id"] for answer in answers] == ids
    assert len(set(ids)) == 2
    assert all(identity.startswith("ex_") and len(identity) == 19 for identity in ids)
    refused = client.post("/functions/half/call", json={"n": "no"})
    problem(refused, 422, "invalid_arguments")
    assert refused.headers["x-execution-id"].startswith("ex_")
    followed = list(stream(client, "/execute", {"code": "1"}))
    assert [name for name, _ in followed] == ["queued", "started", "result", "done"]
    assert len({followed[at][1]["id"] for at in (0, 1, 3)}) == 1
    assert followed[1][1]["kernel"] == "aigbb_functions_kernel_1"


# -- later


def test_an_answer_that_comes_later_is_the_one_that_would_have_come(client: httpx2.Client) -> None:
    code = "print('a')\nhalf('x')"
    at_once, later = execute(client, code), ended(client, begin(client, code))
    assert (later["status"], later["function"], later["outputs"], later["problem"]) == ("error", None, None, None)
    own = {"id", "duration_ms", "waited_ms"}
    assert {k: v for k, v in later["answer"].items() if k not in own} == {
        k: v for k, v in at_once.items() if k not in own
    }
    assert later["answer"]["id"] == later["id"]
    assert later["queued"] <= later["started"] <= later["ended"]
    assert min(later["queue_ms"], later["start_ms"], later["run_ms"]) >= 0


def test_a_call_goes_on_by_itself_too(client: httpx2.Client) -> None:
    answer = client.post("/functions/half/call", json={"n": 3}, headers=LATER)
    assert answer.status_code == 202
    body = ended(client, answer.json()["id"])
    assert (body["status"], body["function"], body["answer"]["result"]) == ("ok", "half", 1.5)
    told = [text for _, text in events(client, body["id"])]
    assert [text.splitlines()[0] for text in told] == [
        "event: queued", "event: started", "event: stdout", "event: done",
    ]  # fmt: skip
    assert '"result":1.5,"content":"1.5"' in told[-1]

    wrong = ended(client, client.post("/functions/half/call", json={"n": "x"}, headers=LATER).json()["id"])
    assert (wrong["status"], wrong["answer"], wrong["problem"]["code"]) == ("failed", None, "invalid_arguments")
    assert [text.splitlines()[0] for _, text in events(client, wrong["id"])][-2:] == ["event: problem", "event: done"]


def test_who_prefers_to_wait_is_answered_in_time(client: httpx2.Client) -> None:
    quick = client.post("/execute", json={"code": "6 * 7"}, headers={"Prefer": 'foo, Respond-Async; x, wait="50"'})
    assert (quick.status_code, quick.json()["result"]) == (200, "42")
    assert quick.headers["preference-applied"] == "wait=50"
    slow = client.post("/execute", json={"code": SLEEP}, headers={"Prefer": "wait=0, respond-async"})
    assert slow.status_code == 202
    plain = client.post("/execute", json={"code": "1"}, headers={"Prefer": "wait=0, return=minimal"})
    assert plain.status_code == 200
    assert "preference-applied" not in plain.headers


def test_what_cannot_begin_is_refused_at_once(client: httpx2.Client) -> None:
    for headers in (LATER, {**LATER, **EVENTS}, EVENTS):
        refused = client.post("/execute", json={"code": "1", "session": "nobody"}, headers=headers)
        problem(refused, 404, "session_not_found")
    problem(client.post("/functions/halve/call", json={}, headers=LATER), 404, "unknown_function")
    for _ in range(6):
        begin(client, SLEEP)
    refused = client.post("/execute", json={"code": "1"}, headers=LATER)
    problem(refused, 503, "pool_exhausted")
    assert int(refused.headers["retry-after"]) > 0
    states = [one["status"] for one in client.get("/executions").json() if not one["ended"]]
    assert (len(states), states.count("queued")) == (6, 4)


def test_the_last_ones_are_kept(client: httpx2.Client) -> None:
    ids = [ended(client, begin(client, str(n)))["id"] for n in range(6)]
    assert [one["id"] for one in client.get("/executions").json()] == ids[:1:-1]
    for path in (f"/executions/{ids[0]}", "/executions/ex_none"):
        problem(client.get(path), 404, "execution_not_found")
        problem(client.get(path, headers=EVENTS), 404, "execution_not_found")
        problem(client.post(f"{path}/cancel"), 404, "execution_not_found")
    problem(client.get(f"/executions/{ids[-1]}", params={"wait": -1}), 422, "invalid_request")


# -- followed


def test_a_dropped_connection_is_resumed_where_it_broke(client: httpx2.Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    identity = begin(client, COUNTS.format(go=str(go)))
    seen: list[tuple[str, str]] = []
    for stop in (1, 30, 60):  # events, after which the connection is dropped
        following = events(client, identity, after=seen[-1][0] if seen else "")
        while len(seen) < stop:
            seen.append(next(following))
        following.close()
    assert client.get(f"/executions/{identity}").json()["status"] in ("starting", "running")
    go.touch()
    seen += events(client, identity, after=seen[-1][0])
    original = list(events(client, identity))
    assert seen == original
    assert [int(number) for number, _ in seen] == list(range(1, len(seen) + 1))
    assert "".join(text.split('"text":"')[1][:-2] for _, text in seen if "event: stdout" in text) == "".join(
        f"{n}\\n" for n in range(200)
    )
    assert original[-1][1].startswith("event: done")
    assert list(events(client, identity, after=original[-1][0])) == original[-1:]
    assert list(events(client, identity, after="9999999")) == original[-1:]
    assert list(events(client, identity, after="what?")) == original


def test_a_stream_that_prefers_so_outlives_its_connection(server: Server, client: httpx2.Client) -> None:
    for headers, lives in ((EVENTS, False), ({**EVENTS, **LATER}, True)):
        with (
            server.client() as leaving,
            leaving.stream("POST", "/execute", json={"code": SLEEP}, headers=headers) as answer,
        ):
            identity = answer.headers["x-execution-id"]
            names = (name for name, _ in parse_events(answer.iter_lines()))
            assert [next(names) for _ in range(3)] == ["queued", "started", "stdout"]
        if lives:
            assert answer.headers["location"] == f"/executions/{identity}"
            assert client.get(f"/executions/{identity}").json()["status"] == "running"
        else:
            wait_until(lambda: client.get("/healthz").json()["running"] == 0)
            problem(client.get(f"/executions/{identity}"), 404, "execution_not_found")


# -- cancelled


def test_it_is_cancelled_wherever_it_is(client: httpx2.Client) -> None:
    client.post("/sessions", json={"id": "s"})
    assert execute(client, "x = 1", session="s")["status"] == "ok"
    running, other, queued = begin(client, SLEEP, session="s"), begin(client, SLEEP), begin(client, SLEEP)
    wait_until(lambda: client.get(f"/executions/{running}").json()["outputs"] != [])
    assert client.get(f"/executions/{queued}").json()["status"] == "queued"
    for identity in (queued, running, other, running):
        body = client.post(f"/executions/{identity}/cancel").json()
        assert (body["id"], body["status"], body["answer"]["status"]) == (identity, "cancelled", "cancelled")
    assert client.get(f"/executions/{queued}").json()["kernel"] is None
    assert client.get(f"/executions/{running}").json()["answer"]["output"] == "on\n"
    assert execute(client, "x", session="s")["result"] == "1"
    client.delete("/sessions/s")


def test_who_waits_for_it_is_answered(server: Server, client: httpx2.Client) -> None:
    with server.client() as waiting, ThreadPoolExecutor() as pool:
        answer = pool.submit(execute, waiting, SLEEP)
        wait_until(lambda: any(one["status"] == "running" for one in client.get("/executions").json()))
        (one,) = [one for one in client.get("/executions").json() if one["status"] == "running"]
        assert client.post(f"/executions/{one['id']}/cancel").json()["status"] == "cancelled"
        assert (answer.result()["id"], answer.result()["status"]) == (one["id"], "cancelled")
    problem(client.get(f"/executions/{one['id']}"), 404, "execution_not_found")
