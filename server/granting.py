"""Secrets and whom they are granted to: what each task is given, and what is scrubbed from what comes of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from kernels.outputs import Output
from kernels.tasks import Given, Task
from server.callers import Caller
from server.errors import MissingSecret, SecretInUse
from server.functions import Function
from server.registry import Event, Registry, State, Version
from server.snapshots import PACKAGE
from server.vault import Secret, Vault

T = TypeVar("T")

_WORD = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True)
class Granted:
    """A secret, and the active functions that it is granted to by name."""

    secret: Secret
    functions: tuple[str, ...]


def granted(functions: Collection[Function]) -> dict[str, tuple[str, ...]]:
    """The secrets of each function that has any: its own, and those of functions that its file names and so may use."""
    found = {f.name: set(f.secrets) for f in functions if f.secrets}
    if not found:
        return {}
    names = {f.name for f in functions}
    users = {f.name: names.intersection(_WORD.findall(f.source)) for f in functions if PACKAGE in f.source}
    grows = True
    while grows:
        grows = False
        for name, used in users.items():
            more = {secret for other in used for secret in found.get(other, ())} - found.get(name, set())
            if more:
                found.setdefault(name, set()).update(more)
                grows = True
    return {name: tuple(sorted(secrets)) for name, secrets in found.items()}


def check_granted(version: str, secrets: Collection[str], vault: Vault) -> None:
    """Raises MissingSecret."""
    missing = sorted(name for name in secrets if name not in vault)
    if missing:
        hint = f"Set it first: PUT /secrets/{missing[0]}, or `aigbb secrets set {missing[0]}`."
        raise MissingSecret(
            f"{version} needs secrets that are not set: {', '.join(missing)}.", hint=hint, secrets=missing
        )


class Secrets:
    """The vault, beside what is registered. state: what serves."""

    def __init__(self, vault: Vault, registry: Registry, state: Callable[[], State]) -> None:
        self._vault = vault
        self._registry = registry
        self._state = state
        self._seen: tuple[State, Mapping[str, tuple[str, ...]]] = (State(), {})

    # -- for executions

    def given(self, task: Task, versions: Sequence[Version]) -> Task:
        """The task with the secrets of what it calls; of code, those of active functions that it has as words.

        Raises SecretsLocked, and MissingSecret where a function is called that has none.
        """
        if versions:
            names = {secret for version in versions for secret in self._of(version)}
            check_granted(str(versions[0]), names, self._vault)
        elif there := self._granted():
            names = {s for word in there.keys() & _WORD.findall(task.content.get("code", "")) for s in there[word]}
        else:
            return task
        return replace(task, given=Given(self._vault.values(names), tuple(sorted(names)))) if names else task

    def scrubbed(self, items: AsyncGenerator[tuple[T, Output]]) -> AsyncGenerator[tuple[T, Output]]:
        """An execution's items without any secret that there is or was."""
        return self._vault.scrubber.stream(items) if self._vault.scrubber else items

    def _granted(self) -> Mapping[str, tuple[str, ...]]:
        """By active function."""
        state = self._state()
        if self._seen[0] is not state:
            self._seen = state, granted([version.function for version in state.active.values()])
        return self._seen[1]

    def _of(self, version: Version) -> tuple[str, ...]:
        state, name = self._state(), version.function.name
        if state.serves(version):
            return self._granted().get(name, ())
        others = [other.function for other in state.active.values() if other.function.name != name]
        return granted([*others, version.function]).get(name, ())

    # -- for people

    async def put(self, name: str, value: str, caller: Caller) -> tuple[Granted, bool]:
        """Set or replace one, from the next clean kernel on; and whether it is new. Raises as `Vault.put`."""
        secret, is_new = await asyncio.to_thread(self._vault.put, name, value)
        await self._record("set_secret", name, caller)
        return Granted(secret, self._users(name)), is_new

    def listed(self) -> list[Granted]:
        """All there are, by name."""
        return [Granted(secret, self._users(secret.name)) for secret in self._vault.stored()]

    async def delete(self, name: str, caller: Caller, *, force: bool = False) -> None:
        """Delete one; force: also one that active functions need. Raises UnknownSecret, SecretInUse."""
        if (users := self._users(name)) and name in self._vault and not force:
            raise SecretInUse(f"{name} is granted to {', '.join(users)}.", users=list(users))
        await asyncio.to_thread(self._vault.remove, name)
        await self._record("delete_secret", name, caller)

    def _users(self, name: str) -> tuple[str, ...]:
        return tuple(f for f, version in self._state().active.items() if name in version.function.secrets)

    async def _record(self, action: str, name: str, caller: Caller) -> None:
        event = Event(caller.key, caller.request_id, action, name, None, None, "ok", 0.0)
        await asyncio.to_thread(self._registry.record, [event])
