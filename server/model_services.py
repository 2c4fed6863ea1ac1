"""Model services that a request may name: only those that the settings list, for all but admins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import httpx2

from server.callers import Caller
from server.errors import Forbidden

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class ServiceAddress:
    """An address in its one spelling: scheme, host, port and the segments of its path."""

    scheme: str
    host: str
    port: int
    path: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a base URL as the client that uses it does. Raises ValueError for what could be read in two ways."""
        if any(sign <= " " or sign in "\\%\x7f" for sign in text):
            raise ValueError("it holds spaces, control characters, a backslash or %")
        try:
            url = httpx2.URL(text)
            host, port = url.raw_host.decode("ascii").lower().removesuffix("."), url.port
        except (httpx2.InvalidURL, ValueError) as error:
            raise ValueError(f"it is no URL: {error}") from error
        if url.scheme not in _PORTS or not host or url.userinfo or url.query or url.fragment or "@" in text:
            raise ValueError("it is not http(s)://HOST[:PORT][/PATH], without user, query and fragment")
        path = tuple(url.path.strip("/").split("/")) if url.path.strip("/") else ()
        if not {"", ".", ".."}.isdisjoint(path) or {"?", "#"} & set(text):
            raise ValueError("its path has empty segments, or dots for one")
        return cls(url.scheme, host, port or _PORTS[url.scheme], path)

    def covers(self, other: ServiceAddress) -> bool:
        """Whether another address is at the same origin, with a path that begins with the segments of this one."""
        same = (self.scheme, self.host, self.port) == (other.scheme, other.host, other.port)
        return same and other.path[: len(self.path)] == self.path

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


def check_service(base_url: str, allowed: Sequence[str], caller: Caller) -> None:
    """Check that a caller may send a request's messages to a model service. Raises Forbidden."""
    if caller.admin:
        return
    hint = "Have an admin add it to AIGBB_MODEL_SERVICES, or leave `service` out: then the configured service is used."
    try:
        wanted = ServiceAddress.parse(base_url)
    except ValueError as error:
        raise Forbidden(f"The base URL of `service` is not allowed: {error}.", hint=hint) from error
    if not any(ServiceAddress.parse(one).covers(wanted) for one in allowed):
        raise Forbidden(f"The model service at {str(wanted)[:200]} is not in AIGBB_MODEL_SERVICES.", hint=hint)
