"""`aigbb serve`: the service and its web server in one process, with progress before and a banner when ready."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType

import uvicorn
import uvloop
from rich.console import Console
from rich.panel import Panel
from rich.status import Status
from rich.table import Table

from kernels.kernelspecs import ALIAS
from kernels.progress import Report, Step
from kernels.sandbox import hide_memory
from server.api import create_app
from server.errors import PortInUse
from server.logs import configure_logs
from server.protocol import Connection, Terms, bounded
from server.service import Service
from server.settings import Settings, unknown

# Connections that wait for the service to be ready; uvicorn asks for as many.
BACKLOG = 2048


def terms_of(settings: Settings) -> Terms:
    """The connection's share of the settings."""
    return Terms(
        max_headers=settings.max_headers,
        max_body=settings.max_body,
        header_seconds=settings.header_seconds,
        body_seconds=settings.body_seconds,
        stall_seconds=settings.stall_seconds,
        connections=settings.max_connections,
    )


def serve(settings: Settings, console: Console) -> None:
    """Run until SIGINT or SIGTERM. Raises AigbbError when it cannot start."""
    settings.check_bind()
    hide_memory()  # keys of models above all: kernels run as the same user
    configure_logs(settings.log_level)
    with suppress(asyncio.CancelledError):  # told to stop before it served
        uvloop.run(_serve(settings, console))


async def _serve(settings: Settings, console: Console) -> None:
    start = time.perf_counter()
    with listening(settings) as listener:
        with _progress(console) as report, _stoppable():
            opening = Service.open(settings, report)
            service = await opening.__aenter__()
            configure_logs(settings.log_level, service.vault.scrub)
        try:
            server = _Server(create_app(service), service, console, start)
            await server.serve(sockets=[listener])
        finally:
            await opening.__aexit__(*sys.exc_info())


@contextmanager
def _stoppable() -> Iterator[None]:
    """A signal during the start ends it, with all that it has begun."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    with _signals(loop, lambda _: task.cancel()):
        yield


@contextmanager
def _signals(loop: asyncio.AbstractEventLoop, heard: Callable[[signal.Signals], object]) -> Iterator[None]:
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, heard, signum)
    try:
        yield
    finally:
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(signum)


class _Server(uvicorn.Server):
    """Says that it is ready once it is."""

    def __init__(self, app: object, service: Service, console: Console, start: float) -> None:
        config = uvicorn.Config(
            app,  # type: ignore[arg-type]
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            http=bounded(terms_of(service.settings)),
            ws="none",
            log_level="error",  # what clients do wrong is theirs to know
            timeout_keep_alive=service.settings.idle_seconds,
            lifespan="off",
            timeout_graceful_shutdown=1,  # after `wind_down`, which has waited
        )
        super().__init__(config)
        self._service, self._console, self._start = service, console, start

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on a signal, and do not raise it again afterwards: our own kernels are still to be ended."""
        with _signals(asyncio.get_running_loop(), lambda signum: self.handle_exit(signum, None)):
            yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the end, each further one hastens it."""
        if self.should_exit:
            self._service.drain.hasten()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let what goes on come to its end, while others hear that it is too late."""
        await self._service.wind_down(self._service.settings.drain_seconds)
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: look after the connections too."""
        now = asyncio.get_running_loop().time()
        for one in list(self.server_state.connections):
            assert isinstance(one, Connection)
            one.look(now)
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then show the banner."""
        await super().startup(sockets)
        assert sockets is not None
        port = sockets[0].getsockname()[1]
        # A body of many objects has the collector run often: it should not look through the program each time.
        gc.collect()
        gc.freeze()
        print_banner(self._service, self._console, port, time.perf_counter() - self._start)


@contextmanager
def listening(settings: Settings) -> Iterator[socket.socket]:
    """Take the port before anything is built, and keep it: a wrong one should fail at once.

    It listens from here on. A socket that is only bound would let another service that is starting bind the same port.
    Requests that come before the service is ready wait for it.
    """
    with ExitStack() as opened:
        try:
            listener = opened.enter_context(bound(settings))
            listener.listen(BACKLOG)
        except OSError as error:
            raise PortInUse(f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}.") from error
        listener.set_inheritable(False)
        yield listener


@contextmanager
def bound(settings: Settings) -> Iterator[socket.socket]:
    """A socket at the service's address, which does not listen yet. Raises OSError."""
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((settings.host, settings.port))
        yield made


@contextmanager
def _progress(console: Console) -> Iterator[Report]:
    """Phases as they come: a spinner on a terminal, lines elsewhere."""
    start = time.perf_counter()
    with Status("Starting", console=console) as status:

        def report(step: Step) -> None:
            line = f"[dim]{time.perf_counter() - start:5.1f} s[/]  [cyan]{step.phase:8}[/] {step.message}"
            if console.is_terminal:
                status.update(line)
            console.print(line, highlight=False)

        yield report


def print_banner(service: Service, console: Console, port: int, seconds: float) -> None:
    """What a person needs next: where it is, what serves, where the token is, and one command to try."""
    settings, health = service.settings, service.health()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{port}"
    table = Table.grid(padding=(0, 2))
    names = ", ".join(service.signatures()) or "none yet"
    for name, value in (
        ("API", url),
        ("Docs", f"{url}/docs  (any user name, the token as password)"),
        ("Kernel", f"{health.kernel}; in Jupyter also as {ALIAS!r}"),
        ("Confined", confined(health.confinement)),
        ("Functions", f"{health.functions}: {names}"),
        ("Token", "AIGBB_TOKEN" if settings.token else str(service.home.token)),
    ):
        table.add_row(f"[bold]{name}[/]", value)
    console.print(Panel(table, title=f"aigbb-functions is ready ({seconds:.1f} s)", expand=False))
    for note in [*unknown(), *service.notes]:
        console.print(f"[yellow]warning[/] {note}", highlight=False)
    console.print("Try it:", style="bold")
    console.print(curl(service, url), soft_wrap=True, highlight=False, markup=False)


def confined(state: Mapping[str, str]) -> str:
    """What kernels are confined by, in a line."""
    if state["profile"] == "off":
        return "no (AIGBB_SANDBOX=off)"
    parts = ", ".join(f"{name} {state[name]}" for name in ("bubblewrap", "landlock", "seccomp") if state[name] != "off")
    return f"{state['profile']}; {parts}"


def curl(service: Service, url: str) -> str:
    """A command that works when pasted into a shell on this machine."""
    token = "$AIGBB_TOKEN" if service.settings.token else f"$(cat '{service.home.token}')"
    return (
        f'curl -s {url}/execute -H "Authorization: Bearer {token}"'
        """ -H 'Content-Type: application/json' -d '{"code": "print(6 * 7)"}'"""
    )
