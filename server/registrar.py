"""Registration: what may change, one change at a time, and what history keeps of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Self

from kernels.errors import AigbbError, InsufficientStorage
from kernels.pool import LATER
from kernels.progress import Report
from kernels.standby import Standby
from kernels.suggestions import suggestions
from server.callers import Caller
from server.changing import Applied, Change, Changer, Serving
from server.errors import FunctionNotFound, MissingEnv, NameClash, StaleVersion, UnknownVersion
from server.functions import Draft, Function, Parsed, Warn, parse_all
from server.granting import check_granted
from server.observing import LEFT, Changed, Clock, Observer
from server.registry import Event, Registry, State, Version
from server.source_reader import Reader
from server.variables import merged
from server.vault import Vault


@dataclass(frozen=True)
class Wanted:
    """A draft, and under which conditions it may be registered.

    if_match is the digest, `sha256:...`, that the active version must have. on_conflict: error refuses a name
    that is taken by another source.
    """

    draft: Draft
    on_conflict: str = "new_version"
    if_match: str | None = None


@dataclass(frozen=True)
class Registered:
    """What a registration did. packages: added, removed, changed; timings in milliseconds by stage."""

    version: Version
    serving: Serving
    unchanged: bool = False
    dry_run: bool = False
    new_generation: bool = False
    resolution: str = "kept"
    packages: Mapping[str, list[str]] = field(default_factory=dict)
    warnings: tuple[Warn, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Synced:
    """What became of the files in the functions' folder: those registered, and why others were not, by file."""

    registered: Sequence[Registered]
    failures: Mapping[str, AigbbError]


