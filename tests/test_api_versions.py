"""What becomes of functions over HTTP: versions, history, files in their folder, and how they are found."""

from __future__ import annotations

import json
from uuid import uuid4

import httpx2

from tests.conftest import Server
from tests.doors import call, execute, problem, register, source_of

pytest_plugins = ["tests.doors_fixtures"]

# -- versions


def test_versions_are_listed_compared_and_activated(client: httpx2.Client, server: Server, name: str) -> None:
    digests = [register(client, source_of(name, f"return {i}"))["digest"] for i in (1, 2, 3)]
    listed = client.get(f"/functions/{name}/versions").json()
    assert [(v["version"], v["active"], v["digest"]) for v in listed] == [
        (3, True, digests[2]),
        (2, False, digests[1]),
        (1, False, digests[0]),
    ]
    shown = client.get(f"/functions/{name}/versions/1").json()
    assert (shown["source"], shown["active"], shown["version"]) == (source_of(name, "return 1"), False, 1)
    diff = client.get(f"/functions/{name}/versions/3/diff").json()
    assert (diff["name"], diff["old"], diff["new"]) == (name, 2, 3)
    assert [line for line in diff["diff"].splitlines() if line[:1] in "+-"] == [
        f"--- {name}@2",
        f"+++ {name}@3",
        "-    return 2",
        "+    return 3",
    ]
    against = client.get(f"/functions/{name}/versions/1/diff", params={"against": 3}).json()
    assert (against["old"], against["new"]) == (3, 1)
    back = client.post(f"/functions/{name}/activate", json={"version": 1})
    assert back.status_code == 200
    assert (back.json()["version"], back.json()["unchanged"]) == (1, False)
    assert call(client, name, {"n": 0})["result"] == 1
    assert (server.functions / f"{name}.py").read_text() == source_of(name, "return 1")
    assert client.post(f"/functions/{name}/activate", json={"version": 1}).json()["unchanged"] is True
    assert [v["version"] for v in client.get(f"/functions/{name}/versions").json() if v["active"]] == [1]
    assert register(client, source_of(name, "return 4"))["version"] == 4


def test_a_deletion_takes_it_out_of_everything_and_can_be_undone(
    client: httpx2.Client, server: Server, name: str
) -> None:
    register(client, source_of(name))
    assert client.get(f"/functions/{name}").json()["source"] == source_of(name)
    assert client.delete(f"/functions/{name}").status_code == 204
    problem(client.get(f"/functions/{name}"), 404, "unknown_function")
    problem(client.delete(f"/functions/{name}"), 404, "unknown_function")
    problem(client.post(f"/functions/{name}/call", json={"n": 1}), 404, "unknown_function")
    assert not (server.functions / f"{name}.py").exists()
    assert f"/functions/{name}/call" not in client.get("/openapi.json").json()["paths"]
    assert execute(client, f"{name}(1)")["error"].startswith("NameError")
    assert [(v["version"], v["active"]) for v in client.get(f"/functions/{name}/versions").json()] == [(1, False)]
    assert client.post(f"/functions/{name}/activate", json={"version": 1}).status_code == 200
    assert call(client, name, {"n": 1})["result"] == 2
    assert (server.functions / f"{name}.py").read_text() == source_of(name)


def test_a_deleted_function_gives_its_name_free_for_another_case(client: httpx2.Client, name: str) -> None:
    register(client, source_of(name))
    client.delete(f"/functions/{name}")
    twin = name.upper()
    register(client, source_of(twin))
    refused = problem(client.post(f"/functions/{name}/activate", json={"version": 1}), 409, "name_clash")
    assert refused["existing"] == twin
    assert client.delete(f"/functions/{twin}").status_code == 204


def test_a_function_that_another_one_imports_cannot_be_deleted(client: httpx2.Client, name: str) -> None:
    user = f"u{name}"
    register(client, source_of(name))
    register(client, f"from aigbb_functions import {name}\n\ndef {user}(n: int) -> int:\n    return {name}(n) * 2\n")
    refused = problem(client.delete(f"/functions/{name}"), 409, "would_break")
    assert [one["function"] for one in refused["functions"]] == [user]
    assert execute(client, f"{user}(20)")["result"] == "42"
    assert client.delete(f"/functions/{user}").status_code == 204


def test_values_of_variables_go_with_the_last_function_that_needs_them(client: httpx2.Client, name: str) -> None:
    variable = f"KEY_{uuid4().hex.upper()}"
    source = f"import os\n\ndef {name}() -> str:\n    return os.environ[{variable!r}]\n"
    register(client, source, env={variable: "first"})
    client.delete(f"/functions/{name}")
    refused = problem(client.post(f"/functions/{name}/activate", json={"version": 1}), 422, "missing_env")
    assert refused["fix"] == {"env": [variable]}
    problem(client.get(f"/functions/{name}"), 404, "unknown_function")
    body = {"version": 1, "env": {variable: "second"}}
    assert client.post(f"/functions/{name}/activate", json=body).status_code == 200
    assert call(client, name)["result"] == "second"


# -- history


