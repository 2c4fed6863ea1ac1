"""The REST door."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, RedirectResponse, Response

from server import api_chat, api_execute, api_executions, api_functions, api_keys, api_openai, api_secrets, errors, wire
from server.access import Access
from server.api_drain import Draining
from server.api_secrets import SecretBody
from server.auth import HEALTH, Gate, refused
from server.callers import Caller
from server.ceilings import declare_ceilings
from server.documentation import add_documentation
from server.errors import AigbbError
from server.rates import Guesses, Rates
from server.routing import PROBLEMS, Here, caller_of, methods_at
from server.service import VERSION, Service
from server.settings import LOOPBACK, Settings
from server.wire_calls import RunToolsBody
from server.wire_functions import ActivateBody, BatchBody, RegisterBody
from server.wire_keys import KeyBody, RotateBody
from server.wire_openai import ERROR_SCHEMA

log = structlog.get_logger(__name__)

_JSON = re.compile(r"application/([\w.+-]+\+)?json\s*(;|$)", re.IGNORECASE)
_BODIES = (
    RegisterBody,
    BatchBody,
    ActivateBody,
    RunToolsBody,
    SecretBody,
    wire.ExecuteBody,
    wire.SessionBody,
    KeyBody,
    RotateBody,
)
_FIELDS = wire.fields_of(*_BODIES)

# What pages of AIGBB_CORS_ORIGINS may do, send and read.
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
SENT = (
    "Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match", "Last-Event-ID", "Prefer",
    "X-Request-ID",
)  # fmt: skip
TOLD = (
    "ETag", "Idempotent-Replayed", "Link", "Location", "Not-Strict", "Preference-Applied", "RateLimit",
    "RateLimit-Policy", "Retry-After", wire.EXECUTION_ID, "X-Request-ID", "X-Total-Count",
)  # fmt: skip

DESCRIPTION = """
Register Python functions with their packages; execute code that calls them, in a dedicated Jupyter kernel.

Every request but `GET /healthz` carries `Authorization: Bearer TOKEN`: the service's token, or a key that has the
scope for it. Every error is
`application/problem+json` with `code`, `detail`, `hint` and `request_id`.
An exception in your code is an answer with `status: "error"`, not an HTTP error.
"""


health = APIRouter()


@health.get(HEALTH, tags=["health"], summary="Whether the service serves")
async def healthz(service: Here) -> wire.HealthAnswer:
    """Whether the service serves. The only route without a token."""
    return wire.HealthAnswer.model_validate(await service.examined())


@health.get(
    "/metrics", tags=["health"], summary="The service in figures", response_class=Response,
    responses={
        **PROBLEMS,
        200: {"description": "Prometheus's text", "content": {"text/plain": {"schema": {"type": "string"}}}},
    },
)  # fmt: skip
async def metrics(service: Here, request: Request) -> Response:
    """Get the service's figures, for Prometheus; docs/observability.md lists them."""
    text, kind = await service.metrics(request.headers.get("accept", ""))
    return Response(text, headers={"content-type": kind})


# -- the application


def create_app(service: Service) -> FastAPI:
    """The application around a running service."""
    app = FastAPIOffline(
        title="aigbb-functions",
        version=VERSION,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        swagger_ui_parameters={"persistAuthorization": True, "tryItOutEnabled": True},
        generate_unique_id_function=_operation_id,
        telemetry={
            "tracer_provider": service.tracing.provider,
            "tracing": service.tracing.provider is not None,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
        },
    )
    app.state.service = service
    add_documentation(app)
    # What is asked most comes first: routes are tried in order.
    for part in (
        health,
        api_execute.events,
        api_execute.router,
        api_executions.events,
        api_executions.router,
        api_chat.events,
        api_chat.router,
        api_openai.router,
        api_functions.events,
        api_functions.router,
        api_secrets.router,
        api_keys.router,
    ):
        app.include_router(part)
    app.add_api_route("/", _home, include_in_schema=False)
    app.add_api_route("/openapi.json", partial(_document, app, service), include_in_schema=False)
    # Before FastAPI's own, which knows no functions and would keep the event loop while it thinks.
    app.router.routes.insert(0, app.router.routes.pop())
    app.add_exception_handler(AigbbError, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    _guard(app, service)
    return app


def _guard(app: FastAPI, service: Service) -> None:
    """What stands before all routes; the last one is the outermost."""
    settings = service.settings
    app.add_middleware(Draining, drain=service.drain)
    app.add_middleware(Rates, rate=settings.rate, running=settings.key_running, free=HEALTH, refused=refused)
    guesses = Guesses(settings.guess_rate)
    app.add_middleware(Gate, keys=service.keys, hosts=_hosts(settings), max_body=settings.max_body, guesses=guesses)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=METHODS, allow_headers=SENT,
            expose_headers=TOLD, max_age=600,
        )  # fmt: skip
    app.add_middleware(Access, observer=service.observer)  # around them all: refusals are told of too


