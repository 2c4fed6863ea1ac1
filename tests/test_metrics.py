"""The service in figures: what is counted, under which labels, and who may read it."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.metrics import MAX_FUNCTIONS, Metrics
from server.observing import Executed, Served
from tests.conftest import ROOT, Server
from tests.doors import call, execute, problem, register, source_of, stream, wait_until

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


def figures(client: httpx2.Client) -> Figures:
    """Every sample, by its name and labels."""
    return parsed(client.get("/metrics").text)


def parsed(text: str) -> Figures:
    """Every sample of Prometheus's text."""
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


@pytest.fixture
def more(client: httpx2.Client) -> Callable[..., float]:
    """By how much a figure has grown since the test began."""
    before = figures(client)

    def grown(name: str, **labels: str) -> float:
        key = f"aigbb_{name}", frozenset(labels.items())
        return figures(client).get(key, 0) - before.get(key, 0)

    return grown


def test_are_in_prometheus_text_for_those_who_have_the_key(client: httpx2.Client, server: Server) -> None:
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    problem(httpx2.get(f"{server.url}/metrics"), 401, "unauthorized")
    openmetrics = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")


def test_the_page_lists_them_all(client: httpx2.Client) -> None:
    families = {f.name: f for f in text_string_to_metric_families(client.get("/metrics").text)}
    found = {(n, f.type, f.documentation) for n, f in families.items() if n.startswith("aigbb_")}
    page = (ROOT / "docs" / "observability.md").read_text()
    rows = re.findall(r"^\| `(aigbb_\w+)` \| (\w+) \| ([\w, ]*) ?\| (.+) \|$", page, re.MULTILINE)
    assert {(name, kind, text) for name, kind, _, text in rows} == found
    for name, _, listed, _ in rows:
        labels = {label for s in families[name].samples for label in s.labels} - {"le"}
        assert labels <= set(listed.strip().split(", ")), name


def test_time_in_line_time_to_start_and_time_to_run_are_apart(
    client: httpx2.Client, more: Callable[..., float]
) -> None:
    execute(client, "import time; time.sleep(0.3)")
    labels = {"kind": "execute", "outcome": "ok"}
    for part in ("queue", "start", "run"):
        assert more(f"execution_{part}_seconds_count", **labels) == 1
    assert more("execution_run_seconds_sum", **labels) >= 0.3
    assert more("execution_queue_seconds_sum", **labels) < 0.3


def test_an_outcome_is_what_the_answer_said(client: httpx2.Client, more: Callable[..., float]) -> None:
    execute(client, "1/0")
    execute(client, "while True: pass", timeout=0.3)
    execute(client, "import os; os._exit(3)")
    assert client.post("/functions/word_count/call", json={}).status_code == 422
    call(client, "word_count", {"text": "to be"})
    for outcome in ("error", "timeout", "died"):
        assert more("execution_run_seconds_count", kind="execute", outcome=outcome) == 1
    for outcome in ("ok", "error"):
        assert more("function_calls_total", function="word_count", outcome=outcome) == 1
    assert more("kernel_deaths_total", cause="exit") == 1


