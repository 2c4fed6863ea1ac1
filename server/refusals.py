"""Errors of the edge: what is refused before any route sees it.

AigbbError
├── MalformedRequest     400   ├── RequestTimedOut        408   ├── UrlTooLong           414
└── RateLimited          429   └── HeadersTooLarge        431   └── TooManyConnections   503
└── SandboxRequired      409   └── ConfirmationNeeded     403   └── CallRejected         403
    TooManyApprovals     429
"""

from __future__ import annotations

from kernels.errors import AigbbError


class MalformedRequest(AigbbError):
    """The request is no HTTP/1.1, or could be read in two ways."""

    code, status = "malformed_request", 400
    hint = (
        "Send each of Host, Authorization, Content-Type and Content-Length once, and no Transfer-Encoding but chunked."
    )


class RequestTimedOut(AigbbError):
    """The request did not come to its end in time."""

    code, status = "request_timed_out", 408
    hint = "Send it again, in one go; the service waits for AIGBB_HEADER_SECONDS and AIGBB_BODY_SECONDS."


class UrlTooLong(AigbbError):
    """The URL is over the cap."""

    code, status = "url_too_long", 414
    hint = "Send less in the query, at most 16 KiB."


class RateLimited(AigbbError):
    """A key asks too often or too much at once, or an address guesses keys."""

    code, status = "rate_limited", 429
    hint = "Wait for the seconds in Retry-After. AIGBB_RATE, AIGBB_KEY_RUNNING and AIGBB_GUESS_RATE set the limits."


class HeadersTooLarge(AigbbError):
    """There are too many headers, or too large ones."""

    code, status = "headers_too_large", 431
    hint = "Send at most 100 headers, and no more bytes than AIGBB_MAX_HEADERS says."


class TooManyConnections(AigbbError):
    """Every connection that there may be is taken."""

    code, status = "too_many_connections", 503
    hint = "Close what you do not use, and try again in a moment; AIGBB_MAX_CONNECTIONS sets the limit."


class SandboxRequired(AigbbError):
    """API keys are for a service with confined kernels: bubblewrap is missing, and AIGBB_SANDBOX is `auto`."""

    code, status = "sandbox_required", 409
    hint = (
        "Install bubblewrap (apt-get install bubblewrap) and start the service again, or set AIGBB_SANDBOX=off where "
        "something else confines the whole service."
    )


class ConfirmationNeeded(AigbbError):
    """A call that a person has to decide about, where nothing can wait for that."""

    code, status = "needs_confirmation", 403
    hint = "Call it by POST /functions/{name}/call, POST /tools/run or POST /chat: there it waits for the decision."


class CallRejected(AigbbError):
    """A person rejected the call."""

    code, status = "rejected", 403
    hint = "Nothing was run. Do not send it again unless the person agrees."


class TooManyApprovals(AigbbError):
    """A key has as many pending approvals as it may."""

    code, status = "too_many_approvals", 429
    hint = "Have those decided that GET /approvals lists, or wait until they expire."
