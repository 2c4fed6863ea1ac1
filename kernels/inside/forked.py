"""A kernel in a fork of the warm parent: as much of it as can be is made before the fork."""

# ipykernel is largely untyped.
# mypy: disable-error-code="no-untyped-call"

import os
import select
import threading
from typing import Any, NoReturn
from uuid import uuid4

from IPython.core.application import BaseIPythonApplication

from .launch import OWNED, arguments, die_with_parent
from .lean import App, Kernel, Shell

# Python adapts its bytecode to what it is used for: that is done before the fork, once for all kernels.
EXERCISES = 50


class Once(BaseIPythonApplication):
    """An application that has read its configuration before the fork does not do so again after it."""

    done = False

    def initialize(self, argv: Any = None) -> None:
        """Read it."""
        if not self.done:
            super().initialize(argv)


class Forked(App, Once):
    """A kernel whose parent is no sign of life: it did not ask for it."""

    held = -1  # a connection that is open for as long as somebody waits for the kernel

    def make(self, argv: list[str]) -> None:
        """Before the fork: all but sockets, threads and loops."""
        Once.initialize(self, argv)
        self.kernel = Kernel.instance(
            parent=self, session=self.session, log=self.log, profile_dir=self.profile_dir, user_ns={}
        )
        vars(self.kernel).pop("debugger", None)  # it has the loop of a thread; nobody debugs a service's kernel
        self.init_shell()
        self.init_extensions()
        self.init_code()
        self.done = True
        shell: Any = self.shell
        shell.exercise(EXERCISES)

    def wake(self, connection_file: str) -> None:
        """After it: the rest."""
        session = self.session
        session.session, session.pid, session.digest_history = str(uuid4()), os.getpid(), set()
        self.connection_file = connection_file
        self.initialize()

    def init_extensions(self) -> None:
        """Load the extensions, of which ours is one."""
        if not self.done:
            super().init_extensions()

    def init_code(self) -> None:
        """Run what is to be run at the start: of a service's kernel, nothing."""
        if not self.done:
            super().init_code()

    def init_poller(self) -> None:
        """End when nobody holds the other end of the connection any more."""
        if self.held >= 0:
            threading.Thread(target=self.end_with_holder, name="Holder", daemon=True).start()

    def end_with_holder(self) -> None:
        """Wait for that, in a thread."""
        select.select([self.held], [], [])
        os._exit(1)


class Template:
    """A service's kernel, ready but for what a fork does not survive: sockets, threads, loops."""

    def __init__(self) -> None:
        self.app = Forked.instance(owned=True)
        self.app.make(arguments(owned=True))

    def wake(self, argv: list[str], *, owned: bool, parent: int, held: int) -> NoReturn:
        """Be the kernel, to its end. One that Jupyter owns reads the user's own configuration."""
        if owned:
            die_with_parent(parent)
            os.environ.pop(OWNED)
            app = self.app
            app.parent_handle = parent
            app.wake(argv[argv.index("-f") + 1])
        else:
            Kernel.clear_instance()
            Shell.clear_instance()
            Forked.clear_instance()
            app = Forked.instance()
            app.held = held
            app.parent_handle = int(os.environ.get("JPY_PARENT_PID", "0"))
            app.initialize(arguments(owned=False, given=argv))
        app.start()
        raise SystemExit(0)
