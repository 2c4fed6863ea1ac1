"""Every registered function, by name. Generated: what is written here is replaced."""

import importlib as _importlib
import sys as _sys
import traceback as _traceback

_names = (
    "markdown_table",
    "plot_series",
    "word_count",
)
__all__ = []


class _Package(type(_sys)):
    def __setattr__(self, name, value):
        # Importing a function's file would bind the module here; the name is the function's.
        if name not in _names or not isinstance(value, type(_sys)):
            super().__setattr__(name, value)


_sys.modules[__name__].__class__ = _Package


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
        _reason = _traceback.format_exception_only(_error)[-1].strip().partition("\n")[0]
        print("aigbb_functions: " + _name + " is not available (" + _reason + ")", file=_sys.stderr)
    else:
        __all__.append(_name)
