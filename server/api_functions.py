"""The REST door to functions: registration, versions, history, finding, and the forms that models take.

Routes that are no coroutines compute for some milliseconds when there are many functions: they get a thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from typing import Annotated, Any

from fastapi import Header, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.responses import JSONResponse, PlainTextResponse

from kernels.progress import Report, Step, silent
from server import wire
from server.callers import Caller
from server.collection import collection
from server.errors import AigbbError
from server.registrar import Registered
from server.routing import Here, Who, caller_of, event_routes, routes, since
from server.service import Service
from server.snippets import snippets
from server.tools import Format, not_strict, render
from server.wire_functions import (
    ActivateBody,
    BatchAnswer,
    BatchBody,
    DiffAnswer,
    FunctionAnswer,
    FunctionDetail,
    HistoryAnswer,
    RegisterAnswer,
    RegisterBody,
    SyncAnswer,
    VersionAnswer,
)

router, events = routes(), event_routes()

IfMatch = Annotated[str | None, Header(description="The digest that the active version must have, else 412")]
Key = Annotated[
    str | None,
    Header(alias="Idempotency-Key", max_length=200, description="The same key and body again get the same answer"),
]
# What a change does, told how far it is, and the status and JSON that it answers.
Work = Callable[[Report], Awaitable[tuple[int, str]]]


# -- register


def _registering(body: RegisterBody, if_match: str | None, service: Service, caller: Caller) -> Work:
    async def work(report: Report) -> tuple[int, str]:
        wanted = body.wanted(if_match.strip('" ') if if_match else None)
        [done] = await service.register([wanted], caller, report, dry_run=body.dry_run)
        return _status([done]), RegisterAnswer.of_registered(done).model_dump_json()

    return work


def _batch(body: BatchBody, service: Service, caller: Caller) -> Work:
    async def work(report: Report) -> tuple[int, str]:
        wanted = [one.wanted() for one in body.functions]
        done = await service.register(wanted, caller, report, dry_run=body.dry_run)
        answer = BatchAnswer(functions=[RegisterAnswer.of_registered(one) for one in done])
        return _status(done), answer.model_dump_json()

    return work


def _activating(name: str, body: ActivateBody, service: Service, caller: Caller) -> Work:
    async def work(report: Report) -> tuple[int, str]:
        done = await service.activate(name, body.version, body.env, caller, report)
        return 200, RegisterAnswer.of_registered(done).model_dump_json()

    return work


def _syncing(service: Service, caller: Caller) -> Work:
    async def work(report: Report) -> tuple[int, str]:
        return 200, SyncAnswer.of(await service.sync(caller, report)).model_dump_json()

    return work


def _status(done: Sequence[Registered]) -> int:
    return 200 if all(one.unchanged or one.dry_run for one in done) else 201


async def _once(
    request: Request, service: Service, work: Work, key: str | None = None, report: Report = silent
) -> Response:
    asked = f"{request.url.path}\n{request.headers.get('if-match', '')}\n"
    body = asked.encode() + await request.body()
    # A key of one caller is not that of another.
    key = key and f"{caller_of(request).key}\n{key}"
    status, answer, replayed = await service.replays.once(key, body, lambda: work(report))
    headers = {"Idempotent-Replayed": "true"} if replayed else None
    return Response(answer, status, headers, media_type="application/json")


async def _followed(
    request: Request, service: Service, work: Work, key: str | None = None
) -> AsyncIterator[ServerSentEvent]:
    """Progress as it happens; the last event is `done` with the answer, or `problem`."""
    steps: asyncio.Queue[Step | None] = asyncio.Queue()
    start = time.perf_counter()
    task = asyncio.create_task(_once(request, service, work, key, steps.put_nowait))
    task.add_done_callback(lambda _: steps.put_nowait(None))
    try:
        while (step := await steps.get()) is not None:
            yield wire.step_event(step, since(start))
        yield ServerSentEvent(event="done", raw_data=bytes((await task).body).decode())
    except AigbbError as error:
        yield ServerSentEvent(event="problem", data=wire.problem_body(error, request))
    finally:
        task.cancel()  # ours only: the change itself goes on to its end


@events.post("/register", response_class=EventSourceResponse)
async def register_events(
    body: RegisterBody, request: Request, service: Here, caller: Who, if_match: IfMatch = None, key: Key = None
) -> AsyncIterable[ServerSentEvent]:
    """A registration, followed."""
    async for event in _followed(request, service, _registering(body, if_match, service, caller), key):
        yield event


@events.post("/register/batch", response_class=EventSourceResponse)
async def batch_events(
    body: BatchBody, request: Request, service: Here, caller: Who, key: Key = None
) -> AsyncIterable[ServerSentEvent]:
    """Registrations together, followed."""
    async for event in _followed(request, service, _batch(body, service, caller), key):
        yield event


@events.post("/functions/{name}/activate", response_class=EventSourceResponse)
async def activate_events(
    name: str, body: ActivateBody, request: Request, service: Here, caller: Who
) -> AsyncIterable[ServerSentEvent]:
    """An activation, followed."""
    async for event in _followed(request, service, _activating(name, body, service, caller)):
        yield event


@events.post("/sync", response_class=EventSourceResponse)
async def sync_events(request: Request, service: Here, caller: Who) -> AsyncIterable[ServerSentEvent]:
    """The files taken over, followed."""
    async for event in _followed(request, service, _syncing(service, caller)):
        yield event


@router.post(
    "/register",
    status_code=201,
    tags=["functions"],
    response_model=RegisterAnswer,
    responses={200: {"description": "Nothing differs, or a dry run", "model": RegisterAnswer}},
    summary="Register a function",
)
async def register(
    body: RegisterBody, request: Request, service: Here, caller: Who, if_match: IfMatch = None, key: Key = None
) -> Response:
    """Register a function with its packages; it can be called as soon as this answers.

    Ask for `text/event-stream` to follow the phases resolve, download, install, verify and switch. With
    `dry_run` everything is done but the commit.
    """
    return await _once(request, service, _registering(body, if_match, service, caller), key)


@router.post(
    "/register/batch",
    status_code=201,
    tags=["functions"],
    response_model=BatchAnswer,
    responses={200: {"description": "Nothing differs, or a dry run", "model": BatchAnswer}},
    summary="Register functions together",
)
async def register_batch(body: BatchBody, request: Request, service: Here, caller: Who, key: Key = None) -> Response:
    """Register several functions, all of them or none: their packages are resolved once, for one environment."""
    return await _once(request, service, _batch(body, service, caller), key)


@router.post("/sync", tags=["functions"], response_model=SyncAnswer, summary="Take over files that changed")
async def sync(request: Request, service: Here, caller: Who) -> Response:
    """Register what is new or edited in the functions' folder; a bad file is reported and left alone."""
    return await _once(request, service, _syncing(service, caller))


