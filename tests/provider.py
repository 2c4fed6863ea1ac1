"""A model's service whose answers are written down beforehand: real HTTP in OpenAI's protocol, good and bad."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Chunk = dict[str, Any]


@dataclass(frozen=True)
class Refusal:
    """An answer that is an error."""

    status: int
    message: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Broken:
    """A stream that ends in the middle."""

    chunks: Sequence[Chunk]


@dataclass(frozen=True)
class Whole:
    """An answer in one piece: JSON, or a text that is none."""

    body: dict[str, Any] | str


@dataclass(frozen=True)
class Silence:
    """No answer until the test is over."""


Answer = Sequence[Chunk] | Refusal | Broken | Whole | Silence


def says(text: str, finish: str = "stop", pieces: int = 4) -> list[Chunk]:
    """A stream of text."""
    cut = max(1, len(text) // pieces)
    parts = [text[n : n + cut] for n in range(0, len(text), cut)]
    usage = {"prompt_tokens": 10, "completion_tokens": len(parts), "total_tokens": 10 + len(parts)}
    return [*(chunk(content=part) for part in parts), chunk(finish), {"choices": [], "usage": usage}]


def asks(*calls: tuple[str, Any], ids: Sequence[str] = (), finish: str = "tool_calls") -> list[Chunk]:
    """A stream that asks for calls, each a name and arguments; they come in two pieces."""
    found = []
    for number, (name, arguments) in enumerate(calls):
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        own = ids[number] if ids else f"call_{number}"
        begin = {"index": number, "id": own, "type": "function", "function": {"name": name, "arguments": text[:2]}}
        found += [chunk(tool_calls=[begin])]
        found += [chunk(tool_calls=[{"index": number, "function": {"arguments": text[2:]}}])]
    return [*found, chunk(finish)]


def asks_legacy(name: str, arguments: Any, **more: Any) -> list[Chunk]:
    """A stream that asks for a function, as before there were tools."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    first = {"name": name, "arguments": text[:2], **more}
    return [chunk(function_call=first), chunk(function_call={"arguments": text[2:]}), chunk("function_call")]


def asks_in_words(*calls: tuple[str, Any]) -> list[Chunk]:
    """A stream of text that asks for calls."""
    found = [{"name": name, "arguments": arguments} for name, arguments in calls]
    return says(f"Let me see.\n```json\n{json.dumps(found[0] if len(found) == 1 else found)}\n```")


def whole(finish: str = "stop", **message: Any) -> Whole:
    """A completion that was asked for without a stream."""
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **message}, "finish_reason": finish}
    usage = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
    return Whole(
        {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    )


def chunk(finish: str | None = None, **delta: Any) -> Chunk:
    """One piece of a stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


class Provider:
    """Answers each conversation, known by its first question, with what was written down for it, in turn."""

    def __init__(self) -> None:
        self._answers: dict[str, deque[Answer]] = {}
        self.asked: dict[str, list[dict[str, Any]]] = {}
        self.keys: set[str] = set()
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.over = threading.Event()
        self.url = ""

    @property
    def environment(self) -> dict[str, str]:
        """What a service needs to find it."""
        return {"OPENAI_API_KEY": "sk-of-a-test", "OPENAI_BASE_URL": self.url}

    def write_down(self, question: str, *answers: Answer) -> None:
        """What is to be answered to a conversation that begins with this question."""
        self._answers[question] = deque(answers)
        self.asked[question] = []

    def next(self, request: dict[str, Any], key: str) -> Answer:
        """What comes now."""
        self.keys.add(key)
        question = next(m["content"] for m in request["messages"] if m["role"] == "user")
        self.asked.setdefault(question, []).append(request)
        answers = self._answers.get(question)
        return answers.popleft() if answers else Refusal(400, f"nothing is written down for {question!r}")


@contextmanager
def serving(kind: type[Provider] = Provider) -> Iterator[Provider]:
    """A provider on a port of its own."""
    provider = kind()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            provider.paths.append(self.path)
            provider.headers.append({name.lower(): value for name, value in self.headers.items()})
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            respond(self, provider, provider.next(request, self.headers["Authorization"] or ""))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    provider.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield provider
    finally:
        provider.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def respond(handler: BaseHTTPRequestHandler, provider: Provider, answer: Answer) -> None:
    """Send an answer, and close the connection."""
    if isinstance(answer, Silence):
        provider.over.wait(60)
        return
    if isinstance(answer, Whole):
        text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html" if text is answer.body else "application/json")
        handler.end_headers()
        handler.wfile.write(text.encode())
        return
    if isinstance(answer, Refusal):
        body = json.dumps({"error": {"message": answer.message, "type": "error", "code": None}}).encode()
        handler.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(body), **answer.headers}.items():
            handler.send_header(name, str(value))
        handler.end_headers()
        handler.wfile.write(body)
        return
    chunks = answer.chunks if isinstance(answer, Broken) else answer
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Content-Length", "1000000") if isinstance(answer, Broken) else None
    handler.end_headers()
    for one in chunks:
        handler.wfile.write(f"data: {json.dumps(one)}\n\n".encode())
        handler.wfile.flush()
    if not isinstance(answer, Broken):
        handler.wfile.write(b"data: [DONE]\n\n")
