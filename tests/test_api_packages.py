"""Functions with packages, over HTTP: what is built, what is only tried, what is refused, and what stays as it was."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import httpx2

from kernels.environments import KERNEL_PREFIX
from tests.conftest import Server
from tests.doors import call, execute, is_old, picture, problem, register, settled, stream
from tests.index import Index

pytest_plugins = ["tests.doors_fixtures"]


def reports(name: str, package: str) -> str:
    """A function that says which version of a package it sees."""
    return f"import {package}\n\ndef {name}() -> str:\n    return {package}.version\n"


def needs_new(name: str, package: str) -> str:
    """A function that imports with version 2.0 of a package alone."""
    return f"from {package} import new\n\ndef {name}() -> bool:\n    return new\n"


def generation(client: httpx2.Client) -> int:
    """The number of the environment that serves."""
    number: int = client.get("/healthz").json()["generation"]
    return number


# -- built


def test_a_missing_package_is_named_then_installed_and_there_in_the_next_request(
    own: httpx2.Client, indexed: Server, fresh: str, package: str
) -> None:
    before = generation(own)
    refused = problem(own.post("/register", json={"source": reports(fresh, package)}), 422, "missing_dependency")
    assert refused["fix"] == {"packages": [package]}
    registered = register(own, reports(fresh, package), **refused["fix"])
    assert registered["new_generation"] is True
    assert registered["generation"] == before + 1
    assert registered["kernel"] == f"aigbb_functions_kernel_{before + 1}"
    assert registered["package_changes"]["added"] == [f"{package}==2.0"]
    answer = execute(own, f"{fresh}()")
    assert (answer["result"], answer["kernel"]) == ("'2.0'", registered["kernel"])
    current = [kernel for kernel in own.get("/kernels").json() if kernel["current"]]
    assert [(kernel["kernel"], kernel["packages"][package]) for kernel in current] == [(registered["kernel"], "2.0")]
    extra = (indexed.functions.parent / "extra-requirements.txt").read_text()
    assert f"{package}  # used by: {fresh}\n" in extra


def test_a_build_can_be_followed_as_events(own: httpx2.Client, fresh: str, package: str) -> None:
    events = list(stream(own, "/register", {"source": reports(fresh, package), "packages": [package]}))
    phases = list(dict.fromkeys(data["phase"] for kind, data in events if kind == "progress"))
    assert [phase for phase in phases if phase != "download"] == ["resolve", "install", "verify", "switch"]
    assert [kind for kind, _ in events if kind != "progress"] == ["done"]
    assert events[-1][1]["name"] == fresh


def test_a_batch_with_packages_in_the_request_and_in_a_script_block_builds_one_environment(
    own: httpx2.Client, index: Index, fresh: str, package: str
) -> None:
    index.add_wheel(f"{package}x", "1.0")
    before = generation(own)
    block = f'# /// script\n# dependencies = ["{package}<2"]\n# requires-python = ">=3.11"\n# ///\n'
    functions = [
        {"source": block + reports(fresh, package)},
        {"source": reports(f"{fresh}x", f"{package}x"), "packages": [f"{package}x"]},
    ]
    answer = own.post("/register/batch", json={"functions": functions})
    assert answer.status_code == 201, answer.text
    done = answer.json()["functions"]
    assert [f["generation"] for f in done] == [before + 1] * 2
    assert [f["packages"] for f in done] == [[f"{package}<2"], [f"{package}x"]]
    assert (call(own, fresh)["result"], call(own, f"{fresh}x")["result"]) == ("1.0", "1.0")


def test_executions_go_on_while_a_registration_builds(
    own: httpx2.Client, indexed: Server, fresh: str, package: str
) -> None:
    done: list[httpx2.Response] = []

    def build() -> None:
        with indexed.client() as builder:
            done.append(builder.post("/register", json={"source": reports(fresh, package), "packages": [package]}))

    building = threading.Thread(target=build)
    building.start()
    served = 0
    while building.is_alive():
        assert execute(own, "1 + 1")["result"] == "2"
        served += 1
    building.join()
    assert done[0].status_code == 201
    assert served > 0


# -- tried


def test_a_dry_run_with_a_package_leaves_the_disk_as_it_was(
    own: httpx2.Client, indexed: Server, fresh: str, package: str
) -> None:
    register(own, "def kept() -> int:\n    return 1\n")
    before, files, last = generation(own), contents(own, indexed), own.get("/history?limit=1").json()
    body = {"source": reports(fresh, package), "packages": [package], "dry_run": True}
    answer = own.post("/register", json=body)
    assert answer.status_code == 200, answer.text
    tried = answer.json()
    assert (tried["dry_run"], tried["new_generation"], tried["resolution"]) == (True, True, "index")
    assert tried["package_changes"]["added"] == [f"{package}==2.0"]
    assert tried["returns"] == {"type": "string"}
    assert set(tried["timings_ms"]) == {"parse", "resolve", "build", "verify"}
    batch = {"functions": [{"source": needs_new(fresh, package), "packages": [f"{package}<2"]}], "dry_run": True}
    problem(own.post("/register/batch", json=batch), 422, "import_failed")
    assert contents(own, indexed) == files
    assert generation(own) == before
    assert own.get("/history?limit=1").json() == last
    problem(own.get(f"/functions/{fresh}"), 404, "unknown_function")


def contents(client: httpx2.Client, server: Server) -> dict[str, str]:
    """A digest of every file that the service keeps, once nothing goes on any more; lines of the audit come later."""
    settled(client)
    health = client.get("/healthz").json()
    root = server.functions.parent
    found: dict[str, str] = {}
    known: dict[int, str] = {}  # environments link to the same files
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if not passing(here / name, health)]
        # Who only reads a database writes to its -shm.
        kept = [*folders, *(name for name in files if not name.endswith("-shm") and not name.startswith("audit."))]
        found |= {str(here / name): digest(root / here / name, known) for name in kept}
    return found


def passing(path: Path, health: dict[str, Any]) -> bool:
    """Whether a folder may go at any time: it is of a kernel that waits for work, or old."""
    if path.parent == Path("home"):
        return path.name in ("work", "runtime")
    if path.parent == Path("jupyter/kernels"):
        return is_old(path.name.removeprefix(KERNEL_PREFIX), health["generation"])
    current = {"snapshots": health["snapshot"], "generations": health["generation"]}.get(path.parent.name)
    return path.parent.parent == Path("home") and is_old(path.name, current or 0)


def digest(path: Path, known: dict[int, str]) -> str:
    """What a file holds, and of anything else what it is. known has files that were read already, by inode."""
    if path.is_symlink():
        return f"link to {path.readlink()}"
    if path.is_dir():
        return "folder"
    number = path.stat().st_ino
    if number not in known:
        known[number] = hashlib.sha256(path.read_bytes()).hexdigest()
    return known[number]


# -- refused


def test_packages_that_would_break_another_function_are_refused(
    own: httpx2.Client, indexed: Server, fresh: str, package: str
) -> None:
    register(own, needs_new(f"{fresh}_user", package), packages=[package])
    before = picture(own, indexed)
    body = {"source": reports(fresh, package), "packages": [f"{package}<2"]}
    refused = problem(own.post("/register", json=body), 409, "would_break")
    assert [one["function"] for one in refused["functions"]] == [f"{fresh}_user"]
    assert "cannot import name 'new'" in refused["functions"][0]["error"]
    assert picture(own, indexed) == before
    assert call(own, f"{fresh}_user")["result"] is True


def test_a_conflict_says_which_versions_ask_for_what_and_which_would_have_to_give_way(
    own: httpx2.Client, indexed: Server, fresh: str, package: str
) -> None:
    holder = f"{fresh}_holder"
    register(own, reports(holder, package), packages=[package])
    register(own, reports(holder, package), packages=[f"{package}==2.0"])
    before = picture(own, indexed)
    body = {"source": reports(fresh, package), "packages": [f"{package}==1.0"]}
    refused = problem(own.post("/register", json=body), 409, "dependency_conflict")
    assert sorted(refused["requirements"], key=lambda asked: str(asked["requirement"])) == [
        {"requirement": f"{package}==1.0", "functions": [fresh], "versions": [f"{fresh}@1"]},
        {"requirement": f"{package}==2.0", "functions": [holder], "versions": [f"{holder}@2"]},
    ]
    assert refused["give_way"] == [f"{holder}@2"]
    assert picture(own, indexed) == before


# -- older versions


def test_an_older_version_runs_where_its_packages_are_and_a_rollback_brings_them_back(
    own: httpx2.Client, indexed: Server, fresh: str, package: str
) -> None:
    old = register(own, reports(fresh, package), packages=[f"{package}==1.0"])
    new = register(own, reports(fresh, package), packages=[f"{package}==2.0"])
    pinned = call(own, f"{fresh}@1")
    assert (pinned["result"], pinned["version"], pinned["kernel"]) == ("1.0", 1, old["kernel"])
    active = call(own, f"{fresh}@2")
    assert (active["result"], active["version"], active["kernel"]) == ("2.0", 2, new["kernel"])
    session = own.post("/sessions").json()["id"]
    refused = own.post(f"/functions/{fresh}@1/call", json={}, params={"session": session})
    assert problem(refused, 409, "version_unavailable")["version"] == 1
    assert call(own, fresh, session=session)["result"] == "2.0"
    own.delete(f"/sessions/{session}")
    folder = indexed.home / "generations" / str(old["generation"])
    aside = folder.rename(folder.with_name("aside"))
    problem(own.post(f"/functions/{fresh}@1/call", json={}), 409, "version_unavailable")
    aside.rename(folder)
    back = own.post(f"/functions/{fresh}/activate", json={"version": 1}).json()
    assert (back["version"], back["new_generation"]) == (1, True)
    assert back["package_changes"] == {"added": [], "removed": [], "changed": [f"{package}==1.0"]}
    assert (call(own, fresh)["result"], call(own, f"{fresh}@2")["result"]) == ("1.0", "2.0")
    holder = f"{fresh}_holder"
    register(own, reports(holder, package), packages=[f"{package}==1.0"])
    before = picture(own, indexed)
    refused = own.post(f"/functions/{fresh}/activate", json={"version": 2})
    assert problem(refused, 409, "dependency_conflict")["give_way"] == [f"{holder}@1"]
    assert picture(own, indexed) == before


def test_a_session_keeps_its_environment_until_it_is_restarted(own: httpx2.Client, fresh: str, package: str) -> None:
    session: Any = own.post("/sessions").json()
    registered = register(own, reports(fresh, package), packages=[package])
    still = [s["kernel"] for s in own.get("/sessions").json()]
    assert still == [session["kernel"]] != [registered["kernel"]]
    own.post(f"/sessions/{session['id']}/restart")
    answer = call(own, fresh, session=session["id"])
    assert (answer["result"], answer["kernel"]) == ("2.0", registered["kernel"])
    own.delete(f"/sessions/{session['id']}")