# -- find


@router.get("/functions", tags=["functions"], summary="List and search functions")
def functions(
    request: Request,
    response: Response,
    service: Here,
    caller: Who,
    q: Annotated[str | None, Query(description="Words to look for in names, descriptions and parameters")] = None,
    tag: Annotated[list[str] | None, Query(description="Only those with all of these tags")] = None,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    per_page: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[FunctionAnswer]:
    """The registered functions: best match first, or by name. `X-Total-Count` and `Link` tell of further pages."""
    found = service.catalog(caller).find(q, tag or ())
    response.headers["X-Total-Count"] = str(len(found))
    if page * per_page < len(found):
        response.headers["Link"] = f'<{request.url.include_query_params(page=page + 1)}>; rel="next"'
    return [FunctionAnswer.of(version) for version in found[(page - 1) * per_page : page * per_page]]


@router.get("/functions/{name}", tags=["functions"], summary="Show a function")
async def function(name: str, response: Response, service: Here, caller: Who) -> FunctionDetail:
    """One function with its source."""
    version = service.function(name, caller)
    response.headers["ETag"] = f'"sha256:{version.function.digest}"'
    return FunctionDetail.of_version(version, active=True)


@router.delete("/functions/{name}", status_code=204, tags=["functions"], summary="Delete a function")
async def delete_function(name: str, service: Here, caller: Who) -> None:
    """Take a function out of service; activating one of its versions brings it back."""
    await service.delete(name, caller)


@router.get("/functions/{name}/snippets", tags=["functions"], summary="Show how to call a function")
def function_snippets(name: str, request: Request, service: Here, caller: Who) -> dict[str, str]:
    """The call as curl, as Python and as a tool for OpenAI, to be pasted on the service's machine.

    Admins find the token there; other keys are read from AIGBB_TOKEN.
    """
    token_file = service.token_file if caller.admin else None
    return snippets(service.function(name, caller), _base(request), token_file)


@router.get("/postman_collection.json", tags=["functions"], summary="A Postman collection of all functions")
def postman_collection(request: Request, service: Here, caller: Who) -> dict[str, Any]:
    """One request for each function, with arguments filled in. Set the collection's variable `token`."""
    return collection(service.catalog(caller).versions, _base(request))


def _base(request: Request) -> str:
    return str(request.base_url).rstrip("/")


# -- versions


@router.get("/functions/{name}/versions", tags=["versions"], summary="List versions")
async def versions(name: str, service: Here, caller: Who) -> list[VersionAnswer]:
    """Every version that a function ever had, newest first; also of a deleted one."""
    state = service.serving.state
    return [VersionAnswer.of(v, active=state.serves(v)) for v in await service.versions(name, caller)]


@router.get("/functions/{name}/versions/{number}", tags=["versions"], summary="Show a version")
async def version(name: str, number: wire.Number, service: Here, caller: Who) -> FunctionDetail:
    """One version with its source."""
    found = await service.version(name, number, caller)
    return FunctionDetail.of_version(found, active=service.serving.state.serves(found))


@router.get("/functions/{name}/versions/{number}/diff", tags=["versions"], summary="Compare versions")
async def diff(
    name: str,
    number: wire.Number,
    service: Here,
    caller: Who,
    against: Annotated[wire.Number | None, Query(description="Another version; by default the one before")] = None,
) -> DiffAnswer:
    """What changed from one version to another, as a unified diff."""
    old, new, text = await service.diff(name, number, against, caller)
    return DiffAnswer(name=name, old=old.number, new=new.number, diff=text)


@router.post(
    "/functions/{name}/activate",
    tags=["versions"],
    response_model=RegisterAnswer,
    summary="Roll back, or undo a deletion",
)
async def activate(name: str, body: ActivateBody, request: Request, service: Here, caller: Who) -> Response:
    """Have an older version serve again: the pointer moves, no new version is made."""
    return await _once(request, service, _activating(name, body, service, caller))


@router.get("/history", tags=["versions"], summary="Who changed what")
async def history(
    service: Here,
    name: Annotated[str | None, Query(description="Only of this function")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[wire.Number | None, Query(description="Only lines with a smaller id, for the next page")] = None,
) -> list[HistoryAnswer]:
    """Every registration, activation and deletion with its outcome, newest first. Lines are never changed."""
    return [HistoryAnswer.of(event) for event in await service.history(name, limit, before)]


# -- models


@router.get(
    "/tools",
    tags=["tools"],
    summary="The functions as models take them",
    response_model=list[dict[str, Any]],
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        304: {"description": "Nothing changed since"},
    },
)
def tools(
    request: Request,
    service: Here,
    caller: Who,
    form: Annotated[Format, Query(alias="format", description="Whose form; `prompt` is plain text")] = "openai",
    strict: Annotated[bool, Query(description="In strict form, where the schema can be expressed so")] = False,
    tags: Annotated[str, Query(description="Only functions with one of these tags, by comma")] = "",
    names: Annotated[str, Query(description="Only these functions, by comma")] = "",
) -> Response:
    """Every function as a tool, ready to be sent to a model. The ETag changes with the registered functions.

    `Not-Strict` names the functions that have no strict form, and why.
    """
    catalog = service.catalog(caller)
    chosen = catalog.choose(_listed(tags), _listed(names))
    etag = f'"snapshot-{catalog.snapshot}{f"-{caller.key}" if caller.reach.narrow else ""}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if strict and (loose := _not_strict(chosen)):
        headers["Not-Strict"] = loose
    rendered = render(chosen, form, strict=strict)
    if isinstance(rendered, str):
        return PlainTextResponse(rendered, headers=headers)
    return JSONResponse(rendered, headers=headers)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _not_strict(versions: list[Any]) -> str:
    """A header's worth of reasons: names and sentences in ASCII."""
    found = ((v.function.name, not_strict(v.function)) for v in versions)
    text = "; ".join(f"{name} ({reason})" for name, reason in found if reason)
    return text.encode("ascii", "replace").decode()[:2000].replace("\n", " ")
