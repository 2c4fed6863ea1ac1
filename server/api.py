"""The REST door."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any, TypeVar

import structlog
from fastapi import APIRouter, Depends, FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse
from starlette.routing import Match
from starlette.types import Scope

from kernels.kernel import Kernel
from kernels.outputs import Output, fold
from kernels.progress import Step
from server import errors, wire
from server.auth import HEALTH, Gate
from server.errors import AigbbError
from server.service import Service
from server.settings import LOOPBACK, Settings

log = structlog.get_logger(__name__)

T = TypeVar("T")

DESCRIPTION = """
Register Python functions with their packages; execute code that calls them, in a dedicated Jupyter kernel.

Every request but `GET /healthz` carries `Authorization: Bearer TOKEN`. Every error is
`application/problem+json` with `code`, `detail`, `hint` and `request_id`.
An exception in your code is an answer with `status: "error"`, not an HTTP error.
"""


class EventRoute(APIRoute):
    """Serves those who ask for text/event-stream; a route with the same path serves the others."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As ever, but never for those who did not ask for events."""
        match, child = super().matches(scope)
        accept = dict(scope.get("headers", [])).get(b"accept", b"")
        return (match, child) if b"text/event-stream" in accept else (Match.NONE, {})


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Here = Annotated[Service, Depends(_service)]

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": wire.Problem, "description": "Something in the request"},
    "5XX": {"model": wire.Problem, "description": "Full, or unable"},
}

_UNCHANGED: dict[int | str, dict[str, Any]] = {
    200: {"model": wire.RegisterAnswer, "description": "Nothing differs from what is registered"}
}

router = APIRouter(
    dependencies=[Security(HTTPBearer(auto_error=False, description="The service's token"))],
    responses=_PROBLEMS,
)
events = APIRouter(route_class=EventRoute, include_in_schema=False)
health = APIRouter()


@health.get(HEALTH, tags=["health"], summary="Whether the service serves")
async def healthz(service: Here) -> wire.HealthAnswer:
    """Whether the service serves. The only route without a token."""
    return wire.HealthAnswer.model_validate(service.health())


# -- register


@events.post("/register", response_class=EventSourceResponse)
async def register_events(body: wire.RegisterBody, request: Request, service: Here) -> AsyncIterable[ServerSentEvent]:
    """Progress as it happens; the last event is `done` with the answer, or `problem`."""
    steps: asyncio.Queue[Step | None] = asyncio.Queue()
    start = time.perf_counter()
    work = asyncio.create_task(service.register(body.draft(), steps.put_nowait))
    work.add_done_callback(lambda _: steps.put_nowait(None))
    try:
        while (step := await steps.get()) is not None:
            yield wire.step_event(step, _since(start))
        answer = wire.RegisterAnswer.of_registered(await work)
        yield ServerSentEvent(event="done", data=answer.model_dump(mode="json"))
    except AigbbError as error:
        yield ServerSentEvent(event="problem", data=wire.problem_body(error, request))
    finally:
        work.cancel()  # ours only: the registration itself goes on to its end


@router.post(
    "/register",
    status_code=201,
    tags=["functions"],
    responses={200: {"description": "Nothing differs"}},
    summary="Register a function",
)
async def register(body: wire.RegisterBody, response: Response, service: Here) -> wire.RegisterAnswer:
    """Register a function with its packages; it can be executed as soon as this answers.

    Ask for `text/event-stream` to follow the phases resolve, download, install, verify and switch.
    """
    done = await service.register(body.draft())
    response.status_code = 200 if done.unchanged else 201
    return wire.RegisterAnswer.of_registered(done)


@router.get("/functions", tags=["functions"], summary="List functions")
async def functions(service: Here) -> list[wire.FunctionAnswer]:
    """Every registered function, by name."""
    return [wire.FunctionAnswer.of(version) for version in service.functions()]


@router.get("/functions/{name}", tags=["functions"], summary="Show a function")
async def function(name: str, service: Here) -> wire.FunctionDetail:
    """One function with its source."""
    version = service.function(name)
    detail: wire.FunctionDetail = wire.FunctionDetail.of(version, source=version.function.source)
    return detail


@router.delete("/functions/{name}", status_code=204, tags=["functions"], summary="Delete a function")
async def delete_function(name: str, service: Here) -> None:
    """Take a function out of service."""
    await service.delete(name)


# -- execute


@events.post("/execute", response_class=EventSourceResponse)
async def execute_events(body: wire.ExecuteBody, request: Request, service: Here) -> AsyncIterable[ServerSentEvent]:
    """Items as they happen; the last event is `done`, or `problem`."""
    start = time.perf_counter()
    try:
        async with aclosing(_run(service, body)) as items:
            async for kernel, item in items:
                yield wire.execution_event(item, kernel, body.session, _since(start), service.names())
    except AigbbError as error:
        yield ServerSentEvent(event="problem", data=wire.problem_body(error, request))


@router.post("/execute", tags=["execute"], summary="Run code")
async def execute(body: wire.ExecuteBody, request: Request, service: Here) -> wire.ExecuteAnswer:
    """Run code on a clean kernel of the newest generation, or in a session that keeps variables.

    Ask for `text/event-stream` to get the items as they happen.
    """
    return await _unless_gone(request, _fold(service, body))