class Registrar:
    """Changes what serves, one change at a time, and answers what there is. `async with` it."""

    def __init__(
        self,
        changer: Changer,
        registry: Registry,
        observer: Observer,
        vault: Vault,
        reader: Reader,
    ) -> None:
        self._changer = changer
        self._registry = registry
        self._observer = observer
        self._vault = vault
        self._reader = reader
        self._readers = Standby(reader)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._readers.__aexit__()

    @asynccontextmanager
    async def _ready_again(self) -> AsyncIterator[None]:
        """Afterwards, start the processes that the next change will ask."""
        try:
            yield
        finally:
            self._readers.refill(LATER)
            if self._changer.serves:
                self._changer.refill()

    @property
    def serving(self) -> Serving:
        """What serves now."""
        return self._changer.serving

    # -- what it does

    async def register(
        self, wanted: Sequence[Wanted], caller: Caller, report: Report, *, dry_run: bool = False
    ) -> list[Registered]:
        """Register functions, all of them or none. Raises what a draft, its packages or its import deserve."""
        clock, action = Clock(), "register"
        names = [w.draft.name for w in wanted]
        async with self._ready_again(), self._audited(action, names, caller, clock, kept=not dry_run):
            with clock.stage("parse"):
                parsed = _all_or_raise(await parse_all([w.draft for w in wanted], self._readers.take), names)
            names[:] = [p.function.name for p in parsed]
            async with self._changer.turn:
                for one, w in zip(parsed, wanted, strict=True):
                    _check_conditions(one.function, w, self.serving.state)
                    check_granted(one.function.name, one.function.secrets, self._vault)
                _check_twins([p.function.name for p in parsed])
                new = [p for p, w in zip(parsed, wanted, strict=True) if not self._is_same(p.function, w.draft.env)]
                env = merged(w.draft.env for w in wanted)
                before = self.serving
                applied = None
                if new:
                    listed = ", ".join(p.function.name for p in new)
                    events = self._events(action, caller, clock)
                    change = Change(f"{action} {listed}", new, env=env, events=events, caller=caller)
                    applied = await self._changer.apply(change, report, clock, dry_run=dry_run)
                await self._record_unchanged([p for p in parsed if p not in new], caller, clock, kept=not dry_run)
                return [self._registered(p, applied, before, clock, dry_run=dry_run) for p in parsed]

    async def activate(
        self, name: str, number: int, env: Mapping[str, str], caller: Caller, report: Report
    ) -> Registered:
        """Have an older version serve again, also of a function that was deleted: the pointer moves.

        env holds values for variables of it that are not kept any more. Raises FunctionNotFound,
        UnknownVersion, MissingEnv, MissingSecret, and what its packages or its import deserve.
        """
        clock, action = Clock(), "activate"
        async with self._ready_again(), self._audited(action, [name], caller, clock), self._changer.turn:
            before = self.serving
            version = await self.version(name, number, caller)
            if before.state.serves(version) and not env:
                await self._record([self._event(action, caller, clock, version, "unchanged")])
                return Registered(version, before, unchanged=True)
            _check_case(name, before.state)
            _check_variables(version, {**before.state.variables, **env})
            check_granted(str(version), version.function.secrets, self._vault)
            events = self._events(action, caller, clock)
            change = Change(f"{action} {version}", activated=[version], env=env, events=events, caller=caller)
            applied = await self._changer.apply(change, report, clock)
            return self._result(version, applied, before, (), clock)

    async def delete(self, name: str, caller: Caller, report: Report) -> None:
        """Take a function out of service; its versions stay. Raises FunctionNotFound, WouldBreak."""
        clock, action = Clock(), "delete"
        async with self._ready_again(), self._audited(action, [name], caller, clock), self._changer.turn:
            version = find(self.serving.state.active, name)
            change = Change(
                f"{action} {name}",
                removed=[name],
                caller=caller,
                events=lambda _: [self._event(action, caller, clock, version, "ok")],
            )
            await self._changer.apply(change, report, clock)

    # -- the functions' folder

    async def start(self, report: Report) -> Synced:
        """Find or build what served last, then take over what changed in the functions' folder.

        Raises AigbbError when nothing can serve.
        """
        async with self._ready_again(), self._changer.turn:
            await self._changer.resume(await asyncio.to_thread(self._registry.state), report)
            return await self._take_over(Caller(), report)

    async def sync(self, caller: Caller, report: Report) -> Synced:
        """Register the files that are new or were edited since; one that is bad is left alone, and reported."""
        async with self._ready_again(), self._changer.turn:
            return await self._take_over(caller, report)

    async def _take_over(self, caller: Caller, report: Report) -> Synced:
        """All files together, or one by one if that fails, so that one harms no other."""
        state = self._changer.serving.state if self._changer.serves else State()
        parsed, failures = await self._parse_files(state, caller)
        try:
            if not parsed and self._changer.serves and await asyncio.to_thread(self._changer.fits, state):
                return Synced((), failures)
            return Synced(await self._apply_files(parsed, caller, report), failures)
        except AigbbError as error:
            if not parsed and not self._changer.serves:
                raise
            if not parsed:
                return Synced((), {**failures, "extra-requirements.txt": error})
        if not self._changer.serves:
            await self._apply_files([], caller, report)
        done: list[Registered] = []
        for one in parsed:
            try:
                done += await self._apply_files([one], caller, report)
            except AigbbError as error:
                failures[f"{one.function.name}.py"] = error
                await self._record_failure("sync", [one.function.name], caller, Clock(), error)
        return Synced(done, failures)

    async def _apply_files(self, parsed: Sequence[Parsed], caller: Caller, report: Report) -> list[Registered]:
        clock = Clock()
        before = self._changer.serving if self._changer.serves else None
        events = self._events("sync", caller, clock)
        change = Change("sync", parsed, events=events, caller=caller)
        with self._told("sync", [p.function.name for p in parsed], clock):
            applied = await self._changer.apply(change, report, clock)
        return [self._registered(p, applied, before, clock, dry_run=False) for p in parsed]

    async def _parse_files(self, state: State, caller: Caller) -> tuple[list[Parsed], dict[str, AigbbError]]:
        functions = {name: version.function for name, version in state.active.items()}
        projected = await asyncio.to_thread(self._registry.projected)
        names = await asyncio.to_thread(self._changer.projection.edited, functions, projected)
        parsed, failures = [], {}
        files = await asyncio.to_thread(self._changer.projection.drafts, names)
        drafts = {name: _with_env(draft, state) for name, draft in files.items() if isinstance(draft, Draft)}
        read = dict(zip(drafts, await parse_all(list(drafts.values()), self._reader), strict=True))
        for name, file in files.items():
            try:
                one = _or_raise(read[name] if isinstance(file, Draft) else file)
                _check_case(one.function.name, state)
                check_granted(one.function.name, one.function.secrets, self._vault)
                parsed.append(one)
            except AigbbError as error:
                failures[f"{name}.py"] = error
                await self._record_failure("sync", [name], caller, Clock(), error)
        return parsed, failures

    # -- what there is

    def find(self, name: str, caller: Caller) -> Version:
        """An active version, of a function that the caller may know of. Raises FunctionNotFound."""
        return find(self.serving.state.seen_by(caller).active, name)

    async def versions(self, name: str, caller: Caller) -> list[Version]:
        """Every version of a function, newest first, deleted or not. Raises FunctionNotFound."""
        self._check_reach(name, caller)
        versions = await asyncio.to_thread(self._registry.versions, name)
        return versions or [self.find(name, caller)]

    async def version(self, name: str, number: int, caller: Caller) -> Version:
        """One version. Raises FunctionNotFound, UnknownVersion."""
        self._check_reach(name, caller)
        version = await asyncio.to_thread(self._registry.version, name, number)
        if version is None:
            there = [v.number for v in await self.versions(name, caller)]
            raise UnknownVersion(f"{name} has no version {number}.", fix={"version": there[0]}, versions=there)
        return version

    def _check_reach(self, name: str, caller: Caller) -> None:
        """A function's tags are those of its active version: a deleted one is reached by its name only."""
        active = self.serving.state.active.get(name)
        if not caller.reach.covers(name, active.function.tags if active else ()):
            self.find(name, caller)

    # -- results

    def _registered(
        self, parsed: Parsed, applied: Applied | None, before: Serving | None, clock: Clock, *, dry_run: bool
    ) -> Registered:
        name = parsed.function.name
        version = next((v for v in (applied.versions if applied else ()) if v.function.name == name), None)
        if version is None or applied is None:
            kept = self.serving.state.active[name]
            return Registered(kept, self.serving, unchanged=True, dry_run=dry_run, warnings=parsed.warnings)
        result = self._result(version, applied, before, parsed.warnings, clock)
        return replace(result, dry_run=dry_run)

    def _result(
        self, version: Version, applied: Applied, before: Serving | None, warnings: Sequence[Warn], clock: Clock
    ) -> Registered:
        found = (*applied.warnings.get(version.function.name, ()), *applied.warnings.get("", ()))
        return Registered(
            version,
            self.serving,
            new_generation=applied.plan.is_new,
            resolution=applied.plan.resolution,
            packages=applied.plan.row.lock.changes(before.generation.lock if before else None),
            warnings=(*warnings, *found),
            timings_ms=dict(clock.timings),
        )

    def _is_same(self, function: Function, env: Mapping[str, str]) -> bool:
        active = self.serving.state.active.get(function.name)
        variables = self.serving.state.variables
        return (
            active is not None
            and active.function.digest == function.digest
            and all(variables.get(name) == value for name, value in env.items())
        )

    # -- history

    def _event(
        self, action: str, caller: Caller, clock: Clock, version: Version | None, outcome: str, name: str | None = None
    ) -> Event:
        return Event(
            key=caller.key,
            request_id=caller.request_id,
            action=action,
            name=version.function.name if version else name,
            version=version.number if version else None,
            digest=version.function.digest if version else None,
            outcome=outcome,
            duration_ms=clock.total,
        )

    def _events(self, action: str, caller: Caller, clock: Clock) -> Callable[[Sequence[Version]], list[Event]]:
        return lambda versions: [self._event(action, caller, clock, v, "ok") for v in versions]

    @asynccontextmanager
    async def _audited(
        self, action: str, names: Sequence[str | None], caller: Caller, clock: Clock, *, kept: bool = True
    ) -> AsyncIterator[None]:
        """Put a refusal into history; what went well is put there by its commit. Tell of either."""
        try:
            with self._told(action if kept else "dry_run", names, clock):
                yield
        except AigbbError as error:
            if kept:
                await self._record_failure(action, names, caller, clock, error)
            raise

    @contextmanager
    def _told(self, action: str, names: Sequence[str | None], clock: Clock) -> Iterator[None]:
        """Tell the observer what became of a change."""
        outcome = LEFT
        try:
            yield
            outcome = "ok" if any(stage.name == "resolve" for stage in clock.stages) else "unchanged"
        except AigbbError as error:
            outcome = error.code
            raise
        finally:
            functions, now = tuple(name for name in names if name), time.perf_counter()
            event = Changed(action, outcome, functions, clock.started, now, tuple(clock.stages))
            self._observer.note(event)

    async def _record_failure(
        self, action: str, names: Sequence[str | None], caller: Caller, clock: Clock, error: AigbbError
    ) -> None:
        cut = [name and name[:80] for name in names]
        with suppress(InsufficientStorage):  # what it was refused for is the answer
            await self._record([self._event(action, caller, clock, None, error.code, name) for name in cut])

    async def _record_unchanged(self, parsed: Sequence[Parsed], caller: Caller, clock: Clock, *, kept: bool) -> None:
        versions = [self.serving.state.active[p.function.name] for p in parsed] if kept else []
        await self._record([self._event("register", caller, clock, v, "unchanged") for v in versions])

    async def _record(self, events: Sequence[Event]) -> None:
        if events:
            await asyncio.to_thread(self._registry.record, events)


