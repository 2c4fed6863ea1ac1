"""Typed calls inside a kernel: three requests on the shell channel beside Jupyter's own.

`aigbb_call_request` {"name", "arguments", "pinned", "version", "budget"} is answered by `aigbb_call_reply`, one of
{"status": "ok", "result", "content", "cut", "version"}, {"status": "refused", "errors"} and
{"status": "error", "ename", "evalue", "traceback"}. Where content is only the beginning, cut is {"tail", "left_out"}.
`aigbb_prepare_request` {"pinned"} is answered by {"status": "ok"}; a kernel that is pinned stays with the functions
that it has then. `aigbb_give_request` {"values", "names", "code", "once"}, before another request, puts
secrets into the environment and lets functions load that waited for them, if the sources of the functions in `code`
are those of these digests; it is answered by {"status": "ok"}.
Replies say in their metadata, as those to cells do, which snapshot was run with: `aigbb_snapshot`.
What the function prints and shows goes the same way as a cell's.
"""

import asyncio
import inspect
import json
import linecache
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .launch import hide_memory
from .package import PACKAGE, typed_dicts
from .tracebacks import shorten

if TYPE_CHECKING:
    from .contract import Contract
    from .functions import Functions


class Calling:
    """Answers calls in a shell's kernel. Contracts are built at a function's first call."""

    def __init__(self, shell: Any, functions: "Functions") -> None:
        self.shell = shell
        self.functions = functions
        self.contracts: dict[Any, Contract] = {}

    def attach(self) -> None:
        """Take the three requests on, as ipykernel does for its comms."""
        handlers = self.shell.kernel.shell_handlers
        handlers["aigbb_call_request"] = self.on_call
        handlers["aigbb_prepare_request"] = self.on_prepare
        handlers["aigbb_give_request"] = self.on_give

    async def on_call(self, stream: Any, identity: Any, request: Mapping[str, Any]) -> None:
        """Answer one call, whatever happens in it."""
        try:
            reply = await self.answer(request["content"])
        except BaseException as error:
            reply = self.failure(error)
        # A reply that is too large to be read is known by its metadata.
        known = {name: value for name, value in reply.items() if name != "result"}
        known["aigbb_snapshot"] = self.functions.library.number
        self.shell.kernel.session.send(stream, "aigbb_call_reply", reply, request, identity, metadata=known)

    async def on_prepare(self, stream: Any, identity: Any, request: Mapping[str, Any]) -> None:
        """Load what the next request would have to wait for."""
        from . import contract, forms  # noqa: F401

        self.functions.refresh()
        self.shell.exercise()
        self.functions.library.pinned = request["content"]["pinned"]
        self.shell.kernel.session.send(stream, "aigbb_prepare_reply", {"status": "ok"}, request, identity)

    async def on_give(self, stream: Any, identity: Any, request: Mapping[str, Any]) -> None:
        """Take secrets: no environment that other processes can read has ever held them."""
        given, library = request["content"], self.functions.library
        self.functions.refresh()
        if all(library.known.get(name, {}).get("digest") == digest for name, digest in given["code"].items()):
            library.pinned = library.pinned or given["once"]
            hide_memory()
            os.environ.update(given["values"])
            library.give(given["names"])
        self.shell.kernel.session.send(stream, "aigbb_give_reply", {"status": "ok"}, request, identity)

    async def answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Validate, call, and put the result into forms that can travel."""
        from .contract import WrongArguments
        from .forms import to_content, to_json

        self.functions.refresh()
        for line in self.functions.take_unsaid():
            print(line, file=sys.stderr)
        contract, version = self.find(asked["name"], asked["pinned"], asked["version"])
        try:
            args, kwargs = contract.bind(asked["arguments"])
        except WrongArguments as error:
            return {"status": "refused", "errors": error.errors}
        with self.as_in_cell():
            result = await called(contract.function, args, kwargs)
        content = to_content(result, asked["budget"])
        cut = None if content.whole else {"tail": content.tail, "left_out": content.left_out}
        return {"status": "ok", "result": to_json(result), "content": content.head, "cut": cut, "version": version}

    @contextmanager
    def as_in_cell(self) -> Iterator[None]:
        """What IPython does around a cell: its own builtins are there, and open figures are shown at the end."""
        with self.shell.builtin_trap:
            try:
                yield
            finally:
                self.shell.events.trigger("post_execute")

    def find(self, name: str, pinned: Mapping[str, Any] | None, version: int | None) -> tuple["Contract", int]:
        """The contract of a source that is given, or of what is loaded. Raises what its import raises.

        version: the source is also that of this version, which is not imported again where it is loaded.
        """
        from .contract import Contract

        if version is not None and (known := self.functions.known.get(name)) and int(known["version"]) != version:
            version = None  # another one has become active, or is still: the one that is asked for runs
        if pinned is not None and version is None:
            key = (name, json.dumps(pinned, sort_keys=True))
            if key not in self.contracts:
                function = load_pinned(name, pinned["source"])
                self.contracts[key] = Contract(function, pinned["written"], declared=pinned["declared"])
            return self.contracts[key], 0
        if name in self.functions.failures:
            raise ImportError(f"{name} is not available: {self.functions.failures[name]}")
        if missing := self.functions.library.missing(name):
            raise NameError(f"{name} waits for secrets that this kernel was not given: {', '.join(missing)}")
        if name not in self.functions.offered:
            raise NameError(f"{name} is not on this kernel; a session keeps its environment until it is restarted")
        function, known = self.functions.offered[name], self.functions.known[name]
        kept = self.contracts.get((name, known["version"]))
        if kept is None or kept.function is not function:
            kept = Contract(function, known["written"], declared=known["declared"])
            self.contracts[name, known["version"]] = kept
        return kept, int(known["version"])

    def failure(self, error: BaseException) -> dict[str, Any]:
        """An exception as Jupyter has it, without the frames before the function's own."""
        frames = error.__traceback__
        while frames is not None and frames.tb_next is not None and frames.tb_frame.f_globals.get("__name__") in OWN:
            frames = frames.tb_next
        shorten(error)
        try:
            lines = self.shell.InteractiveTB.structured_traceback(type(error), error, frames, tb_offset=0)
            text = str(error)
        except BaseException:
            lines, text = traceback.format_tb(frames), "(the error has no text)"
        return {"status": "error", "ename": type(error).__name__, "evalue": text, "traceback": lines}


