"""Who asks, and what they may do."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from kernels.admission import Owner
from server.errors import Forbidden

Scope = Literal[
    "functions:read",
    "functions:register",
    "packages:install",
    "execute:function",
    "execute:code",
    "chat",
    "approve",
    "secrets:grant",
    "admin",
]
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True)
class Reach:
    """Functions that a key is narrowed to: those of these names, and those with one of these tags; empty: all."""

    names: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def narrow(self) -> bool:
        """Whether there is anything that it leaves out."""
        return bool(self.names or self.tags)

    def covers(self, name: str, tags: Collection[str]) -> bool:
        """Whether a function of this name, with these tags, is within."""
        return not self.narrow or name in self.names or not set(self.tags).isdisjoint(tags)


EVERYTHING = Reach()


@dataclass(frozen=True)
class Caller:
    """The id of a key and of the request, which go into history, and what the key allows.

    The default is the service itself, which may do anything.
    """

    key: str = "service"
    request_id: str = ""
    admin: bool = True
    scopes: frozenset[str] = frozenset()
    reach: Reach = EVERYTHING

    @property
    def owner(self) -> Owner:
        """Whose kernels and sessions are the caller's, to the pool."""
        return Owner(self.key, self.admin)

    def sees(self, owner: str) -> bool:
        """Whether what `owner`, the id of a key, has made may be seen and stopped."""
        return self.admin or owner == self.key

    def may(self, *scopes: Scope) -> bool:
        """Whether one of these scopes is theirs."""
        return self.admin or not self.scopes.isdisjoint(scopes)

    def require(self, *scopes: Scope) -> None:
        """Raises Forbidden, unless one of these scopes is theirs."""
        if not self.may(*scopes):
            wanted = " or ".join(scopes)
            raise Forbidden(
                f"The key {self.key} does not have the scope {wanted}.",
                hint=f"Use a key with {wanted}; `aigbb keys create --scope {scopes[0]}` makes one.",
                scopes=list(scopes),
            )


# Before it is known who asks, and where that does not matter.
NOBODY = Caller(key="", admin=False)
