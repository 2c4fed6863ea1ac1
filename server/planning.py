"""What a change asks of the environment: the one that serves will do, or which new one is needed."""

from __future__ import annotations

import asyncio
import json
import platform
from collections.abc import Collection
from dataclasses import dataclass, replace

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kernels import packages
from kernels.environments import Environments
from kernels.errors import DependencyConflict, ResolveError
from kernels.progress import Report
from server.registry import GenerationRow, Registry, State, moment
from server.snapshots import Projection

DEFAULT_PACKAGES = "(default packages)"
OWN_PACKAGES = "(extra-requirements.txt)"


@dataclass(frozen=True)
class Plan:
    """What a change needs of the environment, and where its lock came from: kept, cache or index.

    renewed: it is new, and has the packages of the one that served: that one has lost files.
    """

    row: GenerationRow
    resolution: str
    is_new: bool
    renewed: bool = False


@dataclass(frozen=True)
class Planner:
    """Resolves the packages of all functions together, and numbers new generations."""

    environments: Environments
    registry: Registry
    projection: Projection

    async def plan(self, after: State, row: GenerationRow | None, changed: Collection[str], report: Report) -> Plan:
        """Keep the generation `row` if all that is asked for was asked for when it was made; else resolve.

        changed names the functions that the change is about. Raises InvalidRequirement for what people wrote
        into extra-requirements.txt, and ResolveError's children, which say which versions ask for what.
        """
        owners = await asyncio.to_thread(self._owners, after)
        if row is not None and _covers(row.inputs, owners):
            return Plan(row, "kept", is_new=False)
        try:
            resolved = await self.environments.uv.resolve(owners, row.lock if row else None, report)
        except ResolveError as error:
            _name_versions(error, after, changed)
            raise
        inputs = json.dumps([platform.python_version(), *sorted(owners)])
        if row is not None and row.lock.digest == resolved.lock.digest:
            return Plan(replace(row, inputs=inputs), resolved.source, is_new=False)
        number = await asyncio.to_thread(self._next_number)
        return Plan(GenerationRow(number, resolved.lock, inputs, moment()), resolved.source, is_new=True)

    def renewed(self, plan: Plan) -> Plan:
        """Return the plan with a new environment in place of the one that it keeps."""
        return replace(plan, row=replace(plan.row, number=self._next_number()), is_new=True, renewed=True)

    def fits(self, state: State) -> bool:
        """Whether the state's generation was made for all that is asked for now. Raises InvalidRequirement."""
        return state.generation is not None and _covers(state.generation.inputs, self._owners(state))

    def _owners(self, state: State) -> dict[str, list[str]]:
        """Every requirement with those who ask for it."""
        owners: dict[str, list[str]] = {}
        lines = packages.DEFAULT_REQUIREMENTS.read_text(encoding="utf-8").splitlines()
        for requirement in packages.parse_requirements(lines):
            owners.setdefault(requirement, []).append(DEFAULT_PACKAGES)
        for requirement in self.projection.own_requirements():
            owners.setdefault(requirement, []).append(OWN_PACKAGES)
        for version in state.active.values():
            for requirement in version.function.packages:
                owners.setdefault(requirement, []).append(version.function.name)
        return owners

    def _next_number(self) -> int:
        committed = (row.number for row in self.registry.generations())
        return max([0, *self.environments.numbers(), *committed]) + 1


def _name_versions(error: ResolveError, after: State, changed: Collection[str]) -> None:
    """Say which versions ask for what, and of a conflict which registered ones would have to give way."""
    wanted = {r for name in changed if name in after.active for r in after.active[name].function.packages}
    give_way: set[str] = set()
    for asked in error.extra.get("requirements", ()):
        versions = [after.active[name] for name in asked["functions"] if name in after.active]
        asked["versions"] = [str(v) for v in versions]
        if not _fits(asked["requirement"], wanted):
            give_way |= {str(v) for v in versions if v.function.name not in changed}
    if isinstance(error, DependencyConflict):
        error.extra["give_way"] = sorted(give_way)


def _fits(requirement: str, wanted: Collection[str]) -> bool:
    """Whether a requirement can stay beside what is wanted: it takes any version, or the very one that is pinned."""
    mine = Requirement(requirement)
    others = [r for r in map(Requirement, wanted) if canonicalize_name(r.name) == canonicalize_name(mine.name)]
    pins = [s.version for r in others for s in r.specifier if s.operator == "==" and not s.version.endswith("*")]
    return not mine.specifier or any(mine.specifier.contains(pin, prereleases=True) for pin in pins)


def _covers(inputs: str, owners: Collection[str]) -> bool:
    python, *requirements = json.loads(inputs)
    return python == platform.python_version() and set(owners) <= set(requirements)
