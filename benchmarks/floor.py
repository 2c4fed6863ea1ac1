"""The least that an execution over HTTP can cost: an echo through the web server, and a kernel that does nothing."""

from __future__ import annotations

import hmac
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import uvicorn
import zmq
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.servers import Server, process, serving
from benchmarks.timing import Sample, Watch
from benchmarks.wire import Http

DELIMITER = b"<IDS|MSG>"
HEAD = {"username": "", "version": "5.4", "date": "2026-01-01T00:00:00.000000Z"}
# What a kernel says about `1+1`, in order, and on which channel.
SAID: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("iopub", "status", {"execution_state": "busy"}),
    ("iopub", "execute_input", {"code": "1+1", "execution_count": 1}),
    ("iopub", "execute_result", {"data": {"text/plain": "2"}, "metadata": {}, "execution_count": 1}),
    ("shell", "execute_reply", {"status": "ok", "execution_count": 1, "payload": [], "user_expressions": {}}),
    ("iopub", "status", {"execution_state": "idle"}),
)


class Echo(BaseModel):
    """What goes in, and comes back."""

    code: str
    session: str | None = None


def serve_echo(port: int) -> None:
    """Answer what was sent, from the web server that the service runs in."""
    app = FastAPI()

    @app.post("/execute")
    async def echo(body: Echo) -> Echo:
        return body

    uvicorn.run(app, port=port, log_config=None, access_log=False, server_header=False, http="httptools", ws="none")


def serve_nothing(folder: Path) -> None:
    """Be a kernel that answers every request alike, and signs and checks what goes over the wire."""
    key, session = (folder / "key").read_bytes(), uuid4().hex
    with zmq.Context() as context, context.socket(zmq.ROUTER) as shell, context.socket(zmq.PUB) as iopub:
        iopub.bind(f"ipc://{folder}/iopub")
        shell.bind(f"ipc://{folder}/shell")
        while True:
            identity, _, signature, *frames = shell.recv_multipart()
            _check(key, signature, frames)
            for channel, kind, content in SAID:
                message = _message(key, session, kind, content, frames[0])
                if channel == "shell":
                    shell.send_multipart([identity, *message])
                else:
                    iopub.send_multipart([b"", *message])


def _message(key: bytes, session: str, kind: str, content: dict[str, Any], parent: bytes = b"{}") -> list[bytes]:
    header = {"msg_id": uuid4().hex, "msg_type": kind, "session": session, **HEAD}
    frames = [json.dumps(header).encode(), parent, b"{}", json.dumps(content).encode()]
    return [DELIMITER, _sign(key, frames), *frames]


def _sign(key: bytes, frames: list[bytes]) -> bytes:
    return hmac.digest(key, b"".join(frames), "sha256").hex().encode()


def _check(key: bytes, signature: bytes, frames: list[bytes]) -> None:
    if not hmac.compare_digest(signature, _sign(key, frames)):
        raise ValueError("The signature is wrong.")


@dataclass(frozen=True)
class Floor:
    """Connections to both."""

    http: Http
    shell: zmq.Socket[bytes]
    iopub: zmq.Socket[bytes]
    key: bytes

    def once(self, _: int) -> Sample:
        """One echo, then one exchange."""
        watch = Watch()
        status, answer = self.http.request("POST", "/execute", json.dumps({"code": "1+1", "session": "one"}).encode())
        json.loads(answer)
        watch.lap("an echo through uvicorn and FastAPI")
        if status != 200:
            raise RuntimeError(f"The echo answered {status}.")
        self.exchange()
        watch.lap("signed messages with a kernel that does nothing")
        return watch.laps

    def exchange(self) -> None:
        """Ask, and read all that is said."""
        self.shell.send_multipart(_message(self.key, "client", "execute_request", {"code": "1+1", "silent": False}))
        for channel, kind, _ in SAID:
            frames = (self.shell if channel == "shell" else self.iopub).recv_multipart()
            start = frames.index(DELIMITER)
            _check(self.key, frames[start + 1], frames[start + 2 :])
            if json.loads(frames[start + 2])["msg_type"] != kind:
                raise RuntimeError(f"{kind} was expected.")
            json.loads(frames[start + 5])


@contextmanager
def running() -> Iterator[Floor]:
    """Both, each in a process of its own, with sockets in a folder whose path is short enough for them."""
    with tempfile.TemporaryDirectory(prefix="floor-") as name, _running(Path(name)) as floor:
        yield floor


@contextmanager
def _running(folder: Path) -> Iterator[Floor]:
    key = uuid4().hex.encode()
    (folder / "key").write_bytes(key)
    argv = [sys.executable, "-m", "benchmarks.floor"]
    with ExitStack() as stack:
        echo = Server("/openapi.json", lambda port: [*argv, "echo", str(port)])
        http = Http(stack.enter_context(serving(folder / "echo.log", echo)).url)
        stack.enter_context(process([*argv, "kernel", str(folder)], folder / "kernel.log", dict(os.environ)))
        context = stack.enter_context(zmq.Context())
        shell, iopub = (stack.enter_context(context.socket(kind)) for kind in (zmq.DEALER, zmq.SUB))
        iopub.subscribe(b"")
        for name, channel in (("shell", shell), ("iopub", iopub)):
            channel.setsockopt(zmq.LINGER, 0)
            channel.setsockopt(zmq.RCVTIMEO, 20_000)
            channel.connect(f"ipc://{folder}/{name}")
        floor = Floor(http, shell, iopub, key)
        _join(floor)
        yield floor


def _join(floor: Floor) -> None:
    """Ask until all that is said is heard: the subscription takes a moment."""
    while True:
        floor.shell.send_multipart(_message(floor.key, "client", "execute_request", {}))
        floor.shell.recv_multipart()
        heard = 0
        while floor.iopub.poll(200):
            floor.iopub.recv_multipart()
            heard += 1
        if heard == len(SAID) - 1:
            return


def main() -> None:
    """`echo PORT` or `kernel FOLDER`."""
    _, what, where = sys.argv
    if what == "echo":
        serve_echo(int(where))
    else:
        serve_nothing(Path(where))


if __name__ == "__main__":
    main()
