"""The REST contract, over real HTTP against a real service."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from server.client import parse_events
from tests.conftest import Server

PROBLEM = "application/problem+json"


def execute(client: httpx2.Client, code: str, **more: Any) -> dict[str, Any]:
    """One execution's answer."""
    answer = client.post("/execute", json={"code": code, **more})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """The members of a problem, after the ones that every problem has are checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    body: dict[str, Any] = answer.json()
    assert body["code"] == code
    assert body["status"] == status
    assert body["detail"]
    assert body["hint"]
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


@pytest.fixture
def name(client: httpx2.Client) -> Iterator[str]:
    """A name that is free, and free again afterwards."""
    fresh = f"f_{uuid4().hex[:10]}"
    yield fresh
    assert client.delete(f"/functions/{fresh}").status_code in (204, 404)


def source_of(name: str, body: str = "return n + 1") -> str:
    """A small function."""
    return f'def {name}(n: int) -> int:\n    """Add one."""\n    {body}\n'


# -- register


def test_a_function_registers_with_the_original_field_names_and_runs(client: httpx2.Client, name: str) -> None:
    body = {"functionName": name, "functionScript": source_of(name), "packages": "", "envVariables": {}}
    answer = client.post("/register", json=body)
    assert answer.status_code == 201
    registered = answer.json()
    assert registered["name"] == name
    assert registered["version"] == 1
    assert registered["signature"] == f"{name}(n: int) -> int"
    assert registered["parameters"]["properties"]["n"]["type"] == "integer"
    assert registered["parameters"]["required"] == ["n"]
    assert registered["unchanged"] is False
    assert registered["new_generation"] is False
    assert set(registered["timings_ms"]) >= {"parse", "resolve", "verify"}
    assert execute(client, f"{name}(41)")["result"] == "42"


def test_the_same_again_is_unchanged_and_another_source_is_version_2(client: httpx2.Client, name: str) -> None:
    assert client.post("/register", json={"source": source_of(name)}).status_code == 201
    again = client.post("/register", json={"name": name, "source": source_of(name)})
    assert again.status_code == 200
    assert again.json()["unchanged"] is True
    changed = client.post("/register", json={"source": source_of(name, "return n + 2")})
    assert changed.status_code == 201
    assert changed.json()["version"] == 2
    assert execute(client, f"{name}(40)")["result"] == "42"


def test_a_missing_package_is_installed_in_one_request_and_usable_in_the_next(client: httpx2.Client, name: str) -> None:
    source = f"import iniconfig\n\ndef {name}() -> str:\n    return iniconfig.__name__\n"
    before = execute(client, "import os; os.environ['AIGBB_KERNEL']")["result"]
    refused = problem(client.post("/register", json={"source": source}), 422, "missing_dependency")
    assert refused["fix"] == {"add_packages": ["iniconfig"]}
    registered = client.post("/register", json={"source": source, "packages": ["iniconfig"]}).json()
    assert registered["new_generation"] is True
    assert [p.split("==")[0] for p in registered["package_changes"]["added"]] == ["iniconfig"]
    after = execute(client, f"import os; ({name}(), os.environ['AIGBB_KERNEL'])")
    assert after["result"].startswith("('iniconfig'")
    assert before not in after["result"]
    current = [k["kernel"] for k in client.get("/kernels").json() if k["current"]]
    assert current == [after["kernel"]] == [registered["kernel"]]


def test_a_build_can_be_followed_as_events(client: httpx2.Client, name: str) -> None:
    body = {"source": f"import pluggy\n\ndef {name}() -> str:\n    return 'x'\n", "packages": ["pluggy"]}
    events = list(stream(client, "/register", body))
    phases = [data["phase"] for kind, data in events if kind == "progress"]
    assert phases == sorted(phases, key=["resolve", "download", "install", "verify", "switch"].index) or set(
        phases
    ) >= {
        "resolve",
        "install",
        "verify",
        "switch",
    }
    assert events[-1][0] == "done"
    assert events[-1][1]["name"] == name


def test_a_failed_registration_ends_its_events_with_a_problem(client: httpx2.Client) -> None:
    events = list(stream(client, "/register", {"source": "def f(:"}))
    assert [kind for kind, _ in events] == ["problem"]
    assert events[0][1]["code"] == "syntax_error"
    assert events[0][1]["location"]["line"] == 1


def test_secrets_reach_the_kernel_and_nothing_else(client: httpx2.Client, server: Server, name: str) -> None:
    secret = f"s3cret-{uuid4().hex}"
    source = f"import os\n\ndef {name}() -> int:\n    return len(os.environ['MY_KEY'])\n"
    answer = client.post("/register", json={"source": source, "env": {"MY_KEY": secret}})
    assert answer.status_code == 201
    assert answer.json()["env"] == ["MY_KEY"]
    assert execute(client, f"{name}()")["result"] == str(len(secret))
    said = [answer.text, client.get("/functions").text, client.get(f"/functions/{name}").text, *server.said]
    assert not [text for text in said if secret in text]
    readable = [p for p in files_of(server) if secret.encode() in p.read_bytes() and p.stat().st_mode & 0o077]
    assert readable == []
    broken = f"import os\n\nraise RuntimeError(os.environ['MY_KEY'])\ndef {name}() -> int:\n    return 1\n"
    refused = client.post("/register", json={"source": broken, "env": {"MY_KEY": secret}})
    assert problem(refused, 422, "import_failed")["exception"] == "RuntimeError: ***"
    assert secret not in refused.text
    wrong = client.post("/register", json={"source": source, "env": {"MY_KEY": [secret]}})
    assert secret not in problem(wrong, 422, "invalid_request")["detail"]
    assert secret not in wrong.text


def files_of(server: Server) -> list[Any]:
    """Every file that the service keeps, but for the environments' own."""
    folders = [server.home / "snapshots", server.functions, server.functions.parent / "jupyter"]
    found = [p for folder in folders for p in folder.rglob("*") if p.is_file()]
    return [*found, *(p for p in server.home.glob("*") if p.is_file())]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"name": "../evil", "source": "def evil(): pass"}, 422, "invalid_name"),
        ({"name": "list", "source": "def list(): pass"}, 422, "invalid_name"),
        ({"name": "class", "source": "x = 1"}, 422, "invalid_name"),
        ({"name": "__init__", "source": "def __init__(): pass"}, 422, "invalid_name"),
        ({"name": "аdd", "source": "def аdd(): pass"}, 422, "invalid_name"),  # noqa: RUF001
        ({"name": "a" * 65, "source": "x = 1"}, 422, "invalid_name"),
        ({"name": "good", "source": "def good(:\n"}, 422, "syntax_error"),
        ({"name": "good", "source": "def other(): pass"}, 422, "function_not_found"),
        ({"name": "good", "source": "good = lambda: 1"}, 422, "function_not_found"),
        ({"name": "good", "source": "x\0"}, 422, "source_unparsable"),
        ({"name": "good", "source": "def good(*a): pass"}, 422, "unsupported_signature"),
        ({"name": "good", "source": "x" * (300 * 1024)}, 413, "source_too_large"),
        ({"name": "good", "source": "def good(): pass", "packages": ["-r /etc/passwd"]}, 422, "invalid_requirement"),
        ({"name": "good", "source": "def good(): pass", "packages": ["x @ file:///tmp"]}, 422, "invalid_requirement"),
        ({"name": "good", "source": "def good(): pass", "packages": "../local"}, 422, "invalid_requirement"),
        ({"name": "good", "source": "def good(): pass", "packages": ["no-such-dist-aigbb"]}, 422, "package_not_found"),
        ({"name": "good", "source": "def good(): pass", "packages": ["tabulate==99"]}, 422, "version_not_found"),
        ({"name": "good", "source": "def good(): pass", "packages": ["tabulate<0.8"]}, 409, "dependency_conflict"),
        ({"name": "good", "source": "def good(): pass", "env": {"LD_PRELOAD": "x"}}, 422, "invalid_env"),
        ({"name": "Word_Count", "source": "def Word_Count(): pass"}, 409, "name_clash"),
        ({"name": "good", "source": "1/0\ndef good(): pass"}, 422, "import_failed"),
        ({"name": "good", "source": "import os\nos._exit(3)\ndef good(): pass"}, 422, "probe_crashed"),
        ({"name": "good", "source": "def good(x: object()): pass"}, 422, "schema_error"),
        ({"source": "def a(): pass\ndef b(): pass"}, 422, "function_not_found"),
        ({"source": "def good(): pass", "packges": []}, 422, "invalid_request"),
        ({"name": "good"}, 422, "invalid_request"),
    ],
)
def test_what_cannot_be_registered_is_refused_and_changes_nothing(
    client: httpx2.Client, server: Server, body: dict[str, Any], status: int, code: str
) -> None:
    before = picture(client, server)
    problem(client.post("/register", json=body), status, code)
    assert picture(client, server) == before


