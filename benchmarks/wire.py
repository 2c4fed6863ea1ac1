"""Connections that cost a client next to nothing: HTTP kept alive, and the websocket of Jupyter's servers."""

from __future__ import annotations

import base64
import json
import os
import select
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

SECONDS = 300.0
CHUNK = 1 << 20


class Http:
    """One connection of HTTP/1.1. The same client for every server."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, seconds: float = SECONDS) -> None:
        """seconds: after which an answer is no longer waited for, with TimeoutError."""
        self._seconds = seconds
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        lines = {"Host": parts.netloc, "Content-Type": "application/json", **(headers or {})}
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._socket: socket.socket | None = None
        self._tail = b""

    def request(self, method: str, path: str, body: bytes = b"", headers: str = "") -> tuple[int, bytes]:
        """One request; its status and body. headers: more lines, each with its line end."""
        answer = self._exchange(self._encode(method, path, body, headers))
        head, _, rest = answer.partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in head.lower():
            return int(head[9:12]), self._chunks(rest)
        missing = _length(head) - len(rest)
        return int(head[9:12]), rest if missing <= 0 else rest + self._read(missing)

    def first(self, method: str, path: str, body: bytes, headers: str, marker: bytes) -> None:
        """Send a request and return once its streamed answer holds the marker. `drain` takes the rest."""
        received = self._exchange(self._encode(method, path, body, headers))
        while marker not in received:
            received += self._receive()
        self._tail = received[-5:]

    def drain(self) -> None:
        """Let a streamed answer end."""
        while not self._tail.endswith(b"0\r\n\r\n"):
            self._tail = (self._tail + self._receive())[-5:]

    def upgrade(self, path: str, headers: str) -> tuple[bytes, bytes, socket.socket]:
        """Ask for another protocol: the answer's head, what came after it, and the connection, which is given away."""
        head, _, rest = self._exchange(self._encode("GET", path, b"", headers)).partition(b"\r\n\r\n")
        taken, self._socket = self._socket, None
        assert taken
        return head, rest, taken

    def close(self) -> None:
        """End the connection; the next request opens another."""
        if self._socket:
            self._socket.close()
        self._socket = None

    def _encode(self, method: str, path: str, body: bytes, headers: str) -> bytes:
        return (
            f"{method} {path} HTTP/1.1\r\n{self._headers}{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body
        )

    def _exchange(self, request: bytes) -> bytes:
        """Send, and receive at least the head. Once more where the server had closed the idle connection."""
        if self._socket is None or select.select([self._socket], [], [], 0)[0]:
            self._open()
        with suppress(ConnectionError):
            return self._head(request)
        self._open()
        return self._head(request)

    def _head(self, request: bytes) -> bytes:
        assert self._socket
        self._socket.sendall(request)
        answer = self._receive()
        while b"\r\n\r\n" not in answer:
            answer += self._receive()
        return answer

    def _open(self) -> None:
        self.close()
        self._socket = socket.create_connection(self._address, self._seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _receive(self) -> bytes:
        assert self._socket
        piece = self._socket.recv(CHUNK)
        if not piece:
            raise ConnectionResetError("The server closed the connection.")
        return piece

    def _chunks(self, received: bytes) -> bytes:
        """The body of an answer that comes in chunks, each with its size before it and a line's end behind it."""
        data, body, start = bytearray(received), bytearray(), 0
        while True:
            while (end := data.find(b"\r\n", start)) < 0:
                data += self._receive()
            size = int(data[start:end], 16)
            start = end + 2 + size + 2
            if start > len(data):
                data += self._read(start - len(data))
            if size == 0:
                return bytes(body)
            body += data[end + 2 : end + 2 + size]

    def _read(self, length: int) -> bytes:
        pieces = []
        while length > 0:
            pieces.append(self._receive())
            length -= len(pieces[-1])
        return b"".join(pieces)


def _length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


class Channels:
    """A kernel's websocket at a Jupyter server, with the messages as JSON text."""

    def __init__(self, url: str, kernel: str, headers: Mapping[str, str] | None = None) -> None:
        self._session = uuid4().hex
        key = base64.b64encode(os.urandom(16)).decode()
        upgrade = (
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        )
        path = f"/api/kernels/{kernel}/channels?session_id={self._session}"
        head, self._buffer, self._socket = Http(url, headers).upgrade(path, upgrade)
        if b" 101 " not in head:
            raise ConnectionError(f"The websocket was refused:\n{head.decode(errors='replace')}")

    def execute(self, code: str) -> str:
        """Run code, and wait for the reply and for idle. Returns the result's text."""
        asked, result, waiting = uuid4().hex, "", {"execute_reply", "idle"}
        self._send(1, json.dumps(_request(asked, self._session, code)).encode())
        while waiting:
            message = json.loads(self._receive())
            if message["parent_header"].get("msg_id") != asked:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "execute_result":
                result = content["data"]["text/plain"]
            waiting -= {kind, content.get("execution_state", "")}
        return result

    def close(self) -> None:
        """End the connection; the kernel stays."""
        self._socket.close()

    def _send(self, opcode: int, payload: bytes) -> None:
        """One frame; its mask is zero, which is as good as any between two processes on one machine."""
        size = len(payload)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack(">H", size)
        self._socket.sendall(bytes([0x80 | opcode]) + length + bytes(4) + payload)

    def _receive(self) -> bytes:
        """The next text message; pings are answered."""
        message = b""
        while True:
            first, size = self._take(2)
            if size >= 126:
                size = int.from_bytes(self._take(2 if size == 126 else 8))
            payload, opcode = self._take(size), first & 0x0F
            if opcode == 9:
                self._send(10, payload)
            elif opcode == 8:
                raise ConnectionError("The server closed the websocket.")
            else:
                message += payload
                if first & 0x80:
                    return message

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            piece = self._socket.recv(CHUNK)
            if not piece:
                raise ConnectionError("The server closed the websocket.")
            self._buffer += piece
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken


def _request(identity: str, session: str, code: str) -> dict[str, Any]:
    """As Jupyter's messaging documentation has it. Input history is left out, as it is for us."""
    header = {"msg_id": identity, "msg_type": "execute_request", "session": session, "username": "", "version": "5.4"}
    content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
    return {
        "header": header,
        "parent_header": {},
        "metadata": {},
        "content": content,
        "channel": "shell",
        "buffers": [],
    }