def test_a_kernels_death_has_its_cause(client: httpx2.Client, more: Callable[..., float]) -> None:
    execute(client, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    execute(client, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    stubborn = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    execute(client, stubborn, timeout=0.3)
    for cause in ("killed", "signal", "timeout"):
        assert more("kernel_deaths_total", cause=cause) == 1
    execute(client, "1")
    assert more("kernel_deaths_total", cause="exit") == 0


def test_who_leaves_is_counted_as_such(client: httpx2.Client, more: Callable[..., float]) -> None:
    for name, _ in stream(client, "/execute", {"code": "print(1, flush=True)\nwhile True: pass"}):
        if name == "stdout":
            break
    wait_until(lambda: more("execution_run_seconds_count", kind="execute", outcome="left") == 1)


def test_registrations_are_counted_by_stage_and_outcome(client: httpx2.Client, more: Callable[..., float]) -> None:
    register(client, source_of("counted"))
    try:
        assert client.post("/register", json={"source": source_of("counted")}).status_code == 200
        worse = client.post("/register", json={"source": f"import nope\n{source_of('worse')}"})
        problem(worse, 422, "missing_dependency")
        for outcome in ("ok", "unchanged", "missing_dependency"):
            assert more("registrations_total", action="register", outcome=outcome) == 1
        assert more("registration_stage_seconds_count", stage="parse", outcome="ok") == 3
        assert more("registration_stage_seconds_count", stage="switch", outcome="ok") == 1
        assert more("registration_stage_seconds_count", stage="verify", outcome="failed") == 1
    finally:
        client.delete("/functions/counted")
    assert more("registrations_total", action="delete", outcome="ok") == 1


def test_requests_are_counted_by_the_routes_template(client: httpx2.Client, more: Callable[..., float]) -> None:
    client.get("/functions/word_count")
    client.get("/functions/no_such")
    client.get("/no/such/path")
    httpx2.get(f"{client.base_url}/functions")
    assert more("http_requests_total", method="GET", route="/functions/{name}", status="200") == 1
    assert more("http_requests_total", method="GET", route="/functions/{name}", status="404") == 1
    assert more("http_requests_total", method="GET", route="other", status="404") == 1
    assert more("http_requests_total", method="GET", route="other", status="401") == 1
    assert more("http_request_seconds_count", method="GET", route="/functions/{name}") == 2


def test_the_pool_as_it_is_now(client: httpx2.Client) -> None:
    identity = client.post("/sessions").json()["id"]
    try:
        now, health = figures(client), client.get("/healthz").json()
        for name in ("sessions", "functions", "generation", "snapshot"):
            assert now[f"aigbb_{name}", frozenset()] == health[name]
        assert now["aigbb_kernels_idle", frozenset()] >= 1
        assert now["aigbb_full", frozenset()] == 0
        assert identity not in client.get("/metrics").text
    finally:
        client.delete(f"/sessions/{identity}")


# -- without a service


def executed(*functions: str) -> Executed:
    """One that went well."""
    return Executed("call", "ok", 0.0, 0.5, 1.5, 4.5, functions)


def test_functions_beyond_a_number_share_one_series() -> None:
    metrics = Metrics("1")
    for n in range(MAX_FUNCTIONS + 5):
        metrics.note(executed(f"f{n}@1"))
    metrics.note(executed("f0@2"))
    samples = parsed(metrics.text()[0].decode()).items()
    found = {dict(labels)["function"]: value for (name, labels), value in samples if name.endswith("calls_total")}
    assert len(found) == MAX_FUNCTIONS + 1
    assert (found["f0"], found["other"]) == (2, 5)


def test_a_methods_name_is_no_label_of_the_callers_choice() -> None:
    metrics = Metrics("1")
    metrics.note(Served('BREW"} 1\nx', "", 405, 0.1, "k"))
    assert 'method="other",route="other",status="405"' in metrics.text()[0].decode()


def test_what_was_never_let_in_waited_and_did_nothing_else() -> None:
    metrics = Metrics("1")
    metrics.note(Executed("execute", "pool_exhausted", 1.0, None, None, 3.0))
    found = parsed(metrics.text()[0].decode())
    labels = frozenset({"kind": "execute", "outcome": "pool_exhausted"}.items())
    assert found["aigbb_execution_queue_seconds_sum", labels] == 2
    assert ("aigbb_execution_start_seconds_sum", labels) not in found
    assert ("aigbb_execution_run_seconds_sum", labels) not in found


def test_two_of_them_share_nothing() -> None:
    one, other = Metrics("1"), Metrics("1")
    one.note(executed("f@1"))
    assert b'function="f"' in one.text()[0]
    assert b'function="f"' not in other.text()[0]