def test_history_tells_every_outcome_and_no_secret(client: httpx2.Client, server: Server, name: str) -> None:
    digest = register(client, source_of(name))["digest"]
    client.post("/register", json={"source": source_of(name)}, headers={"X-Request-ID": "mine-1"})
    problem(client.post("/register", json={"name": name, "source": "1/0\ndef x(): pass"}), 422, "function_not_found")
    client.post(f"/functions/{name}/activate", json={"version": 7})
    client.delete(f"/functions/{name}")
    client.post(f"/functions/{name}/activate", json={"version": 1})
    answer = client.get("/history", params={"name": name})
    lines = answer.json()
    assert [(line["action"], line["version"], line["outcome"]) for line in lines] == [
        ("activate", 1, "ok"),
        ("delete", 1, "ok"),
        ("activate", None, "unknown_version"),
        ("register", None, "function_not_found"),
        ("register", 1, "unchanged"),
        ("register", 1, "ok"),
    ]
    assert lines[-2]["request_id"] == "mine-1"
    assert digest.endswith(lines[-1]["digest"])
    assert all(line["duration_ms"] > 0 for line in lines)
    assert len({line["key"] for line in lines}) == 1
    assert lines[0]["key"] not in server.token
    assert server.token not in answer.text
    first = client.get("/history", params={"name": name, "limit": 2}).json()
    rest = client.get("/history", params={"name": name, "before": first[-1]["id"]}).json()
    assert first + rest == lines
    assert client.get("/history", params={"limit": 0}).status_code == 422


# -- files


def test_files_that_are_new_or_edited_are_taken_over(client: httpx2.Client, server: Server, names: list[str]) -> None:
    edited, new, bad = names
    declared = {"type": "object", "properties": {"n": {"type": "integer"}, "user": {"type": "string"}}}
    with_user = f'def {edited}(n: int, user: str) -> int:\n    """E."""\n    return n\n'
    register(client, with_user, tags=["kept"], bound=["user"], input_schema=declared)
    (server.functions / f"{edited}.py").write_text(with_user.replace("return n", "return -n"))
    (server.functions / f"{new}.py").write_text(source_of(new))
    (server.functions / f"{bad}.py").write_text("def broken(:")
    answer = client.post("/sync")
    assert answer.status_code == 200, answer.text
    synced = answer.json()
    assert sorted((f["name"], f["version"], f["tags"], f["bound"]) for f in synced["registered"]) == sorted(
        [(edited, 2, ["kept"], ["user"]), (new, 1, [], [])]
    )
    assert [(p["file"], p["code"]) for p in synced["problems"]] == [(f"{bad}.py", "syntax_error")]
    assert synced["problems"][0]["hint"]
    assert client.get(f"/functions/{edited}").json()["parameters"] == declared
    assert call(client, edited, {"n": 4, "user": "a"})["result"] == -4
    assert (server.functions / f"{bad}.py").read_text() == "def broken(:"
    again = client.post("/sync").json()
    assert again["registered"] == []
    assert [p["file"] for p in again["problems"]] == [f"{bad}.py"]
    (server.functions / f"{bad}.py").unlink()
    assert client.post("/sync").json() == {"registered": [], "problems": []}


def test_a_bad_edit_leaves_the_version_before_in_service(client: httpx2.Client, server: Server, name: str) -> None:
    register(client, source_of(name))
    path = server.functions / f"{name}.py"
    path.write_text("import aigbb_none\n" + source_of(name))
    problems = client.post("/sync").json()["problems"]
    assert [(p["file"], p["code"]) for p in problems] == [(f"{name}.py", "missing_dependency")]
    assert call(client, name, {"n": 1})["result"] == 2
    path.write_text(source_of(name, "return n + 5"))
    assert [f["version"] for f in client.post("/sync").json()["registered"]] == [2]
    assert call(client, name, {"n": 1})["result"] == 6


# -- finding


def test_functions_are_found_by_words_and_tags_and_listed_by_page(client: httpx2.Client, names: list[str]) -> None:
    word = f"w{uuid4().hex}"
    for number, name in enumerate(names):
        source = f'def {name}():\n    """About {word}."""\n'
        register(client, source, tags=["even"] if number % 2 == 0 else [])
    found = client.get("/functions", params={"q": word})
    assert sorted(f["name"] for f in found.json()) == sorted(names)
    assert found.headers["x-total-count"] == "3"
    assert "link" not in found.headers
    tagged = client.get("/functions", params={"q": word, "tag": "even"}).json()
    assert sorted(f["name"] for f in tagged) == sorted([names[0], names[2]])
    pages, url = [], f"/functions?per_page=2&q={word}"
    while url:
        page = client.get(url)
        pages.append(len(page.json()))
        url = page.links["next"]["url"] if "next" in page.links else ""
    assert pages == [2, 1]
    listed = [f["name"] for f in client.get("/functions", params={"per_page": 1000}).json()]
    assert listed == sorted(listed)
    assert set(names) < set(listed)


def test_a_function_says_how_to_call_it(client: httpx2.Client, server: Server, name: str) -> None:
    register(client, source_of(name))
    shown = client.get(f"/functions/{name}/snippets").json()
    assert list(shown) == ["curl", "python", "openai"]
    assert f"{server.url}/functions/{name}/call" in shown["curl"]
    assert server.token not in "".join(shown.values())
    tool = json.loads(shown["openai"])
    assert tool == client.get("/tools", params={"names": name}).json()[0]


def test_the_live_collection_has_one_request_for_each_function(client: httpx2.Client, name: str) -> None:
    register(client, source_of(name), tags=["numbers"])
    collection = client.get("/postman_collection.json").json()
    folders = {folder["name"]: [item["name"] for item in folder["item"]] for folder in collection["item"]}
    assert folders["numbers"] == [name]
    assert folders["Functions"] == ["markdown_table", "plot_series", "word_count"]
