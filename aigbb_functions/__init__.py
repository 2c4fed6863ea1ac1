"""Every registered function, by name. Generated: what is written here is replaced."""

import importlib as _importlib
import sys as _sys

_names = (
    "add",
    "markdown_table",
    "plot_series",
    "slug",
    "up",
    "word_count",
)
__all__ = []


def _load(name):
    function = getattr(_importlib.import_module("aigbb_functions." + name), name)
    globals()[name] = function
    return function


def __getattr__(name):
    # A function's file may import another function, before or after its turn below.
    if name in _names:
        return _load(name)
    raise AttributeError("aigbb_functions has no function " + repr(name))


for _name in _names:
    try:
        _load(_name)
    except (Exception, SystemExit) as _error:
        _reason = type(_error).__name__ + ": " + str(_error)
        print("aigbb_functions: " + _name + " is not available (" + _reason + ")", file=_sys.stderr)
    else:
        __all__.append(_name)