async def _home() -> RedirectResponse:
    return RedirectResponse("/docs")


def _operation_id(route: APIRoute) -> str:
    """With a dot, so that it is no function's: their names are operations too."""
    return f"aigbb.{route.name}"


def _document(app: FastAPI, service: Service, request: Request) -> JSONResponse:
    return JSONResponse(_openapi(app, service, caller_of(request)))


def _openapi(app: FastAPI, service: Service, caller: Caller) -> dict[str, Any]:
    """FastAPI's own with an operation for each function of the caller's; errors have their real media type."""
    schema = copy.deepcopy(FastAPI.openapi(app))
    bearer = {"type": "http", "scheme": "bearer", "description": "The service's token, or a key"}
    schema["components"]["securitySchemes"] = {"HTTPBearer": bearer}
    for path, operation in ((p, one) for p, methods in schema["paths"].items() for one in methods.values()):
        if path != HEALTH:
            operation["security"] = [{"HTTPBearer": []}]  # the gate asks for it, before any route
        for status, answer in operation["responses"].items():
            if status in PROBLEMS and "application/json" in answer["content"]:
                answer["content"] = _refusals(path, answer["content"]["application/json"])
        # Refused bodies are problems too, not what FastAPI would answer by itself.
        operation["responses"].pop("422", None)
    if caller.may("functions:read", "execute:function"):
        catalog = service.catalog(caller)
        schema["paths"] |= copy.deepcopy(catalog.paths)
        schema["components"]["schemas"] |= catalog.components
    declare_ceilings(service.settings, schema)
    return schema


def _refusals(path: str, problem: dict[str, Any]) -> dict[str, Any]:
    """What refusals look like: to OpenAI's clients in their form too."""
    content = {wire.PROBLEM_TYPE: problem}
    return content | {"application/json": {"schema": ERROR_SCHEMA}} if path.startswith("/v1/") else content


def _hosts(settings: Settings) -> set[str]:
    return {*LOOPBACK, settings.host, *settings.allowed_hosts}


async def _on_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AigbbError)
    if error.status >= 500:
        log.warning("request.failed", code=error.code, detail=error.detail)
    return refused(error, request)


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if found[0]["loc"][0] == "body" and not _JSON.match(request.headers.get("content-type", "")):
        return refused(errors.WrongContentType("The body is not declared as JSON."), request)
    if any(e["type"] == "json_invalid" for e in found):
        return refused(errors.InvalidJson(f"The body is not JSON: {found[0]['ctx']['error']}."), request)
    listed = wire.validation_errors(found, _FIELDS)
    first = f"{listed[0]['field'] or 'body'}: {listed[0]['message']}"
    renamed = {one["field"]: one["suggestion"] for one in listed if "suggestion" in one}
    fix = {"rename": renamed} if renamed else None
    more = (
        f" There are {len(found) - len(listed)} more errors, which are not listed." if len(found) > len(listed) else ""
    )
    detail = f"The request is not valid. {first}{more}"
    return refused(errors.InvalidRequest(detail, fix=fix, errors=listed, errors_total=len(found)), request)


_BY_STATUS: dict[int, Callable[[], AigbbError]] = {
    400: lambda: errors.InvalidJson("The body could not be read as JSON in UTF-8."),
    404: lambda: errors.RouteNotFound("There is nothing at this path."),
    405: lambda: errors.MethodNotAllowed("This path does not take this method."),
    413: lambda: errors.BodyTooLarge("The body is over the cap."),
}


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    make = _BY_STATUS.get(error.status_code, lambda: AigbbError(str(error.detail)))
    answer = refused(make(), request)
    answer.headers.update(error.headers or {})
    if error.status_code == 405:  # of one route only, where a path has several
        answer.headers["Allow"] = ", ".join(sorted(methods_at(request.app, request.url.path)))
    return answer


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    log.error("request.bug", exc_info=error)
    hint = "This is a fault of the service; its log has the details under this request_id."
    return refused(AigbbError("Something went wrong inside.", hint=hint), request)
