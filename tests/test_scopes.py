"""What each route asks of a key: the table is held against the application's own list of routes, and over HTTP."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import httpx2
import pytest
from fastapi.routing import iter_route_contexts

from server.api import create_app
from server.auth import HEALTH
from server.callers import EVERYTHING, SCOPES, Caller, Reach
from server.errors import AigbbError, Forbidden, MethodNotAllowed, RouteNotFound
from server.scopes import TABLE, WHOLE, Scopes
from server.settings import Settings
from tests.conftest import Server, running_server
from tests.doors import EVENTS, problem

Row = tuple[str, str]


def routes_of_the_application() -> set[Row]:
    """Method and path of every route that there is, parameters as in the table; HEAD goes with GET."""
    app = create_app(MagicMock(settings=Settings()))  # nothing of it is asked before a request comes
    found = set()
    for route in iter_route_contexts(app.routes):
        path = re.sub(r"{\w+}", "{}", str(route.path))
        methods = route.methods or {"GET"}
        found |= {(method, path if route.methods else f"{path}/{{*}}") for method in methods - {"HEAD"}}
    return found - {("GET", HEALTH)}


ROUTES = sorted(routes_of_the_application())


def test_every_route_has_its_row_in_server_scopes_and_no_row_is_left_over() -> None:
    assert set(ROUTES) == TABLE.keys()
    assert {path for _, path in TABLE} >= WHOLE


def path_of(path: str) -> str:
    """A path that a row is about."""
    return path.replace("{*}", "x").replace("{}", "x")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Server]:
    """A service that wrong keys may be sent to as often as one likes."""
    folder = tmp_path_factory.mktemp("scopes")
    with running_server(folder, cache, shipped=True, guess_rate="-") as started:
        yield started


@pytest.mark.parametrize("headers", [{}, EVENTS], ids=["json", "events"])
@pytest.mark.parametrize(
    ("method", "path"), [*ROUTES, ("HEAD", "/functions"), ("OPTIONS", "/chat"), ("GET", "/nothing")]
)
def test_no_route_answers_without_a_key(server: Server, method: str, path: str, headers: dict[str, str]) -> None:
    with httpx2.Client(base_url=server.url) as stranger:
        for sent in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": f"token={server.token}"}):
            answer = stranger.request(method, path_of(path), headers={**headers, **sent})
            assert answer.status_code == 401
            assert "WWW-Authenticate" in answer.headers
            assert "set-cookie" not in answer.headers


@pytest.fixture(scope="module")
def keys(server: Server) -> Iterator[Callable[..., httpx2.Client]]:
    """Clients with keys of these rights, which are revoked afterwards."""
    made: dict[str, httpx2.Client] = {}
    with server.client() as admin, ExitStack() as stack:

        def client(*scopes: str, **more: Any) -> httpx2.Client:
            name = f"{scopes} {more}"
            if name not in made:
                answer = admin.post("/keys", json={"name": name[:80], "scopes": scopes, **more})
                assert answer.status_code == 201, answer.text
                stack.callback(admin.delete, f"/keys/{answer.json()['id']}")
                made[name] = stack.enter_context(server.client(answer.json()["key"]))
            return made[name]

        yield client


@pytest.mark.parametrize(("method", "path"), [row for row in ROUTES if TABLE.get(row)])
def test_a_key_without_the_scope_is_refused(keys: Callable[..., httpx2.Client], method: str, path: str) -> None:
    wanted = TABLE[method, path]
    others = [scope for scope in SCOPES if scope not in (*wanted, "admin")]
    for headers in ({}, EVENTS):
        answer = keys(*others).request(method, path_of(path), headers=headers)
        assert answer.status_code == 403
        if path.startswith("/v1/"):
            assert answer.json()["error"]["code"] == "forbidden"
            continue
        body = problem(answer, 403, "forbidden")
        assert body["scopes"] == list(wanted)
        assert wanted[0] in body["hint"]


@pytest.mark.parametrize(
    ("method", "path"), [row for row, wanted in TABLE.items() if "admin" not in wanted and row[1] != "/sync"]
)
def test_a_key_with_one_of_the_scopes_passes(keys: Callable[..., httpx2.Client], method: str, path: str) -> None:
    """It gets whatever the route says of an empty request, or of something that is not there."""
    for scope in TABLE[method, path] or ("chat",):
        assert keys(scope).request(method, path_of(path)).status_code not in (401, 403, 405)


def test_what_is_not_in_the_table_is_for_admins_only(keys: Callable[..., httpx2.Client], client: httpx2.Client) -> None:
    one = keys("functions:read")
    problem(one.get("/nothing"), 404, "not_found")
    problem(one.get("/functions/"), 404, "not_found")
    answer = one.put("/functions")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET"
    assert one.head("/docs").status_code == client.head("/docs").status_code
    problem(client.get("/nothing"), 404, "not_found")
    assert client.put("/functions").status_code == 405


@pytest.mark.parametrize("name", ["token", "key", "api_key", "access_token", "Token"])
def test_a_key_in_a_url_is_refused_even_if_it_is_right(server: Server, client: httpx2.Client, name: str) -> None:
    for path in ("/functions", "/healthz", "/v1/models"):
        answer = client.get(path, params={name: server.token})
        assert answer.status_code == 400
        assert server.token not in answer.text
    body = problem(client.get("/functions", params={name: ""}), 400, "key_in_url")
    assert "Authorization" in body["hint"]


# -- the table by itself


def asks(method: str, path: str, *scopes: str, reach: Reach = EVERYTHING) -> type[AigbbError] | None:
    """How a caller with these scopes is refused."""
    try:
        Scopes().check(method, path, Caller("k", "r", admin=False, scopes=frozenset(scopes), reach=reach))
    except AigbbError as error:
        return type(error)
    return None


def test_one_of_the_scopes_is_enough() -> None:
    assert asks("POST", "/execute", "execute:code") is None
    assert asks("POST", "/execute", "execute:function", "chat", "functions:register") is Forbidden
    assert asks("GET", "/sessions", "chat") is None
    assert asks("HEAD", "/functions", "functions:read") is None
    assert asks("POST", "/functions/f/call", "execute:function") is None


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/functions//call", RouteNotFound),
        ("/functions/f/call/", RouteNotFound),
        ("/functions/f/call\n", RouteNotFound),
        ("//functions", RouteNotFound),
        ("/static-offline-docs/a/b", MethodNotAllowed),
        ("/static-offline-docs", RouteNotFound),
    ],
)
def test_paths_that_are_nearly_those_of_a_route_pass_nobody(path: str, found: type[AigbbError]) -> None:
    assert asks("POST", path, *SCOPES[:-1]) is found


def test_a_narrowed_key_does_not_hear_of_all_functions() -> None:
    reach = Reach(names=("f",))
    assert {path for path in WHOLE if asks("GET", path, "functions:read", reach=reach) is not Forbidden} == set()
    assert asks("GET", "/functions", "functions:read", reach=reach) is None


def test_a_table_of_ones_own_is_held_too() -> None:
    table: Mapping[Row, Any] = {("GET", "/a/{}/b/{*}"): ("chat",)}
    who = Caller("k", "r", admin=False, scopes=frozenset({"chat"}))
    Scopes(table).check("GET", "/a/x/b/c/d", who)
    with pytest.raises(RouteNotFound):
        Scopes(table).check("GET", "/a/x/c/d", who)
