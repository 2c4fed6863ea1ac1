"""A model's service that answers at once, and remembers when: what a turn of chat takes is then the loop's own time."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Chunk = Mapping[str, Any]


@dataclass(frozen=True)
class Span:
    """An answer: when its request had been read, when its first chunk was on its way, and when its last. In seconds."""

    begin: float
    first: float
    end: float


@dataclass
class Model:
    """What it answers, in turn, and when it did. Where it is, as the openai client takes it."""

    answers: list[Sequence[Chunk]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    url: str = ""

    def write_down(self, *answers: Sequence[Chunk]) -> None:
        """Forget what was, and answer these."""
        self.answers, self.spans = list(answers), []

    @property
    def busy(self) -> float:
        """Milliseconds that it spent on answers."""
        return sum(span.end - span.begin for span in self.spans) * 1000


def words(text: str) -> list[Chunk]:
    """An answer in words."""
    return [*(_chunk({"content": f"{word} "}) for word in text.split()), _chunk({}, "stop")]


def calls(name: str, *arguments: Mapping[str, Any]) -> list[Chunk]:
    """An answer that asks for calls of a function."""
    found = []
    for number, given in enumerate(arguments):
        function = {"name": name, "arguments": json.dumps(given)}
        found.append({"index": number, "id": f"call_{number}", "type": "function", "function": function})
    return [*(_chunk({"tool_calls": [call]}) for call in found), _chunk({}, "tool_calls")]


def _chunk(delta: Mapping[str, Any], finish: str | None = None) -> Chunk:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "bench", "choices": [choice]}


class _Quiet(ThreadingHTTPServer):
    """A client that has read enough may close its connection."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving() -> Iterator[Model]:
    """Such a service, on a port of its own; connections stay open, as with real ones."""
    model = Model()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            begin = time.monotonic()
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            first = 0.0
            for chunk in model.answers[len(model.spans)]:
                first = first or time.monotonic()
                self._send(f"data: {json.dumps(chunk)}\n\n".encode())
            # Noted before the end is sent: whoever has read that looks, or asks again.
            model.spans.append(Span(begin, first, time.monotonic()))
            self._send(b"data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")

        def _send(self, data: bytes) -> None:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

        def log_message(self, *_: object) -> None:
            pass

    server = _Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    model.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield model
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