def _or_raise(found: Parsed | AigbbError) -> Parsed:
    if isinstance(found, AigbbError):
        raise found
    return found


def _all_or_raise(found: Sequence[Parsed | AigbbError], names: Sequence[str | None]) -> list[Parsed]:
    """All of them. Raises the first refusal, which says of several which one it is about."""
    for index, one in enumerate(found):
        if isinstance(one, AigbbError) and len(found) > 1:
            one.extra.update(index=index, **({"function": names[index]} if names[index] else {}))
            one.detail = (
                f"Function {index + 1} of {len(found)}{f', {names[index]}' if names[index] else ''}: {one.detail}"
            )
    return [_or_raise(one) for one in found]


def find(active: Mapping[str, Version], name: str) -> Version:
    """One of these versions. Raises FunctionNotFound, with the names that are near."""
    if (version := active.get(name)) is None:
        near = suggestions(name, active, 3, 0.7)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        fix = {"name": near[0]} if near else None
        raise FunctionNotFound(f"There is no function {name[:80]!r}.{meant}", fix=fix, suggestions=near)
    return version


def _check_conditions(function: Function, wanted: Wanted, state: State) -> None:
    """Raises NameClash, StaleVersion."""
    _check_case(function.name, state)
    active = state.active.get(function.name)
    facts: dict[str, Any] = {"version": active.number, "digest": f"sha256:{active.function.digest}"} if active else {}
    if wanted.if_match is not None and wanted.if_match != facts.get("digest"):
        now = f"its active version is {active.number}" if active else "there is no such function"
        fix = {"if_match": facts["digest"]} if facts else None
        raise StaleVersion(f"{function.name} is not what you last saw: {now}.", fix=fix, **facts)
    if wanted.on_conflict == "error" and active is not None and active.function.digest != function.digest:
        hint = "Register it with on_conflict new_version, or choose another name."
        fix = {"on_conflict": "new_version"}
        raise NameClash(f"There is a function {function.name!r} already.", hint=hint, fix=fix, **facts)


def _check_case(name: str, state: State) -> None:
    twin = next((n for n in state.active if n != name and n.casefold() == name.casefold()), None)
    if twin is not None:
        raise NameClash(f"{name!r} differs from the function {twin!r} only in case.", fix={"name": twin}, existing=twin)


def _check_twins(names: Sequence[str]) -> None:
    """Two functions of one request must not take each other's place."""
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:
            raise NameClash(f"The request names {name!r} twice.", hint="Send each function once, under its own name.")
        seen.add(name.casefold())


def _check_variables(version: Version, known: Mapping[str, str]) -> None:
    missing = [name for name in version.function.env if name not in known]
    if missing:
        listed = ", ".join(missing)
        raise MissingEnv(f"{version} needs variables whose values are not kept: {listed}.", fix={"env": missing})


def _with_env(draft: Draft, state: State) -> Draft:
    """A file's draft with the variables of the version that is active: no file holds those."""
    known = state.active.get(draft.name or "")
    return replace(draft, env={name: state.variables[name] for name in known.function.env} if known else {})