async def _fold(service: Service, body: wire.ExecuteBody) -> wire.ExecuteAnswer:
    start = time.perf_counter()
    used: list[Kernel] = []

    async def items() -> AsyncIterator[Output]:
        async with aclosing(_run(service, body)) as stream:
            async for kernel, item in stream:
                used[:] = [kernel]
                yield item

    execution = await fold(items())
    return wire.execute_answer(execution, used[0], body.session, _since(start), service.names())


def _run(service: Service, body: wire.ExecuteBody) -> AsyncGenerator[tuple[Kernel, Output]]:
    return service.execute(body.code, session=body.session, timeout=body.timeout)


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Do the work, but give it up when the client leaves: its kernel is free for others."""
    task, gone = asyncio.ensure_future(work), asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            log.info("execute.client_left")
            task.cancel()
        return await task
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _since(start: float) -> float:
    return round((time.perf_counter() - start) * 1000, 1)


# -- sessions


@router.post("/sessions", status_code=201, tags=["sessions"], summary="Open a session")
async def open_session(service: Here, body: wire.SessionBody | None = None) -> wire.SessionAnswer:
    """Open a session: a kernel whose variables persist between executions."""
    return wire.SessionAnswer.model_validate(await service.pool.open_session(body.id if body else None))


@router.get("/sessions", tags=["sessions"], summary="List sessions")
async def sessions(service: Here) -> list[wire.SessionAnswer]:
    """Open sessions."""
    return [wire.SessionAnswer.model_validate(info) for info in service.pool.sessions()]


@router.post("/sessions/{identity}/interrupt", status_code=204, tags=["sessions"], summary="Interrupt a session")
async def interrupt_session(identity: str, service: Here) -> None:
    """Interrupt what runs; that execution answers `cancelled`."""
    await service.pool.interrupt_session(identity)


@router.post("/sessions/{identity}/restart", tags=["sessions"], summary="Restart a session")
async def restart_session(identity: str, service: Here) -> wire.SessionAnswer:
    """Give the session a clean kernel of the newest generation."""
    return wire.SessionAnswer.model_validate(await service.pool.restart_session(identity))


@router.delete("/sessions/{identity}", status_code=204, tags=["sessions"], summary="Close a session")
async def close_session(identity: str, service: Here) -> None:
    """End a session and its kernel."""
    await service.pool.close_session(identity)


@router.get("/kernels", tags=["kernels"], summary="List environments")
async def kernels(service: Here) -> list[wire.GenerationAnswer]:
    """Every generation of the environment, newest first; `current` serves."""
    return [wire.GenerationAnswer.model_validate(info) for info in await service.generations()]


# -- the application


def create_app(service: Service) -> FastAPI:
    """The application around a running service."""
    app = FastAPIOffline(
        title="aigbb-functions",
        version="0.1.0",
        description=DESCRIPTION,
        docs_url="/docs",
        redoc_url=None,
        swagger_ui_parameters={"persistAuthorization": True, "tryItOutEnabled": True},
    )
    app.state.service = service
    app.openapi = partial(_openapi, app)  # type: ignore[method-assign]
    for part in (health, events, router):
        app.include_router(part)
    app.add_api_route("/", _home, include_in_schema=False)
    app.add_exception_handler(AigbbError, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    settings = service.settings
    app.add_middleware(Gate, token=service.token, hosts=_hosts(settings), max_body=settings.max_body)
    return app


async def _home() -> RedirectResponse:
    return RedirectResponse("/docs")


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's own, but errors have their real media type."""
    schema = FastAPI.openapi(app)
    for operation in (one for path in schema["paths"].values() for one in path.values()):
        for status, answer in operation["responses"].items():
            if status in _PROBLEMS and "application/json" in answer["content"]:
                answer["content"] = {wire.PROBLEM_TYPE: answer["content"]["application/json"]}
        # Refused bodies are problems too, not what FastAPI would answer by itself.
        operation["responses"].pop("422", None)
    return schema


def _hosts(settings: Settings) -> set[str]:
    return {*LOOPBACK, settings.host, *settings.allowed_hosts}


async def _on_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AigbbError)
    if error.status >= 500:
        log.warning("request.failed", code=error.code, detail=error.detail)
    return wire.problem(error, request)


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if "json" not in request.headers.get("content-type", ""):
        return wire.problem(errors.WrongContentType("The body is not declared as JSON."), request)
    if any(e["type"] == "json_invalid" for e in found):
        return wire.problem(errors.InvalidJson(f"The body is not JSON: {found[0]['ctx']['error']}."), request)
    listed = wire.validation_errors(found)
    first = f"{listed[0]['field'] or 'body'}: {listed[0]['message']}"
    return wire.problem(errors.InvalidRequest(f"The request is not valid. {first}", errors=listed), request)


_BY_STATUS: dict[int, Callable[[], AigbbError]] = {
    400: lambda: errors.InvalidJson("The body could not be read as JSON."),
    404: lambda: errors.RouteNotFound("There is nothing at this path."),
    405: lambda: errors.MethodNotAllowed("This path does not take this method."),
    413: lambda: errors.BodyTooLarge("The body is over the cap."),
}


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    make = _BY_STATUS.get(error.status_code, lambda: AigbbError(str(error.detail)))
    answer = wire.problem(make(), request)
    answer.headers.update(error.headers or {})
    return answer


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    log.error("request.bug", exc_info=error)
    hint = "This is a fault of the service; its log has the details under this request_id."
    return wire.problem(AigbbError("Something went wrong inside.", hint=hint), request)
