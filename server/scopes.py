"""What each route asks of a key: one table, which the gate holds every request against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from server.callers import Caller, Scope
from server.errors import Forbidden, MethodNotAllowed, RouteNotFound

# Any key may read how to ask.
_ANY: tuple[Scope, ...] = ()
_READ: tuple[Scope, ...] = ("functions:read",)
_FIND: tuple[Scope, ...] = ("functions:read", "execute:function")
_REGISTER: tuple[Scope, ...] = ("functions:register",)
_RUN: tuple[Scope, ...] = ("execute:function", "execute:code", "chat")
_CHAT: tuple[Scope, ...] = ("chat",)
_WAITING: tuple[Scope, ...] = ("chat", "execute:function", "approve")
_DECIDE: tuple[Scope, ...] = ("approve",)
_SECRETS: tuple[Scope, ...] = ("secrets:grant",)
_ADMIN: tuple[Scope, ...] = ("admin",)

# One of the scopes is enough; the scope admin always is. `{}` is one part of a path, `{*}` is all that follows.
TABLE: Mapping[tuple[str, str], tuple[Scope, ...]] = {
    ("GET", "/"): _ANY,
    ("GET", "/docs"): _ANY,
    ("GET", "/docs/oauth2-redirect"): _ANY,
    ("GET", "/openapi.json"): _ANY,
    ("GET", "/static-offline-docs/{*}"): _ANY,
    ("POST", "/execute"): ("execute:code",),
    ("POST", "/functions/{}/call"): ("execute:function",),
    ("POST", "/tools/run"): ("execute:function",),
    ("GET", "/executions"): _RUN,
    ("GET", "/executions/{}"): _RUN,
    ("POST", "/executions/{}/cancel"): _RUN,
    ("GET", "/results/{}"): _RUN,
    ("POST", "/sessions"): _RUN,
    ("GET", "/sessions"): _RUN,
    ("POST", "/sessions/{}/interrupt"): _RUN,
    ("POST", "/sessions/{}/restart"): _RUN,
    ("DELETE", "/sessions/{}"): _RUN,
    ("GET", "/functions"): _FIND,
    ("GET", "/functions/{}"): _READ,
    ("GET", "/functions/{}/snippets"): _FIND,
    ("GET", "/postman_collection.json"): _FIND,
    ("GET", "/functions/{}/versions"): _READ,
    ("GET", "/functions/{}/versions/{}"): _READ,
    ("GET", "/functions/{}/versions/{}/diff"): _READ,
    ("GET", "/tools"): _FIND,
    ("GET", "/kernels"): _READ,
    ("GET", "/history"): _READ,
    ("GET", "/metrics"): _READ,
    ("POST", "/register"): _REGISTER,
    ("POST", "/register/batch"): _REGISTER,
    ("POST", "/functions/{}/activate"): _REGISTER,
    ("DELETE", "/functions/{}"): _REGISTER,
    ("POST", "/sync"): _REGISTER,
    ("POST", "/chat"): _CHAT,
    ("GET", "/v1/models"): _CHAT,
    ("POST", "/v1/chat/completions"): _CHAT,
    ("GET", "/conversations"): _CHAT,
    ("GET", "/conversations/{}"): _CHAT,
    ("DELETE", "/conversations/{}"): _CHAT,
    ("GET", "/approvals"): _WAITING,
    ("GET", "/approvals/{}"): _WAITING,
    ("POST", "/approvals/{}"): _DECIDE,
    ("GET", "/keys"): _ADMIN,
    ("POST", "/keys"): _ADMIN,
    ("DELETE", "/keys/{}"): _ADMIN,
    ("POST", "/keys/{}/rotate"): _ADMIN,
    ("GET", "/audit"): _ADMIN,
    ("GET", "/secrets"): _SECRETS,
    ("PUT", "/secrets/{}"): _SECRETS,
    ("DELETE", "/secrets/{}"): _SECRETS,
}
# These tell of all functions, so they are not for a key that is narrowed to some.
WHOLE = frozenset({"/kernels", "/history", "/metrics"})


@dataclass(frozen=True)
class _Row:
    parts: tuple[str, ...]
    scopes: tuple[Scope, ...]
    whole: bool

    def matches(self, parts: list[str]) -> bool:
        """Whether a path is meant, by its parts."""
        own = self.parts
        if own[-1] == "{*}":
            own, parts = own[:-1], parts[: len(own) - 1] if len(parts) >= len(own) else []
        return len(parts) == len(own) and all(
            mine == part or (mine == "{}" and part) for mine, part in zip(own, parts, strict=True)
        )


class Scopes:
    """Says whether a caller may send a request. Routes that are not in the table are for admins only."""

    def __init__(self, table: Mapping[tuple[str, str], tuple[Scope, ...]] = TABLE) -> None:
        rows = {key: _Row(tuple(key[1].split("/")), scopes, key[1] in WHOLE) for key, scopes in table.items()}
        self._plain = {key: row for key, row in rows.items() if "{" not in key[1]}
        self._others: dict[str, list[_Row]] = {}
        for (method, path), row in rows.items():
            if "{" in path:
                self._others.setdefault(method, []).append(row)

    def check(self, method: str, path: str, caller: Caller) -> None:
        """Raises Forbidden; RouteNotFound and MethodNotAllowed for what is not in the table, unless for an admin."""
        if caller.admin:
            return
        row = self._row("GET" if method == "HEAD" else method, path)
        if row is None:
            if allowed := self.methods(path):
                raise MethodNotAllowed(f"This path does not take {method[:20]}.", allow=allowed)
            raise RouteNotFound("There is nothing at this path.")
        if row.scopes:
            caller.require(*row.scopes)
        if row.whole and caller.reach.narrow:
            hint = "Use a key that is not narrowed to functions."
            raise Forbidden(f"The key {caller.key} is narrowed to some functions; this is about all.", hint=hint)

    def methods(self, path: str) -> list[str]:
        """What the table has for a path."""
        known = {method for method, plain in self._plain if plain == path}
        return sorted(known | {method for method in self._others if self._row(method, path)})

    def _row(self, method: str, path: str) -> _Row | None:
        if (row := self._plain.get((method, path))) is not None:
            return row
        parts = path.split("/")
        return next((row for row in self._others.get(method, ()) if row.matches(parts)), None)
