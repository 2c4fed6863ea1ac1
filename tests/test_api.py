"""Executions, sessions and the edge of the REST door, over real HTTP against a real service."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conftest import Server, running_server
from tests.doors import PROBLEM, execute, picture, problem, source_of, stream, wait_until

pytest_plugins = ["tests.doors_fixtures"]

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
    assert body["fix"] == {"replace": {"word_cuont": "word_count"}}
    missing = execute(client, "import yaml")
    assert '"packages": ["PyYAML"]' in missing["hint"]
    assert missing["fix"] == {"packages": ["PyYAML"]}
    fine = execute(client, "1/0")
    assert (fine["hint"], fine["fix"]) == (None, None)
    events = dict(stream(client, "/execute", {"code": "word_cuont('a')"}))
    assert (events["error"]["hint"], events["error"]["fix"]) == (body["hint"], body["fix"])


SWAP = """
import os, shutil
work = os.getcwd()
os.chdir("/")
try:
    shutil.rmtree(work, ignore_errors=True)
    os.symlink({!r}, work)
except OSError as error:
    print(type(error).__name__)
work
"""


def gone(path: Path) -> bool:
    """Whether nothing has this path, not even a link."""
    return not os.path.lexists(path)


def test_code_that_replaces_its_work_folder_by_a_link_deletes_nothing_of_the_service(
    server: Server, client: httpx2.Client
) -> None:
    canary = server.home / "canary" / "registry.sqlite3"
    canary.parent.mkdir(mode=0o750)
    canary.touch()
    wait_until(lambda: client.get("/healthz").json()["fork"] == "ready")
    for _ in range(3):  # the first of them may have been started alone, in a sandbox of its own
        work = Path(ast.literal_eval(execute(client, SWAP.format(str(canary.parent)))["result"]))
        wait_until(partial(gone, work))
    assert canary.is_file()
    assert canary.parent.stat().st_mode & 0o777 == 0o750
    canary.unlink()
    canary.parent.rmdir()


def test_the_list_of_fonts_is_made_when_an_environment_is_built(server: Server, client: httpx2.Client) -> None:
    number = client.get("/healthz").json()["generation"]
    [fonts] = (server.home / "generations" / str(number) / "matplotlib").iterdir()
    assert re.fullmatch(r"fontlist-v[\d.]+\.json", fonts.name)
    assert json.loads(fonts.read_text())["ttflist"]
    body = execute(client, "import matplotlib.pyplot as p, os\np.plot([1]);\nos.listdir(os.environ['MPLCONFIGDIR'])")
    assert [o for o in body["outputs"] if o.get("name") == "stderr"] == []
    assert body["result"] == repr([fonts.name])


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
    assert kinds[:2] == ["queued", "started"]
    assert set(kinds[2:-2]) == {"stdout", "stderr"}
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
    assert [kind for kind, _ in heard[:3]] == ["queued", "started", "stdout"]
    assert heard[-1] == ("done", "cancelled")
    client.delete(f"/sessions/{session}")


def test_a_client_that_leaves_frees_its_kernel(server: Server, client: httpx2.Client) -> None:
    for headers in ({}, {"Accept": "text/event-stream"}):
        impatient = server.client()
        with pytest.raises(httpx2.TimeoutException), impatient:
            body = {"code": "import time; time.sleep(100)", "timeout": 120}
            impatient.post("/execute", json=body, headers=headers, timeout=1.5)
    wait_until(lambda: client.get("/healthz").json()["running"] == 0)


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


def test_a_pinned_session_says_which_functions_it_ran_with(client: httpx2.Client, name: str) -> None:
    opened = client.post("/sessions", json={"id": name, "pinned": True})
    assert opened.json()["pinned"] is True
    first = execute(client, "1", session=name)
    snapshot = client.post("/register", json={"source": f"def {name}():\n    return 1\n"}).json()["snapshot"]
    assert first["snapshot"] < snapshot
    again = execute(client, f"'{name}' in globals()", session=name)
    assert (again["result"], again["snapshot"]) == ("False", first["snapshot"])
    clean = execute(client, f"{name}()")
    assert (clean["result"], clean["snapshot"]) == ("1", snapshot)
    assert client.post(f"/functions/{name}/call", json={}).json()["snapshot"] == snapshot
    assert client.delete(f"/sessions/{name}").status_code == 204


def test_a_session_sees_new_functions_before_its_next_execution(client: httpx2.Client, name: str) -> None:
    session = client.post("/sessions").json()["id"]
    execute(client, "kept = 1", session=session)
    client.post("/register", json={"source": source_of(name)})
    assert execute(client, f"{name}(kept)", session=session)["result"] == "2"
    client.delete(f"/sessions/{session}")


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory, cache: Any) -> Iterator[Server]:
    """A service with small limits."""
    folder = tmp_path_factory.mktemp("hasty")
    limits = {"max_sessions": 1, "max_running": 1, "max_waiting": 0, "session_idle": 1, "import_timeout": 3}
    with running_server(folder, cache, pool_size=1, pool_max=1, max_output=2048, **limits) as started:
        yield started


def test_an_import_that_hangs_is_given_up_and_changes_nothing(hasty: Server) -> None:
    source = "import time\ntime.sleep(600)\ndef good() -> int:\n    return 1\n"
    with hasty.client() as client:
        before = picture(client, hasty)
        refused = problem(client.post("/register", json={"source": source}), 422, "import_timeout")
        assert refused["function"] == "good"
        assert picture(client, hasty) == before
        assert execute(client, "1 + 1")["result"] == "2"


def test_a_right_key_is_served_however_many_wrong_ones_came(hasty: Server) -> None:
    with hasty.client() as client, httpx2.Client(base_url=hasty.url) as stranger:
        statuses = {stranger.get("/functions", headers={"Authorization": f"Bearer {n}"}).status_code for n in range(40)}
        assert statuses == {401, 429}
        assert client.get("/functions").status_code == 200
        assert stranger.get("/functions", headers=dict(client.headers)).status_code == 200


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
    for path in ("/functions?page=x", "/functions?per_page=0", "/history?limit=0", "/tools?format=x"):
        problem(client.get(path), 422, "invalid_request")


# Two doors to a body: one for those who say plain `application/json`, and FastAPI's own.
PLAIN, OTHER = ("application/json", "application/json; charset=utf-8"), ("application/x+json", "Application/JSON")


@pytest.mark.parametrize("kind", [*PLAIN, *OTHER])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_json_is_json_by_any_name_and_with_any_mark_before_it(client: httpx2.Client, kind: str, encoding: str) -> None:
    body = json.dumps({"text": "ä ä ö", "top": 1}, ensure_ascii=False).encode(encoding)
    answer = client.post("/functions/word_count/call", content=body, headers={"Content-Type": kind})
    assert answer.json()["result"] == {"ä": 2}
    code = json.dumps({"code": "'ö'", "timeout": "5"}, ensure_ascii=False).encode(encoding)
    assert client.post("/execute", content=code, headers={"Content-Type": kind}).json()["result"] == "'ö'"


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", "1", '{"code": 1}', '{"cod": "1"}', '{"code": "\\ud800"}', '{"code": "1", "timeout": NaN}',
     '{"code": "1", "timeout": -1}', '{"code": "1", "session": 5}', '{"code": "1"} 2', "[" * 5000],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/execute", "/functions/word_count/call", "/functions/word_count/call?timeout=x"])
def test_what_is_wrong_is_refused_alike_by_both_doors(client: httpx2.Client, path: str, body: str) -> None:
    answers = []
    for kind in (PLAIN[0], OTHER[0]):
        answer = client.post(path, content=body, headers={"Content-Type": kind})
        found = answer.json()
        del found["request_id"]
        answers.append((answer.status_code, answer.headers["Content-Type"], found))
    assert answers[0] == answers[1]
    assert answers[0][0] in (400, 422)


def test_hostile_output_is_still_an_answer(client: httpx2.Client) -> None:
    shown = "{'application/json': {'a': float('nan'), 'b': '\\ud800'}}"
    code = f"from IPython.display import display\ndisplay({shown}, raw=True)\nprint('\\ud800\\x00')"
    body = execute(client, code)
    assert body["status"] in ("ok", "error")
    assert json.dumps(body)


def test_misspelt_names_are_recognised(client: httpx2.Client) -> None:
    refused = problem(client.post("/execute", json={"cod": "1"}), 422, "invalid_request")
    assert "did you mean 'code'?" in refused["detail"]
    assert refused["fix"] == {"rename": {"cod": "code"}}
    refused = problem(client.post("/register", json={"source": "def f(): pass", "packges": []}), 422, "invalid_request")
    assert "did you mean 'packages'?" in refused["detail"]
    refused = problem(client.get("/functions/word_cuont"), 404, "unknown_function")
    assert (refused["suggestions"], refused["fix"]) == (["word_count"], {"name": "word_count"})


def test_a_request_id_is_kept_when_it_is_one(client: httpx2.Client) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert client.get("/healthz", headers={"X-Request-ID": "a b"}).headers["x-request-id"] != "a b"


PATHS = [
    "/register",
    "/register/batch",
    "/sync",
    "/functions",
    "/functions/{name}",
    "/functions/{name}/snippets",
    "/functions/{name}/call",
    "/functions/{name}/versions",
    "/functions/{name}/versions/{number}",
    "/functions/{name}/versions/{number}/diff",
    "/functions/{name}/activate",
    "/functions/word_count/call",
    "/history",
    "/tools",
    "/tools/run",
    "/postman_collection.json",
    "/execute",
    "/sessions",
    "/sessions/{identity}",
    "/sessions/{identity}/interrupt",
    "/sessions/{identity}/restart",
    "/kernels",
    "/healthz",
]


def test_the_documentation_opens_in_a_browser_and_loads_nothing_from_elsewhere(server: Server) -> None:
    with httpx2.Client(base_url=server.url, auth=("anyone", server.token), follow_redirects=True) as browser:
        page = browser.get("/")
        assert page.status_code == 200
        assert "swagger" in page.text.lower()
        assert "http://" not in page.text
        assert "https://" not in page.text
        assert browser.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200
        schema = browser.get("/openapi.json").json()
        assert [path for path in PATHS if path not in schema["paths"]] == []
        assert browser.post("/execute", json={"code": "1"}).status_code == 401


def test_all_of_the_service_answers_to_the_schema_it_publishes(client: httpx2.Client) -> None:
    schema = client.get("/openapi.json").json()
    operations = [(path, verb, one) for path, verbs in schema["paths"].items() for verb, one in verbs.items()]
    assert all(one.get("summary") and one.get("description") for _, _, one in operations)
    identities = [one["operationId"] for _, _, one in operations]
    assert len(set(identities)) == len(identities)
    ours = {one["operationId"] for path, _, one in operations if path in PATHS and path != "/functions/word_count/call"}
    assert "aigbb.register" in ours
    assert all(identity.startswith("aigbb.") for identity in ours)
    assert all(one.get("security") for path, _, one in operations if path != "/healthz")
    errors = {path: one["responses"]["4XX"]["content"].keys() for path, _, one in operations if path != "/healthz"}
    assert {media for path, kinds in errors.items() if not path.startswith("/v1/") for media in kinds} == {PROBLEM}
    # What is refused there is told in the form of OpenAI's clients.
    theirs = {media for path, kinds in errors.items() if path.startswith("/v1/") for media in kinds}
    assert theirs == {PROBLEM, "application/json"}


def test_pages_run_their_own_scripts_only(client: httpx2.Client) -> None:
    for path in ("/docs", "/docs/oauth2-redirect"):
        page = client.get(path)
        policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
        assert policy["frame-ancestors"] == policy["default-src"] == "'none'"
        inline = re.findall(rb"<script>(.*?)</script>", page.content, re.DOTALL)
        assert inline
        for script in inline:
            digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
            assert f"'sha256-{digest}'" in policy["script-src"]
        assert "unsafe" not in policy["script-src"]
        linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert all(link.startswith("/") and client.get(link).status_code == 200 for link in linked)


def test_all_else_is_shown_without_scripts_and_in_no_frame(client: httpx2.Client) -> None:
    for answer in (client.get("/functions"), client.get("/nothing"), client.get("/healthz")):
        policy = answer.headers["content-security-policy"]
        assert "sandbox" in policy.split("; ")
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