def picture(client: httpx2.Client, server: Server) -> tuple[Any, ...]:
    """What a refused registration must leave alone."""
    files = {p.name: p.read_bytes() for p in server.functions.glob("*.py")}
    extra = (server.functions.parent / "extra-requirements.txt").read_text()
    numbers = sorted(p.name for p in (server.home / "generations").iterdir())
    health = client.get("/healthz").json()
    return files, extra, numbers, health["snapshot"], health["generation"], client.get("/functions").json()


def test_an_import_that_hangs_is_given_up(tmp_path_factory: pytest.TempPathFactory, hasty: Server) -> None:
    source = "import time\ntime.sleep(600)\ndef good() -> int:\n    return 1\n"
    with hasty.client() as client:
        problem(client.post("/register", json={"source": source}), 422, "import_timeout")
        assert execute(client, "1 + 1")["result"] == "2"


def test_a_conflict_names_the_function_on_the_other_side(client: httpx2.Client) -> None:
    body = {"source": "def wants_old(): pass", "packages": ["tabulate<0.8"]}
    refused = problem(client.post("/register", json=body), 409, "dependency_conflict")
    asked = {one["requirement"]: one["functions"] for one in refused["requirements"]}
    assert asked["tabulate>=0.9"] == ["markdown_table"]
    assert asked["tabulate<0.8"] == ["wants_old"]


