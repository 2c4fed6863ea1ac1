"""The active functions of one snapshot, as others find and see them. Built once, asked often."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kernels.suggestions import suggestions
from server.errors import FunctionNotFound
from server.operations import components, operations
from server.registry import Version
from server.search import Index


@dataclass(frozen=True)
class Catalog:
    """versions are sorted by name."""

    snapshot: int
    versions: tuple[Version, ...] = ()

    def find(self, q: str | None, tags: Collection[str]) -> list[Version]:
        """Those that a search finds, best first; without one, all of these tags by name."""
        return self._index.search(q, tags)

    def choose(self, tags: Collection[str], names: Collection[str]) -> list[Version]:
        """Those with one of the tags and of these names; empty means any. Raises FunctionNotFound."""
        known = {v.function.name for v in self.versions}
        for name in names:
            if name not in known:
                near = suggestions(name, known, 3, 0.7)
                fix = {"names": near[0]} if near else None
                raise FunctionNotFound(f"There is no function {name[:80]!r}.", fix=fix, suggestions=near)
        chosen = [v for v in self.versions if not names or v.function.name in names]
        return [v for v in chosen if not tags or not set(tags).isdisjoint(v.function.tags)]

    @cached_property
    def paths(self) -> dict[str, Any]:
        """An OpenAPI operation for each function, by path."""
        return operations(self.versions, "#/components/schemas/CallAnswer")

    @cached_property
    def components(self) -> dict[str, Any]:
        """What those operations refer to, by name."""
        return components(self.versions)

    @cached_property
    def _index(self) -> Index:
        return Index.of(self.versions)
