"""ipykernel with less to do for a request. What travels is Jupyter's protocol as before. Each class says what it saves.

Times are of one `1+1`, of which stock ipykernel makes 3 ms.
"""

# ipykernel is largely untyped, and its shell may be None by type.
# mypy: disable-error-code="no-untyped-call, union-attr, no-any-return"

import inspect
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from hmac import compare_digest
from signal import SIGINT, signal
from threading import Thread, current_thread
from typing import Any
from uuid import uuid4

import zmq
from ipykernel.compiler import XCachingCompiler
from ipykernel.displayhook import ZMQShellDisplayHook
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from ipykernel.zmqshell import ZMQInteractiveShell
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client import session
from jupyter_client.adapter import adapt
from jupyter_client.jsonutil import json_default
from traitlets import Bool, Callable, DottedObjectName, Type, default

from .streams import MAX_WAITING, Publisher, ReplyStream, Shield, Stream
from .tracebacks import shorten

ENCODER = json.JSONEncoder(default=json_default, ensure_ascii=False, allow_nan=False)
ESCAPER = json.JSONEncoder(default=json_default, allow_nan=False)


def pack(value: Any) -> bytes:
    """As jupyter_client packs, without making an encoder for each part."""
    if value == {}:
        return b"{}"
    try:
        return ENCODER.encode(value).encode()
    except UnicodeEncodeError:  # a text with lone surrogates, which jupyter_client's own packer gives up on
        return ESCAPER.encode(value).encode()
    except (TypeError, ValueError):
        return session.json_packer(value)


class Session(session.Session):
    """Saves 0.13 ms: dates are not parsed, and a parent's header is packed once, not for each message."""

    pack = Callable(pack)
    unpack = Callable(session.json_unpacker)
    packed: tuple[Any, bytes] = (None, b"")

    def serialize(self, msg: dict[str, Any], ident: Any = None) -> list[bytes]:
        """The frames of a message."""
        parent, content = msg["parent_header"], msg.get("content")
        if self.packed[0] is not parent:
            self.packed = (parent, self.pack(parent))
        if not isinstance(content, dict):
            return super().serialize(msg, ident)
        parts = [self.pack(msg["header"]), self.packed[1], self.pack(msg["metadata"]), self.pack(content)]
        before = ident if isinstance(ident, list) else [] if ident is None else [ident]
        return [*before, session.DELIM, self.sign(parts), *parts]

    def deserialize(self, msg_list: list[Any], content: bool = True, copy: bool = True) -> dict[str, Any]:
        """The message that frames hold, its dates as text. Raises ValueError for a wrong signature."""
        signature, *parts = (part if copy else bytes(part.bytes) for part in msg_list[:5])
        if len(parts) < 4:
            raise TypeError("malformed message, must have at least 5 elements")
        if self.auth is not None:
            self.verify(signature, parts, content)
        header, parent, metadata = map(self.unpack, parts[:3])
        message = {
            "header": header,
            "msg_id": header["msg_id"],
            "msg_type": header["msg_type"],
            "parent_header": parent,
            "metadata": metadata,
            "content": self.unpack(parts[3]) if content else parts[3],
            "buffers": [memoryview(part if copy else part.bytes) for part in msg_list[5:]],
        }
        return adapt(message)

    def verify(self, signature: bytes, parts: list[bytes], keep: bool) -> None:
        """Raise ValueError unless the signature is right and new."""
        if not signature:
            raise ValueError("Unsigned Message")
        if signature in self.digest_history:
            raise ValueError(f"Duplicate Signature: {signature!r}")
        if keep:
            self._add_digest(signature)
        if not compare_digest(signature, self.sign(parts)):
            raise ValueError(f"Invalid Signature: {signature!r}")


SCALARS = (int, float, str, bool)
# The classes of formatters that ask nothing of a scalar but what was registered for it.
OWN_FORMATTERS = "IPython.core.formatters"


