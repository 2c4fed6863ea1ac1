"""The package `aigbb_functions` inside a process of ours: each function's file is imported when it is asked for."""

import importlib
import sys
import typing
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "aigbb_functions"


class Package(ModuleType):
    """The functions of one snapshot after another. `__show__` puts it into `sys.modules`.

    Its own names begin with an underscore: no function's does.
    """

    def __init__(self) -> None:
        super().__init__(PACKAGE, "Every registered function, by name.")
        self.__path__: list[str] = []
        self.__all__: list[str] = []
        self.__hidden__: set[str] = set()
        self.__library__: Any = None  # who keeps this process's functions up to date

    def __setattr__(self, name: str, value: object) -> None:
        # Python would bind a function's module here after importing it; the name is the function's.
        if not isinstance(value, ModuleType):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        # A function's file may import another function, before or after its own turn.
        if name in self.__all__:
            return self.__load__(name)
        if name in self.__hidden__:
            raise AttributeError(f"{name} waits for secrets that this process was not given")
        raise AttributeError(f"{PACKAGE} has no function {name!r}")

    def __show__(self, snapshot: Path, names: Collection[str], stale: Collection[str]) -> None:
        """Be the package of this snapshot. Functions that are gone or stale are forgotten, others stay loaded."""
        folder, before = str(snapshot / PACKAGE), {*self.__all__, *self.__hidden__}
        self.__path__, self.__all__, self.__hidden__ = [folder], sorted(names), set()
        for name in {*before, *stale, *self.__dict__}:
            if name in stale or (not name.startswith("_") and name not in names):
                sys.modules.pop(f"{PACKAGE}.{name}", None)
                self.__dict__.pop(name, None)
        sys.modules[PACKAGE] = self
        importlib.invalidate_caches()

    def __hide__(self, names: Iterable[str]) -> None:
        """Let these not be imported for now, nor by `import *`; and those again that were hidden before."""
        every = {*self.__all__, *self.__hidden__}
        self.__hidden__ = every.intersection(names)
        self.__all__ = sorted(every - self.__hidden__)

    def __load__(self, name: str) -> Any:
        """A function, imported now if it was not yet. Raises whatever its file raises."""
        with typed_dicts():
            module = importlib.import_module(f"{PACKAGE}.{name}")
        try:
            function = getattr(module, name)
            if not callable(function):
                raise TypeError(f"{name} is {type(function).__name__}, not a function, once the file has run")
        except BaseException:
            sys.modules.pop(f"{PACKAGE}.{name}", None)
            raise
        self.__dict__[name] = function
        return function


@contextmanager
def typed_dicts() -> Iterator[None]:
    """While a function's file is imported, `typing.TypedDict` is the backport that pydantic can read.

    Python 3.11's own does not say which keys are required once classes inherit.
    """
    if sys.version_info >= (3, 12):
        yield
        return
    import typing_extensions

    own = typing.TypedDict
    typing.TypedDict = typing_extensions.TypedDict
    try:
        yield
    finally:
        typing.TypedDict = own
