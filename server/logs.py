"""What the service writes to its log: one line an event, and nothing in it that could pass for another line.

Never code, arguments, outputs or tokens: what is written is named here and where `log` is called.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, MutableMapping
from typing import Any, cast

import structlog
from pydantic_core import to_json

from server.observing import Changed, Event, Executed, Lost, Served, Turned

log = structlog.get_logger("aigbb")

# Characters of a value that a line holds, and of a traceback; members of a list.
MAX_VALUE, MAX_TRACEBACK, MAX_MEMBERS = 500, 8000, 50
# Asked all the time by whoever watches the service.
_QUIET = ("/healthz", "/metrics")
# What a terminal would obey, and what would begin another line.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_CONTROL_IN_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

Line = MutableMapping[str, Any]


def configure_logs(level: str, scrub: Callable[[Any], Any] = lambda line: line) -> None:
    """To stderr: for people on a terminal, one JSON object a line elsewhere. Other packages' warnings too.

    scrub takes secrets out of a line.
    """

    def scrubbed(_: Any, __: str, line: Line) -> Line:
        return cast(Line, scrub(line))

    render: Any = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else _as_json
    shared: list[Callable[[Any, str, Line], Line]] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.format_exc_info,
        scrubbed,  # before anything is cut
        harmless,
        scrubbed,  # what is text only now
    ]
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    last = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, render]
    first = [structlog.stdlib.add_logger_name, *shared]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=first, processors=last))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)


def _as_json(_: Any, __: str, line: Line) -> str:
    return to_json(line).decode()


def harmless(_: Any, __: str, line: Line) -> Line:
    """Values as they can be shown anywhere: short, and without control characters."""
    for name, value in line.items():
        if type(value) is str and len(value) <= MAX_VALUE and value.isprintable():
            continue
        if name == "exception":
            line[name] = _CONTROL_IN_TEXT.sub(_escaped, _ends(str(value)))
        elif name != "exc_info":
            line[name] = _shown(value)
    return line


def _shown(value: Any) -> Any:
    match value:
        case str():
            return _plain(value)
        case int() | float() | None:
            return value
        case dict():
            return {_plain(str(name)): _shown(value[name]) for name in list(value)[:MAX_MEMBERS]}
        case list() | tuple() | set() | frozenset():
            return [_shown(each) for each in list(value)[:MAX_MEMBERS]]
    return _plain(str(value))


def _ends(text: str) -> str:
    if len(text) <= MAX_TRACEBACK:
        return text
    half = MAX_TRACEBACK // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters cut ...\n{text[-half:]}"


def _plain(text: str) -> str:
    cut = text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}... ({len(text)} characters)"
    return _CONTROL.sub(_escaped, cut)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


class Lines:
    """Writes events as lines. requests: whether one for each request and execution too."""

    def __init__(self, *, requests: bool) -> None:
        self._requests = requests

    def note(self, event: Event) -> None:
        """Write a line, if this event deserves one."""
        match event:
            case Served():
                if self._requests and not (event.route in _QUIET and event.status < 400):
                    self._served(event)
            case Executed():
                if self._requests:
                    self._executed(event)
            case Changed():
                self._changed(event)
            case Lost():
                log.warning("kernel.lost", cause=event.cause, request_id=None)  # that of whoever had it started
            case Turned():
                if self._requests:
                    log.info("chat.turn", outcome=event.outcome, ms=_ms(event.seconds))

    def _served(self, event: Served) -> None:
        route = event.route or None
        log.info(
            "request", method=event.method[:16], route=route, status=event.status, ms=_ms(event.seconds), key=event.key
        )

    def _executed(self, event: Executed) -> None:
        admitted, placed = event.admitted or event.ended, event.placed or event.ended
        told: dict[str, Any] = {"functions": list(event.functions), "session": event.session, "kernel": event.kernel}
        log.info(
            "execution",
            kind=event.kind,
            outcome=event.outcome,
            queue_ms=_ms(admitted - event.began),
            start_ms=_ms(placed - admitted),
            run_ms=_ms(event.ended - placed),
            **{name: value for name, value in told.items() if value},
        )

    def _changed(self, event: Changed) -> None:
        failed = next((stage.name for stage in event.stages if not stage.ok), None)
        log.info(
            "registration",
            action=event.action,
            functions=list(event.functions),
            outcome=event.outcome,
            ms=_ms(event.ended - event.began),
            stages={stage.name: _ms(stage.ended - stage.began) for stage in event.stages},
            **({"failed_in": failed} if failed else {}),
        )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