class DisplayHook(ZMQShellDisplayHook):
    """Saves 0.05 ms: a number or a text has no form but plain text, unless somebody registered one."""

    def compute_format_data(self, result: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The result by MIME type, and metadata of the same."""
        formatters = self.shell.display_formatter.formatters
        if type(result) in SCALARS and is_plain(self.shell.display_formatter, result):
            text = formatters["text/plain"](result)
            return ({} if text is None else {"text/plain": text}), {}
        return super().compute_format_data(result)

    def log_output(self, format_dict: dict[str, Any]) -> None:
        """Keep it for the history. Without one, it would be kept for nothing, and for ever."""
        super().log_output(format_dict)
        if not self.shell.history_manager.enabled:
            self.shell.history_manager.outputs.clear()


def is_plain(formatter: Any, value: Any) -> bool:
    """Whether no formatter, but the one for plain text, has been told anything about a scalar."""
    types, names = type(value).__mro__, [(t.__module__, t.__name__) for t in type(value).__mro__]
    for other in (formatter.ipython_display_formatter, formatter.mimebundle_formatter, *formatter.formatters.values()):
        if type(other).__module__ != OWN_FORMATTERS:
            return False
        if other.format_type == "text/plain" and other is formatter.formatters["text/plain"]:
            continue
        by_type, by_name = other.type_printers, other.deferred_printers
        if id(value) in other.singleton_printers or (by_type and not by_type.keys().isdisjoint(types)):
            return False
        if by_name and not by_name.keys().isdisjoint(names):
            return False
    return True


class Shell(ZMQInteractiveShell):
    """Saves 0.1 ms: a cell is transformed once, and the signature of `run_cell_async` is known.

    Without a history, what is printed is not kept for it either.
    """

    displayhook_class = Type(DisplayHook)
    compiler_class = Type(XCachingCompiler)
    # A cell before and after; whether the next one is to be kept.
    transformed: tuple[str, str] | None = None
    keep_next = False

    @contextmanager
    def transforming_once(self) -> Iterator[None]:
        """Inside, the cell that is transformed first is not transformed a second time."""
        self.keep_next = True
        try:
            yield
        finally:
            self.keep_next, self.transformed = False, None

    def transform_cell(self, raw_cell: str) -> str:
        """IPython's syntax as Python's."""
        kept, keep = self.transformed, self.keep_next
        self.transformed, self.keep_next = None, False
        if kept is not None and kept[0] is raw_cell:
            return kept[1]
        cell: str = super().transform_cell(raw_cell)
        if keep:
            self.transformed = (raw_cell, cell)
        return cell

    async def run_cell_async(self, *args: Any, **kwargs: Any) -> Any:
        """Run a cell. Its signature is asked for before each."""
        return await super().run_cell_async(*args, **kwargs)

    run_cell_async.__signature__ = inspect.signature(InteractiveShell.run_cell_async)  # type: ignore[attr-defined]

    def exercise(self, times: int = 1) -> None:
        """Run nothing, as a cell is run: what is used for the first time costs the most, also after a fork."""
        for _ in range(times):
            self.run_cell("0", store_history=False, silent=True)
            self.display_formatter.format(0)

    def _get_exc_info(self, exc_tuple: Any = None) -> Any:
        """The exception that is to be shown, shortened. An interrupt came where it came, not in its handler."""
        found = super()._get_exc_info(exc_tuple)
        last = found[2] if isinstance(found[1], KeyboardInterrupt) else None
        while last is not None and last.tb_next is not None:
            if last.tb_next.tb_frame.f_code is Shield.on_interrupt.__code__:
                last.tb_next = None
            last = last.tb_next
        shorten(found[1])
        return found

    def _tee(self, channel: Any) -> Any:
        if self.history_manager.enabled:
            return super()._tee(channel)
        return nullcontext()


class NoThread:
    """In the place of the shell channel's thread. False, as None is, but ipykernel asks it for its parent."""

    def __init__(self) -> None:
        self.parent_thread: Thread = current_thread()

    def __bool__(self) -> bool:
        return False


# What a kernel has before the fork: it is as good after it.
MADE_BEFORE = ("parent", "session", "log", "profile_dir", "user_ns")


class Kernel(IPythonKernel):
    """Saves 0.25 ms where a service owns the kernel: requests reach the main thread without two changes of threads.

    Such a kernel has no subshells, and says so. One that was made before a fork is completed after it: what a process
    touches after a fork is copied for it, page by page, which is most of the time that a forked kernel takes to start.
    """

    shell_class = Type(Shell)

    library: Any = None  # the functions that cells and calls run with

    @classmethod
    def instance(cls, *args: Any, **kwargs: Any) -> Any:
        """The kernel of this process, made now, or completed if it was made before a fork."""
        if not cls.initialized():
            return super().instance(*args, **kwargs)
        kernel = super().instance()
        kernel.attach({name: part for name, part in kwargs.items() if name not in MADE_BEFORE})
        return kernel

    def attach(self, parts: dict[str, Any]) -> None:
        """Take the sockets, streams and threads of this process."""
        for name, part in parts.items():
            setattr(self, name, part)
        self.ident = str(uuid4())
        self._stdout, self._stderr = sys.stdout, sys.stderr
        for publisher in (self.shell.displayhook, self.shell.display_pub):
            publisher.session, publisher.pub_socket = self.session, self.iopub_socket
        self.shell.displayhook.topic = self._topic("execute_result")

    @property
    def _supports_kernel_subshells(self) -> bool:
        return bool(self.shell_channel_thread)

    def set_parent(self, ident: Any, parent: dict[str, Any], channel: str = "shell") -> None:
        """Take on the request that what follows belongs to. Without subshells, that it names one is of no account."""
        if not self._supports_kernel_subshells and "header" in parent:
            parent["header"].pop("subshell_id", None)
        super().set_parent(ident, parent, channel)

    async def do_execute(self, code: str, silent: bool, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Run a cell."""
        with self.shell.transforming_once():
            return await super().do_execute(code, silent, *args, **kwargs)

    def finish_metadata(self, parent: Any, metadata: dict[str, Any], reply_content: Any) -> dict[str, Any]:
        """What is said beside a reply: the snapshot of the functions too."""
        if self.library is not None:
            metadata["aigbb_snapshot"] = self.library.number
        found: dict[str, Any] = super().finish_metadata(parent, metadata, reply_content)
        return found

    def start(self) -> None:
        """Begin to take requests."""
        if not self._supports_kernel_subshells:
            stream = self.shell_stream
            stream.io_loop.remove_handler(stream.socket)
            self.shell_stream = ReplyStream(stream.socket, stream.io_loop, self.iopub_thread.shield)
        super().start()

    def pre_handler_hook(self) -> None:
        """Before a request that may be interrupted."""
        shield = self.iopub_thread.shield
        shield.lower()
        self.saved_sigint_handler = signal(SIGINT, shield.on_interrupt)

    async def poll_stopped_queue(self) -> None:
        """Wait for a debugger, if there is one."""
        if hasattr(self, "debugger"):
            await super().poll_stopped_queue()


class App(IPKernelApp):
    """An ipykernel with these parts. `owned`: a service owns it, and no user's notebook is attached to it."""

    owned = Bool(False)
    kernel_class = Type(Kernel, klass=IPythonKernel).tag(config=True)
    outstream_class = DottedObjectName(f"{Stream.__module__}.{Stream.__name__}").tag(config=True)

    @default("session")
    def _session_default(self) -> Session:
        return Session(parent=self)

    def init_control(self, context: Any) -> None:
        """The control channel, and the thread of the shell channel."""
        super().init_control(context)
        if self.owned:
            self.shell_channel_thread.io_loop.close()
            self.shell_channel_thread = NoThread()

    def init_iopub(self, context: Any) -> None:
        """The channel for all that is published. An owned kernel waits for whoever is slow to read."""
        self.iopub_socket = context.socket(zmq.XPUB)
        self.iopub_socket.linger = 1000
        if self.owned:
            self.iopub_socket.sndhwm = MAX_WAITING
        self._apply_curve_server_options(self.iopub_socket)
        self.iopub_port = self._bind_socket(self.iopub_socket, self.iopub_port)
        self.configure_tornado_logger()
        self.iopub_thread = Publisher(self.iopub_socket, self.session, lossless=self.owned)
        self.iopub_thread.start()
        self.iopub_socket = self.iopub_thread.background_socket