OWN = {__name__, *(f"{__package__}.{name}" for name in ("arguments", "contract", "forms"))}


async def called(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The result, awaited if it has to be. An interrupt cancels what is awaited."""
    with outside_loop():
        result = function(*args, **kwargs)
    if not inspect.isawaitable(result):
        return result
    task = asyncio.ensure_future(outcome(result))
    with interruptible(task):
        result, ended = await task
    if ended is not None:
        raise ended
    return result


async def outcome(awaitable: Any) -> tuple[Any, BaseException | None]:
    """The result, or one of those two exceptions that a task does not hold: they would end the kernel's own loop."""
    try:
        return await awaitable, None
    except (SystemExit, KeyboardInterrupt) as error:
        return None, error


@contextmanager
def outside_loop() -> Iterator[None]:
    """A plain function may run an event loop of its own, as `asyncio.run` does, though the kernel's runs."""
    loop = asyncio.get_running_loop()
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio.set_event_loop(loop)
        asyncio._set_running_loop(loop)


@contextmanager
def interruptible(task: "asyncio.Future[Any]") -> Iterator[None]:
    """While a task is awaited, an interrupt cancels it: unless it is its turn, there is no frame to raise in."""
    loop = asyncio.get_running_loop()

    def interrupt(*_: Any) -> None:
        if asyncio.current_task(loop) is task:
            raise KeyboardInterrupt
        loop.call_soon_threadsafe(task.cancel)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def load_pinned(name: str, source: str) -> Any:
    """A function from a source that is not the active version's, as a module of its own."""
    module = ModuleType(f"{PACKAGE}_pinned.{name}_{len(sys.modules)}")
    module.__file__ = f"/{module.__name__}/{PACKAGE}/{name}.py"
    linecache.cache[module.__file__] = (len(source), None, source.splitlines(keepends=True), module.__file__)
    sys.modules[module.__name__] = module
    with typed_dicts():
        exec(compile(source, module.__file__, "exec"), module.__dict__)  # noqa: S102
    return getattr(module, name)
