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
from server.functions import read_identifiers
from server.grants import Code, Grant, GrantStore, code_of, granted, not_granted
from server.registry import Event, Registry, State, Version
from server.source_reader import Reader
from server.vault import Secret, Vault

T = TypeVar("T")

_WORD = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True)
class Granted:
    """A secret, and the functions that it names."""

    secret: Secret
    functions: tuple[str, ...]


@dataclass(frozen=True)
class SecretUse:
    """Who has a task done, and whether its kernel does nothing else before or after."""

    caller: Caller
    clean: bool = True


def check_granted(version: str, secrets: Collection[str], vault: Vault) -> None:
    """Raises MissingSecret."""
    missing = sorted(name for name in secrets if name not in vault)
    if missing:
        hint = f"Set it first: PUT /secrets/{missing[0]}, or `aigbb secrets set {missing[0]}`."
        raise MissingSecret(
            f"{version} needs secrets that are not set: {', '.join(missing)}.", hint=hint, secrets=missing
        )


class Secrets:
    """The vault, beside what is registered. state: what serves. reader: starts the process that reads code."""

    def __init__(
        self,
        vault: Vault,
        grants: GrantStore,
        registry: Registry,
        state: Callable[[], State],
        reader: Reader,
    ) -> None:
        self._vault = vault
        self._grants = grants
        self._registry = registry
        self._state = state
        self._reader = reader
        self._seen: tuple[State, Mapping[str, tuple[str, ...]]] = (State(), {})

    # -- for executions

    async def given(self, task: Task, versions: Sequence[Version], use: SecretUse) -> Task:
        """Return the task with the secrets of what it calls; of code, those of the functions that it names.

        Code is given them for callers with the scope secrets:grant only. Raises SecretsLocked; MissingSecret and
        SecretNotGranted where a function is called.
        """
        if versions:
            names, code = self._of_calls(versions)
        elif use.caller.may("secrets:grant"):
            names, code = await self._of_code(task.content.get("code", ""))
        else:
            return task
        if not names:
            return task
        return replace(task, given=Given(self._vault.values(names), tuple(sorted(names)), code, once=use.clean))

    def scrubbed(self, items: AsyncGenerator[tuple[T, Output]]) -> AsyncGenerator[tuple[T, Output]]:
        """An execution's items without any secret that there is or was."""
        return self._vault.scrubber.stream(items) if self._vault.scrubber else items

    def scrub(self, text: str | None) -> str | None:
        """Return a text without any secret that there is or was."""
        return self._vault.scrub(text) if text else text

    def _of_calls(self, versions: Sequence[Version]) -> tuple[set[str], Code]:
        names: set[str] = set()
        code: dict[str, str] = {}
        for version in versions:
            needed, sources = self._of(version)
            check_granted(str(version), needed, self._vault)
            for secret in needed:
                if not self._grants.allows(secret, version.function.name, sources):
                    raise not_granted(
                        f"{version} is not granted the secret {secret} with the source that it has.",
                        Grant(secret, version.function.name, sources),
                    )
            names.update(needed)
            if not self._state().serves(version):
                sources = {n: digest for n, digest in sources.items() if n != version.function.name}
            code |= sources if needed else {}
        return names, code

    async def _of_code(self, code: str) -> tuple[set[str], Code]:
        there = self._granted()
        if not there.keys() & _WORD.findall(code):  # the usual case, which needs no process
            return set(), {}
        functions = [version.function for version in self._state().active.values()]
        names: set[str] = set()
        sources: dict[str, str] = {}
        for function in there.keys() & await read_identifiers(code, self._reader):
            own = code_of(function, functions)
            if allowed := {s for s in there[function] if self._grants.allows(s, function, own)}:
                names |= allowed
                sources |= own
        return names, sources

    def _granted(self) -> Mapping[str, tuple[str, ...]]:
        """By active function."""
        state = self._state()
        if self._seen[0] is not state:
            self._seen = state, granted([version.function for version in state.active.values()])
        return self._seen[1]

    def _of(self, version: Version) -> tuple[tuple[str, ...], Code]:
        """Return what a version needs, and the sources that run when it is called."""
        state, name = self._state(), version.function.name
        if state.serves(version) and name not in self._granted():
            return (), {}
        others = [other.function for other in state.active.values() if other.function.name != name]
        functions = [*others, version.function]
        needed = granted(functions).get(name, ())
        return needed, code_of(name, functions) if needed else {}

    # -- for people

    async def put(
        self, name: str, value: str | None, functions: Sequence[str] | None, caller: Caller
    ) -> tuple[Granted, bool]:
        """Set or replace one, from the next clean kernel on, and the functions that it names; and whether it is new.

        None leaves either as it is. Raises as `Vault.put`, and UnknownSecret for one that has no value yet.
        """
        if value is None:
            secret, is_new = self._vault.find(name), False
        else:
            secret, is_new = await asyncio.to_thread(self._vault.put, name, value)
            await self._record("set_secret", name, caller)
        if functions is not None:
            grants = [self._grant(name, function) for function in sorted(set(functions))]
            await asyncio.to_thread(self._grants.replace, name, grants, caller)
            await self._record("grant_secret", name, caller)
        return self._shown(secret), is_new

    def listed(self) -> list[Granted]:
        """All there are, by name."""
        return [self._shown(secret) for secret in self._vault.stored()]

    async def delete(self, name: str, caller: Caller, *, force: bool = False) -> None:
        """Delete one; force: also one that active functions need. Raises UnknownSecret, SecretInUse."""
        if (users := self._users(name)) and name in self._vault and not force:
            raise SecretInUse(f"{name} is granted to {', '.join(users)}.", users=list(users))
        await asyncio.to_thread(self._vault.remove, name)
        await asyncio.to_thread(self._grants.replace, name, (), caller)
        await self._record("delete_secret", name, caller)

    def _grant(self, secret: str, name: str) -> Grant:
        active = self._state().active
        functions = [version.function for version in active.values()]
        return Grant(secret, name, code_of(name, functions) if name in active else None)

    def _shown(self, secret: Secret) -> Granted:
        return Granted(secret, self._grants.functions(secret.name))

    def _users(self, name: str) -> tuple[str, ...]:
        return tuple(f for f, version in self._state().active.items() if name in version.function.secrets)

    async def _record(self, action: str, name: str, caller: Caller) -> None:
        event = Event(caller.key, caller.request_id, action, name, None, None, "ok", 0.0)
        await asyncio.to_thread(self._registry.record, [event])
