"""The documentation page, offline, under a policy that runs its own scripts only."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html, get_swagger_ui_oauth2_redirect_html
from starlette.requests import Request
from starlette.responses import HTMLResponse

STATIC = "/static-offline-docs"
# Swagger UI sets styles of its elements, and has pictures in its stylesheet.
POLICY = (
    "default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_INLINE = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def add_documentation(app: FastAPI) -> None:
    """Add `/docs` and the page that its sign-in returns to."""
    app.add_api_route("/docs", _page, include_in_schema=False)
    app.add_api_route("/docs/oauth2-redirect", _redirect, include_in_schema=False)


async def _page(request: Request) -> HTMLResponse:
    app: FastAPI = request.app
    page = get_swagger_ui_html(
        openapi_url=str(app.openapi_url),
        title=f"{app.title} - Swagger UI",
        oauth2_redirect_url="/docs/oauth2-redirect",
        swagger_js_url=f"{STATIC}/swagger-ui-bundle.js",
        swagger_css_url=f"{STATIC}/swagger-ui.css",
        swagger_favicon_url=f"{STATIC}/favicon.png",
        swagger_ui_parameters=app.swagger_ui_parameters,
    )
    return _under_policy(page)


async def _redirect() -> HTMLResponse:
    return _under_policy(get_swagger_ui_oauth2_redirect_html())


def _under_policy(page: HTMLResponse) -> HTMLResponse:
    scripts = " ".join(hashes(_INLINE.findall(bytes(page.body))))
    page.headers["Content-Security-Policy"] = POLICY.format(scripts=scripts)
    return page


def hashes(scripts: Iterable[bytes]) -> Iterable[str]:
    """Return the sources by which a policy names inline scripts."""
    return [f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'" for script in scripts]
