"""A kernel's sockets: what is sent is signed, what comes is checked, and a flood leaves turns to others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
import zmq
import zmq.asyncio
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.session import Session

from kernels.channels import TURN, Channels, Message

pytestmark = pytest.mark.anyio


@dataclass
class Fake:
    """The other end: the sockets of a kernel that says what a test wants, and what was heard of it."""

    session: Session
    shell: zmq.Socket[bytes]
    iopub: zmq.Socket[bytes]
    channels: Channels
    heard: list[Message]

    def say(self, kind: str, content: Any, *, parent: str | None = None) -> None:
        """Send a message on iopub."""
        self.session.send(self.iopub, kind, content, parent={"msg_id": parent} if parent else None, ident=b"topic")

    def count_up(self, count: int) -> None:
        """Say all numbers below one, waiting for who is slow."""
        for number in range(count):
            self.say("stream", {"text": str(number)})

    async def until(self, count: int) -> list[Message]:
        """Wait for so many messages."""
        with anyio.fail_after(20):
            while len(self.heard) < count:
                await asyncio.sleep(0.001)
        return self.heard


@pytest.fixture
async def fake(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fake]:
    """Connected on both channels, before the kernel's end is there."""
    monkeypatch.chdir(tmp_path_factory.mktemp("k"))  # a socket's path has to be short
    context = zmq.asyncio.Context()
    manager = AsyncKernelManager(transport="ipc", ip="k", context=context)
    manager.shell_port, manager.iopub_port = 1, 2
    session = Session(key=manager.session.key)
    heard: list[Message] = []
    channels = Channels(manager, context, heard.append)
    plain: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(context)
    shell, iopub = plain.socket(zmq.ROUTER), plain.socket(zmq.XPUB)
    iopub.sndhwm, iopub.xpub_nodrop = 64, True  # as our kernels have it: they wait for who is slow
    shell.bind("ipc://k-1")
    iopub.bind("ipc://k-2")
    assert await asyncio.to_thread(iopub.recv) == b"\x01"
    yield Fake(session, shell, iopub, channels, heard)
    channels.close()
    channels.close()
    for socket in (shell, iopub):
        socket.close(linger=0)
    context.term()


async def test_a_request_arrives_signed_under_its_id(fake: Fake) -> None:
    fake.channels.ask("execute_request", "my-id", {"code": "'ä'"})
    identity, request = await asyncio.to_thread(fake.session.recv, fake.shell, 0)
    assert request is not None
    assert request["header"]["msg_id"] == "my-id" and request["msg_type"] == "execute_request"
    assert request["content"] == {"code": "'ä'"}
    fake.session.send(fake.shell, "execute_reply", {"status": "ok"}, parent=request, ident=identity)
    [reply] = await fake.until(1)
    assert (reply.channel, reply.kind, reply.parent) == ("shell", "execute_reply", "my-id")
    assert reply.content() == {"status": "ok"}


async def test_a_message_with_a_wrong_signature_or_shape_is_passed_over(fake: Fake) -> None:
    Session(key=b"another").send(fake.iopub, "stream", {"text": "forged"})
    fake.iopub.send_multipart([b"no", b"delimiter"])
    fake.iopub.send_multipart([b"<IDS|MSG>", b"too", b"short"])
    fake.say("stream", {"text": "true"})
    [message] = await fake.until(1)
    assert message.content() == {"text": "true"}


async def test_a_message_over_the_limit_is_not_read_but_what_it_is_can_be_told(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernels.channels.MAX_MESSAGE", 1000)
    fake.say("stream", {"text": "x" * 2000}, parent="mine")
    [message] = await fake.until(1)
    assert not message.whole and message.size > 2000
    assert (message.kind, message.parent) == ("stream", "mine")


async def test_a_burst_arrives_whole_and_in_order_and_leaves_turns_to_others(fake: Fake) -> None:
    count = 20_000
    saying = asyncio.create_task(asyncio.to_thread(fake.count_up, count))
    before = turns = 0
    with anyio.fail_after(60):
        while len(fake.heard) < count:
            await asyncio.sleep(0)
            assert len(fake.heard) - before <= 2 * TURN  # between two looks, one turn may end and another begin
            before, turns = len(fake.heard), turns + 1
    assert [message.content()["text"] for message in fake.heard] == [str(number) for number in range(count)]
    assert turns >= count // (2 * TURN)
    await saying


async def test_what_is_not_read_waits_in_the_kernel(fake: Fake) -> None:
    """Of 200 MB, little may wait on our side, or a kernel that prints while we are busy takes our memory."""
    frames = fake.session.serialize(fake.session.msg("stream", {"text": "x" * 262_144}))
    sent = 0
    with pytest.raises(zmq.Again):
        while sent < 800:
            fake.iopub.send_multipart(frames, zmq.NOBLOCK)
            sent += 1
    heard = await fake.until(sent)
    assert len(heard) == sent < 800


async def test_answers_that_come_while_requests_are_sent_are_heard(fake: Fake) -> None:
    """A socket's descriptor tells of a change once, and sending may be the one that is told."""

    def answer() -> None:
        for _ in range(300):
            identity, request = fake.session.recv(fake.shell, 0)
            fake.session.send(fake.shell, "reply", {}, parent=request, ident=identity)

    answering = asyncio.create_task(asyncio.to_thread(answer))
    for number in range(300):
        fake.channels.ask("request", str(number), {})
        if number % 7 == 0:
            await asyncio.sleep(0)
    await fake.until(300)
    await answering
    assert [message.parent for message in fake.heard] == [str(number) for number in range(300)]


async def test_after_a_quiet_request_what_is_published_is_heard_with_the_reply_or_soon(fake: Fake) -> None:
    for replies in (True, False):
        fake.heard.clear()
        fake.channels.ask("request", "mine", {}, quiet=True)
        fake.say("stream", {"text": "1"}, parent="mine")
        if replies:
            identity, request = await asyncio.to_thread(fake.session.recv, fake.shell, 0)
            fake.session.send(fake.shell, "reply", {}, parent=request, ident=identity)
        heard = await fake.until(1 + replies)
        assert sorted(message.channel for message in heard) == ["iopub", "shell"][: 1 + replies]
    fake.channels.ask("request", "mine", {}, quiet=True)
    fake.channels.close()
    await asyncio.sleep(0.01)


async def test_nothing_is_heard_after_the_end(fake: Fake) -> None:
    fake.say("stream", {"text": "1"})
    await fake.until(1)
    fake.say("stream", {"text": "2"})
    fake.channels.close()
    await asyncio.sleep(0.05)
    assert len(fake.heard) == 1