def test_executions_go_on_while_a_registration_builds(client: httpx2.Client, server: Server, name: str) -> None:
    body = {"source": f"import toolz\n\ndef {name}() -> int:\n    return 1\n", "packages": ["toolz"]}
    done: list[httpx2.Response] = []
    building = threading.Thread(target=lambda: done.append(client.post("/register", json=body)))
    building.start()
    served = 0
    with server.client() as other:
        while building.is_alive():
            assert execute(other, "word_count('a b')")["status"] == "ok"
            served += 1
    building.join()
    assert done[0].status_code == 201
    assert served > 0


def test_two_registrations_at_once_both_succeed(client: httpx2.Client, server: Server) -> None:
    names = [f"f_{uuid4().hex[:10]}" for _ in range(2)]
    answers: list[int] = []

    def register(name: str) -> None:
        with server.client() as own:
            answers.append(own.post("/register", json={"source": source_of(name)}).status_code)

    threads = [threading.Thread(target=register, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [201, 201]
    assert execute(client, f"{names[0]}(1), {names[1]}(1)")["result"] == "(2, 2)"
    for name in names:
        assert client.delete(f"/functions/{name}").status_code == 204


# -- functions


def test_functions_are_listed_shown_and_deleted(client: httpx2.Client, server: Server, name: str) -> None:
    client.post("/register", json={"source": source_of(name)})
    assert name in [f["name"] for f in client.get("/functions").json()]
    assert client.get(f"/functions/{name}").json()["source"] == source_of(name)
    assert (server.functions / f"{name}.py").read_text() == source_of(name)
    assert client.delete(f"/functions/{name}").status_code == 204
    problem(client.get(f"/functions/{name}"), 404, "unknown_function")
    problem(client.delete(f"/functions/{name}"), 404, "unknown_function")
    assert not (server.functions / f"{name}.py").exists()
    assert execute(client, f"{name}(1)")["error"].startswith("NameError")


def test_a_function_that_another_one_imports_cannot_be_deleted(client: httpx2.Client, name: str) -> None:
    user = f"u{name}"
    client.post("/register", json={"source": source_of(name)})
    source = f"from aigbb_functions import {name}\n\ndef {user}(n: int) -> int:\n    return {name}(n) * 2\n"
    assert client.post("/register", json={"source": source, "name": user}).status_code == 201
    assert execute(client, f"{user}(20)")["result"] == "42"
    refused = problem(client.delete(f"/functions/{name}"), 409, "would_break")
    assert [one["function"] for one in refused["functions"]] == [user]
    assert execute(client, f"{user}(20)")["result"] == "42"
    assert client.delete(f"/functions/{user}").status_code == 204


# -- execute


def test_the_original_answer_fields_are_there(client: httpx2.Client) -> None:
    body = execute(client, "print('hi')\n1 + 1")
    assert (body["output"], body["result"], body["error"]) == ("hi\n", "2", None)
    assert body["status"] == "ok"
    assert body["execution_count"] == 1
    assert body["truncated"] is False
    assert body["duration_ms"] > 0
    assert body["kernel"].startswith("aigbb_functions_kernel_")


def test_an_exception_is_an_answer_with_the_callers_frames_only(client: httpx2.Client) -> None:
    body = execute(client, "import json\njson.loads('{')")
    assert body["status"] == "error"
    assert body["error"].startswith("JSONDecodeError: ")
    detail = body["error_detail"]
    assert detail["ename"] == "JSONDecodeError"
    assert detail["frames_hidden"] > 0
    text = "\n".join(detail["traceback"])
    assert "json.loads" in text
    assert "site-packages" not in text
    assert "\x1b" not in text


def test_a_misspelt_function_and_a_missing_module_come_with_a_hint(client: httpx2.Client) -> None:
    body = execute(client, "word_cuont('a')")
    assert body["hint"] == "Did you mean the function 'word_count'?"
    assert '"packages": ["PyYAML"]' in execute(client, "import yaml")["hint"]
    assert execute(client, "1/0")["hint"] is None
    events = dict(stream(client, "/execute", {"code": "word_cuont('a')"}))
    assert events["error"]["hint"] == body["hint"]


def test_a_figure_is_a_png_and_a_data_frame_has_html(client: httpx2.Client) -> None:
    figure = execute(client, "plot_series({'a': [1, 2, 3]}, title='A')")
    png = next(o["data"]["image/png"] for o in figure["outputs"] if "image/png" in o.get("data", {}))
    assert base64.b64decode(png).startswith(b"\x89PNG")
    frame = execute(client, "import pandas\npandas.DataFrame({'a': [1]})")
    assert "<table" in frame["outputs"][0]["data"]["text/html"]


def test_clean_executions_share_nothing(client: httpx2.Client) -> None:
    execute(client, "leaked = 1; import sys; sys.leaked = 1; open('leaked', 'w').close()")
    assert execute(client, "leaked")["error"].startswith("NameError")
    assert (
        execute(client, "import sys, os; hasattr(sys, 'leaked'), os.path.exists('leaked')")["result"]
        == "(False, False)"
    )


def test_a_timeout_ends_the_code_and_says_so(client: httpx2.Client) -> None:
    body = execute(client, "import time\nprint('before', flush=True)\ntime.sleep(60)", timeout=1)
    assert body["status"] == "timeout"
    assert body["output"] == "before\n"
    assert "1 s" in body["error"]


def test_a_dying_kernel_is_an_answer_and_the_next_execution_works(client: httpx2.Client) -> None:
    body = execute(client, "import os; os._exit(7)")
    assert body["status"] == "died"
    assert "7" in body["error"]
    assert body["kernel_lost"] is True
    assert execute(client, "1")["status"] == "ok"


def test_an_execution_can_be_followed_as_events(client: httpx2.Client) -> None:
    code = "import sys\nprint('a')\nprint('b', file=sys.stderr)\nword_count('x')"
    events = list(stream(client, "/execute", {"code": code}))
    kinds = [kind for kind, _ in events]
    assert set(kinds[:-2]) == {"stdout", "stderr"}
    assert kinds[-2:] == ["result", "done"]
    assert events[-1][1]["status"] == "ok"


def test_events_come_as_they_happen(client: httpx2.Client) -> None:
    """The first line is heard while the code waits for it: it can only go on once we have interrupted it."""
    session = client.post("/sessions").json()["id"]
    code = "import time\nprint('started', flush=True)\ntime.sleep(100)"
    heard = []
    for kind, data in stream(client, "/execute", {"code": code, "session": session, "timeout": 60}):
        heard.append((kind, data.get("status")))
        if kind == "stdout":
            assert client.post(f"/sessions/{session}/interrupt").status_code == 204
    assert heard[0][0] == "stdout"
    assert heard[-1] == ("done", "cancelled")
    client.delete(f"/sessions/{session}")


def test_a_client_that_leaves_frees_its_kernel(server: Server, client: httpx2.Client) -> None:
    for headers in ({}, {"Accept": "text/event-stream"}):
        impatient = server.client()
        with pytest.raises(httpx2.TimeoutException), impatient:
            body = {"code": "import time; time.sleep(100)", "timeout": 120}
            impatient.post("/execute", json=body, headers=headers, timeout=1.5)
    wait_until(lambda: client.get("/healthz").json()["running"] == 0)


def wait_until(condition: Any) -> None:
    """Ask the service until it says so; the test's own timeout is the bound."""
    while not condition():
        pass


# -- sessions


def test_a_session_keeps_its_variables_until_it_ends(client: httpx2.Client) -> None:
    opened = client.post("/sessions", json={"id": "notes"})
    assert opened.status_code == 201
    execute(client, "x = 41", session="notes")
    assert execute(client, "x + 1", session="notes")["result"] == "42"
    assert "notes" in [s["id"] for s in client.get("/sessions").json()]
    problem(client.post("/sessions", json={"id": "notes"}), 409, "session_exists")
    problem(client.post("/sessions/notes/interrupt"), 409, "session_busy")
    assert client.post("/sessions/notes/restart").status_code == 200
    assert execute(client, "x", session="notes")["error"].startswith("NameError")
    assert client.delete("/sessions/notes").status_code == 204
    problem(client.post("/execute", json={"code": "1", "session": "notes"}), 404, "session_not_found")


def test_a_session_sees_new_functions_before_its_next_execution(client: httpx2.Client, name: str) -> None:
    session = client.post("/sessions").json()["id"]
    execute(client, "kept = 1", session=session)
    client.post("/register", json={"source": source_of(name)})
    assert execute(client, f"{name}(kept)", session=session)["result"] == "2"
    client.delete(f"/sessions/{session}")


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory, cache: Any) -> Iterator[Server]:
    """A service with small limits."""
    from tests.conftest import running_server

    folder = tmp_path_factory.mktemp("hasty")
    limits = {"max_sessions": 1, "max_running": 1, "max_waiting": 0, "session_idle": 1, "import_timeout": 3}
    with running_server(folder, cache, pool_size=1, max_output=2048, **limits) as started:
        yield started


def test_idle_sessions_expire(hasty: Server) -> None:
    with hasty.client() as client:
        client.post("/sessions", json={"id": "short"})
        wait_until(lambda: client.get("/sessions").json() == [])
        problem(client.post("/execute", json={"code": "1", "session": "short"}), 404, "session_not_found")


def test_a_full_service_says_when_to_come_back(hasty: Server) -> None:
    with hasty.client() as client, hasty.client() as other:
        body = {"code": "import time\nprint('on', flush=True)\ntime.sleep(60)", "timeout": 60}
        with client.stream("POST", "/execute", json=body, headers={"Accept": "text/event-stream"}) as running:
            lines = running.iter_lines()  # letting go of it would close the connection
            next(lines)
            refused = other.post("/execute", json={"code": "1"})
            problem(refused, 503, "pool_exhausted")
            assert int(refused.headers["retry-after"]) > 0
            assert other.get("/healthz").json()["status"] == "full"
        wait_until(lambda: other.get("/healthz").json()["running"] == 0)
        assert execute(other, "1")["status"] == "ok"


def test_output_over_the_cap_is_cut_in_the_middle(hasty: Server) -> None:
    with hasty.client() as client:
        body = execute(client, "print('a' * 5000 + 'z' * 5000)")
    assert body["truncated"] is True
    assert body["output"].startswith("aaa")
    assert body["output"].endswith("zzz\n")
    assert "characters cut" in body["output"]
    assert len(body["output"]) < 2200


# -- the edge


def test_every_route_but_health_needs_the_token(server: Server) -> None:
    with httpx2.Client(base_url=server.url) as stranger:
        assert stranger.get("/healthz").status_code == 200
        for path in ("/functions", "/kernels", "/sessions", "/docs", "/openapi.json", "/nowhere"):
            answer = stranger.get(path)
            problem(answer, 401, "unauthorized")
            assert "www-authenticate" in answer.headers
        problem(stranger.post("/execute", json={"code": "1"}), 401, "unauthorized")
    with server.client(token="wrong") as liar:
        problem(liar.get("/functions"), 401, "unauthorized")


def test_faulty_requests_get_the_status_they_deserve(client: httpx2.Client) -> None:
    as_json = {"Content-Type": "application/json"}
    problem(client.post("/execute", content=b"{", headers=as_json), 400, "invalid_json")
    problem(client.post("/execute", content=b"\xff\xfe", headers=as_json), 400, "invalid_json")
    problem(client.post("/execute", content=b"[" * 200_000, headers=as_json), 400, "invalid_json")
    problem(client.post("/execute", content=b'{"code": "1"}'), 415, "wrong_content_type")
    problem(client.post("/execute", data={"code": "1"}), 415, "wrong_content_type")
    problem(client.post("/execute", json=[]), 422, "invalid_request")
    problem(client.post("/execute", json={"code": 1}), 422, "invalid_request")
    problem(client.post("/execute", json={"code": "1", "timeout": -1}), 422, "invalid_request")
    for number in (b"NaN", b"1e999", b"Infinity"):
        body = b'{"code": "1", "timeout": ' + number + b"}"
        problem(client.post("/execute", content=body, headers=as_json), 422, "invalid_request")
    problem(client.post("/execute", content=rb'{"code": "\ud800"}', headers=as_json), 422, "invalid_request")
    problem(client.post("/execute", content=b"x" * 2_000_000, headers=as_json), 413, "body_too_large")
    problem(client.post("/execute", content=iter([b"x" * 600_000] * 3), headers=as_json), 413, "body_too_large")
    problem(client.get("/nowhere"), 404, "not_found")
    problem(client.put("/execute", json={}), 405, "method_not_allowed")
    problem(client.get("/healthz", headers={"Host": "evil.example"}), 400, "foreign_host")
    problem(client.post("/sessions", json={"id": "a/b"}), 422, "invalid_request")


def test_hostile_output_is_still_an_answer(client: httpx2.Client) -> None:
    shown = "{'application/json': {'a': float('nan'), 'b': '\\ud800'}}"
    code = f"from IPython.display import display\ndisplay({shown}, raw=True)\nprint('\\ud800\\x00')"
    body = execute(client, code)
    assert body["status"] in ("ok", "error")
    assert json.dumps(body)


def test_misspelt_names_are_recognised(client: httpx2.Client) -> None:
    refused = problem(client.post("/execute", json={"cod": "1"}), 422, "invalid_request")
    assert "did you mean 'code'?" in refused["detail"]
    refused = problem(client.post("/register", json={"source": "def f(): pass", "packges": []}), 422, "invalid_request")
    assert "did you mean 'packages'?" in refused["detail"]
    assert problem(client.get("/functions/word_cuont"), 404, "unknown_function")["suggestions"] == ["word_count"]


def test_a_request_id_is_kept_when_it_is_one(client: httpx2.Client) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert client.get("/healthz", headers={"X-Request-ID": "a b"}).headers["x-request-id"] != "a b"


def test_the_documentation_opens_in_a_browser_and_loads_nothing_from_elsewhere(server: Server) -> None:
    with httpx2.Client(base_url=server.url, auth=("anyone", server.token), follow_redirects=True) as browser:
        page = browser.get("/")
        assert page.status_code == 200
        assert "swagger" in page.text.lower()
        assert "http://" not in page.text
        assert "https://" not in page.text
        assert browser.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200
        schema = browser.get("/openapi.json").json()
        assert {"/register", "/execute", "/functions", "/sessions", "/kernels", "/healthz"} <= set(schema["paths"])
        assert browser.post("/execute", json={"code": "1"}).status_code == 401


def test_all_of_the_service_answers_to_the_schema_it_publishes(client: httpx2.Client) -> None:
    schema = client.get("/openapi.json").json()
    operations = [(path, verb, one) for path, verbs in schema["paths"].items() for verb, one in verbs.items()]
    assert all(one.get("summary") and one.get("description") for _, _, one in operations)
    assert all(one.get("security") for path, _, one in operations if path != "/healthz")
    errors = [one["responses"]["4XX"]["content"] for path, _, one in operations if path != "/healthz"]
    assert {media for content in errors for media in content} == {PROBLEM}


def stream(client: httpx2.Client, path: str, body: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The events of a request."""
    with client.stream("POST", path, json=body, headers={"Accept": "text/event-stream"}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield from parse_events(answer.iter_lines())
