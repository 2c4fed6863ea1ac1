"""Functions on trial: imported in a child of the generation's Python, and what comes back."""

from __future__ import annotations

import json
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kernels import sandbox
from kernels.environments import Generation
from kernels.errors import ImportFailed, ImportTimeout, MissingDependency, ProbeCrashed, ProbeError, SchemaError
from kernels.home import Home
from kernels.probing import Described, Findings, Probe
from server.functions import Function
from server.reading import read
from server.scrubbing import Scrubber
from server.snapshots import write_snapshot

pytestmark = pytest.mark.anyio

Ask = Callable[..., Awaitable[Findings]]


@pytest.fixture
def ask(generation: Generation, home: Home, tmp_path: Path) -> Ask:
    """Probe sources, given by name, in the shared generation."""

    async def probe(
        sources: Mapping[str, str],
        variables: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        declared: bool = False,
        imports: Mapping[str, Sequence[str]] | None = None,
    ) -> Findings:
        functions = [Function(name, source, (), (), "", "") for name, source in sources.items()]
        write_snapshot_there(tmp_path / "1", functions, variables or {})
        env = sandbox.kernel_environment(generation.python, tmp_path, {})
        asked = Probe(env, tmp_path, timeout, Scrubber.masking((variables or {}).values()))
        describe = {
            name: {"parameters": written(source, name), "declared": declared} for name, source in sources.items()
        }
        return await asked.ask(generation, tmp_path / "1", list(sources), describe=describe, imports=imports or {})

    return probe


def written(source: str, name: str) -> list[Any]:
    """The parameters as the source lists them; none where it cannot be read."""
    found = [d["parameters"] for d in read(source).get("definitions", ()) if d["name"] == name]
    return list(found[-1]) if found else []


def write_snapshot_there(folder: Path, functions: list[Function], variables: Mapping[str, str]) -> None:
    """The files of a snapshot, written off the loop, as the service does."""
    writer = threading.Thread(target=write_snapshot, args=(folder, functions, variables))
    writer.start()
    writer.join()


async def failure(ask: Ask, source: str, **more: object) -> ProbeError:
    """What is wrong with one function `f`; a sound one beside it stays sound."""
    findings = await ask({"f": source}, **more)
    assert list(findings.failures) == ["f"]
    assert findings.contracts == {}
    return findings.failures["f"]


async def test_a_sound_function_has_a_schema(ask: Ask) -> None:
    source = "def f(city: str, days: int = 3, *, units: 'list[str] | None' = None) -> dict: return {}"
    findings = await ask({"f": source, "g": "async def g(x): pass"})
    assert findings.failures == {}
    assert findings.contracts["f"].parameters["required"] == ["city"]
    assert findings.contracts["f"].parameters["properties"]["days"]["default"] == 3
    assert findings.contracts["g"].parameters["properties"].keys() == {"x"}


async def test_asking_for_nothing_is_answered(ask: Ask) -> None:
    assert await ask({}) == Findings()


async def test_models_and_enums_become_schemas(ask: Ask) -> None:
    source = """
import enum
from typing import Literal
from pydantic import BaseModel
class Colour(enum.Enum):
    RED = "red"
class Place(BaseModel):
    city: str
def f(place: Place, colour: Colour, unit: Literal["C", "F"] = "C"): ...
"""
    schema = (await ask({"f": source})).contracts["f"].parameters
    assert schema["$defs"].keys() == {"Colour", "Place"}
    assert schema["properties"]["unit"]["enum"] == ["C", "F"]


# -- what importing may do


async def test_an_exception_comes_with_the_authors_own_lines(ask: Ask) -> None:
    error = await failure(ask, "import json\ndef help_():\n    json.loads('{')\nhelp_()\ndef f(): pass\n")
    assert isinstance(error, ImportFailed)
    assert error.extra["exception"].startswith("JSONDecodeError: Expecting property name")
    assert error.extra["traceback"] == ["line 4, in <module>: help_()", "line 3, in help_: json.loads('{')"]
    assert "f raised JSONDecodeError" in error.detail


@pytest.mark.parametrize(
    ("imported", "module", "package"),
    [
        ("import yaml", "yaml", "PyYAML"),
        ("import nowhere_at_all.deeper", "nowhere_at_all", "nowhere_at_all"),
        ("from sklearn.svm import SVC", "sklearn", "scikit-learn"),
    ],
)
async def test_a_missing_module_comes_with_the_fix(ask: Ask, imported: str, module: str, package: str) -> None:
    error = await failure(ask, f"{imported}\ndef f(): pass")
    assert isinstance(error, MissingDependency)
    assert repr(module) in error.detail
    assert error.extra["fix"] == {"packages": [package]}


async def test_a_module_that_is_imported_only_when_the_function_runs_must_be_there(ask: Ask) -> None:
    sources = {
        "f": "def f():\n    import yaml, json",
        "g": "def g():\n    import colorsys",
        "h": "1 / 0\ndef h(): pass",
    }
    findings = await ask(sources, imports={"f": ["json", "yaml"], "g": ["colorsys"], "h": ["yaml"]})
    missing = findings.failures["f"]
    assert isinstance(missing, MissingDependency)
    assert missing.extra["fix"] == {"packages": ["PyYAML"]}
    assert missing.extra["exception"] == "ModuleNotFoundError: No module named 'yaml'"
    assert missing.extra["traceback"] == []
    assert isinstance(findings.failures["h"], ImportFailed)
    assert findings.contracts.keys() == {"g"}


async def test_a_module_is_looked_for_without_importing_it(ask: Ask) -> None:
    source = "import sys\nassert 'colorsys' not in sys.modules\ndef {}(): pass"
    sources = {name: source.format(name) for name in ("f", "g")}
    assert (await ask(sources, imports={"f": ["colorsys"]})).failures == {}


@pytest.mark.parametrize("name", ["__main__", "aigbb_functions", "odd"])
async def test_a_module_that_cannot_be_looked_for_counts_as_there(ask: Ask, name: str) -> None:
    source = "import sys, types\nsys.modules['odd'] = types.ModuleType('odd')\ndef f(): pass"
    assert (await ask({"f": source}, imports={"f": [name]})).failures == {}


@pytest.mark.parametrize("name", ["launch", "probe", "contract", "forms", "package"])
async def test_no_module_of_ours_can_be_imported_by_mistake(ask: Ask, name: str) -> None:
    assert isinstance(await failure(ask, f"import {name}\ndef f(): pass"), MissingDependency)


async def test_a_file_in_the_working_folder_shadows_nothing(ask: Ask, tmp_path: Path) -> None:
    for name in ("runpy", "json", "pydantic"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit")
    findings = await ask({"f": "import json\ndef f(x: int): json.dumps(x)"}, imports={"f": ["json"]})
    assert findings.failures == {}


async def test_a_missing_function_is_no_missing_package(ask: Ask) -> None:
    error = await failure(ask, "from aigbb_functions.other import other\ndef f(): pass")
    assert isinstance(error, ImportFailed)
    assert "fix" not in error.extra


async def test_a_source_that_only_the_compiler_refuses(ask: Ask) -> None:
    error = await failure(ask, "def f(): pass\nreturn 1\n")
    assert isinstance(error, ImportFailed)
    assert error.extra["traceback"] == ["line 2: return 1"]


@pytest.mark.parametrize("last", ["f = 3", "del f", "import sys; sys.exit()", "raise KeyboardInterrupt"])
async def test_a_file_that_ends_without_a_function_fails_to_import(ask: Ask, last: str) -> None:
    assert isinstance(await failure(ask, f"def f(): pass\n{last}\n"), ImportFailed)


async def test_an_error_without_text_is_still_one(ask: Ask) -> None:
    source = "class Bad(Exception):\n    def __str__(self): raise self\nraise Bad\ndef f(): pass"
    error = await failure(ask, source)
    assert isinstance(error, ImportFailed)
    assert error.extra["exception"] == "Bad: (the error has no text)"


@pytest.mark.parametrize(
    ("source", "ending"),
    [
        ("import os; os._exit(7)", "exit code 7"),
        ("import os; os._exit(0)", "exit code 0"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
        ("import ctypes; ctypes.string_at(0)", "signal 11"),
    ],
)
async def test_a_process_that_dies_names_the_function(ask: Ask, source: str, ending: str) -> None:
    findings = await ask({"a": "def a(): pass", "f": f"{source}\ndef f(): pass", "z": "def z(): pass"})
    error = findings.failures["f"]
    assert list(findings.failures) == ["f"]
    assert isinstance(error, ProbeCrashed)
    assert ending in error.detail
    assert error.extra["function"] == "f"
    assert "a" in findings.contracts


async def test_an_import_that_hangs_is_ended(ask: Ask) -> None:
    source = "import sys, time\nprint('on my way', file=sys.stderr, flush=True)\ntime.sleep(60)\ndef f(): pass"
    error = await failure(ask, source, timeout=3.0)
    assert isinstance(error, ImportTimeout)
    assert "3 s" in error.detail
    assert "on my way" in error.extra["log"]


async def test_what_an_import_prints_does_not_disturb(ask: Ask) -> None:
    source = """
import os, sys
print('{"done": true}', '{"failed": "f"}', sep="\\n", flush=True)
os.write(1, b'{"importing": "x"}\\n[]\\n1\\n\\xff\\n')
sys.stdout.close()
def f(x: int): pass
"""
    findings = await ask({"f": source, "g": "def g(): pass"})
    assert findings.failures == {}
    assert set(findings.contracts) == {"f", "g"}


async def test_an_import_that_reads_gets_nothing(ask: Ask) -> None:
    assert isinstance(await failure(ask, "input()\ndef f(): pass"), ImportFailed)


async def test_threads_and_children_that_are_left_running_do_not_hold_it_up(ask: Ask) -> None:
    source = """
import atexit, subprocess, sys, threading, time
threading.Thread(target=time.sleep, args=(120,)).start()
atexit.register(time.sleep, 120)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
def f(): pass
"""
    findings = await ask({"f": source}, timeout=60.0)
    assert findings.failures == {}


# -- schemas


@pytest.mark.parametrize(
    ("head", "parameter", "annotation"),
    [
        ("class Thing: pass\ndef f(ok: int, bad: Thing): pass", "bad", "Thing"),
        ("def f(ok: int, bad: 'Nowhere'): pass", "bad", "Nowhere"),
        ("from typing import Callable\ndef f(bad: Callable[[int], int]): pass", "bad", "Callable"),
        (
            "class Odd:\n    @classmethod\n    def __get_pydantic_core_schema__(cls, *_): raise NotImplementedError\n"
            "def f(bad: Odd): pass",
            "bad",
            "Odd",
        ),
    ],
)
async def test_a_type_without_json_form_is_named(ask: Ask, head: str, parameter: str, annotation: str) -> None:
    error = await failure(ask, head)
    assert isinstance(error, SchemaError)
    assert error.extra["parameter"] == parameter
    assert annotation in error.extra["annotation"]
    assert error.extra["reason"]


async def test_a_schema_that_is_no_json_is_refused(ask: Ask) -> None:
    source = """
from typing import Annotated
from pydantic import Field
def f(x: Annotated[int, Field(json_schema_extra={"a": object()})]): pass
"""
    assert isinstance(await failure(ask, source), SchemaError)


NO_SIGNATURE = "def f(): pass\nclass Odd:\n    __signature__ = 3\n    __call__ = iter\nf = Odd()"


async def test_a_callable_without_signature_is_refused(ask: Ask) -> None:
    assert isinstance(await failure(ask, NO_SIGNATURE), SchemaError)


async def test_of_a_declared_callable_without_signature_nothing_is_said(ask: Ask) -> None:
    findings = await ask({"f": NO_SIGNATURE}, declared=True)
    assert findings == Findings({"f": Described({}, {}, hidden=False, signature="")})


async def test_a_declared_function_may_take_whatever_comes(ask: Ask) -> None:
    source = "def f(a: 'Nowhere', /, *args, **kwargs: print): pass"
    found = (await ask({"f": source}, declared=True)).contracts["f"]
    assert found.parameters == {
        "type": "object",
        "properties": {"a": {}, "args": {"type": "array", "items": {}}},
        "required": ["a"],
    }


async def test_a_decorator_that_hides_the_signature_is_told(ask: Ask) -> None:
    source = "def hide(f): return lambda *a, **k: f(*a, **k)\n@hide\ndef f(x: int, y=2): pass"
    found = (await ask({"f": source})).contracts["f"]
    properties: dict[str, Any] = {"x": {}, "y": {}}
    assert found == Described(
        {"type": "object", "properties": properties, "required": ["x"], "additionalProperties": False},
        {},
        hidden=True,
        signature="f(*a, **k)",
    )


async def test_numbers_and_texts_that_are_no_json_are_made_so(ask: Ask) -> None:
    schema = (await ask({"f": "def f(x: float = float('nan'), y: str = '\\udc80'): pass"})).contracts["f"].parameters
    assert json.dumps(schema, allow_nan=False).encode("ascii")
    assert "\\ud" not in json.dumps(schema)


# -- functions that use each other


@pytest.mark.parametrize("order", [["user", "helper", "last"], ["helper", "last", "user"], ["last", "user", "helper"]])
@pytest.mark.parametrize(
    "imported", ["from aigbb_functions import helper", "from aigbb_functions.helper import helper"]
)
async def test_a_function_may_import_another_in_any_order(ask: Ask, order: list[str], imported: str) -> None:
    sources = {
        "user": f"{imported}\nused = helper(1)\ndef user(x: int = used): pass",
        "helper": "def helper(x: int): return x + 1",
        "last": "from aigbb_functions import helper\nassert helper(2) == 3\ndef last(): pass",
    }
    findings = await ask({name: sources[name] for name in order})
    assert findings.failures == {}
    assert findings.contracts["user"].parameters["properties"]["x"]["default"] == 2


async def test_a_function_that_uses_a_broken_one_is_broken_too(ask: Ask) -> None:
    sources = {"user": "from aigbb_functions import helper\ndef user(): pass", "helper": "1 / 0\ndef helper(): pass"}
    findings = await ask({**sources, "other": "def other(): pass"})
    assert findings.failures.keys() == {"user", "helper"}
    assert "ZeroDivisionError" in findings.failures["user"].detail
    assert findings.contracts.keys() == {"other"}


# -- variables and secrets


async def test_variables_are_there_at_import(ask: Ask) -> None:
    source = "import os\nassert os.environ['MODE'] == 'warm'\ndef f(): pass"
    assert (await ask({"f": source}, {"MODE": "warm"})).failures == {}


SECRET = 'hush "42"\\\nhush'


@pytest.mark.parametrize(
    "source",
    [
        "raise ValueError(KEY)",
        "int(KEY)",
        "f'{1/0}'; KEY",
        "sys.stderr.write(KEY); sys.stderr.flush(); os._exit(1)",
        "type(KEY, (Exception,), {})(); raise type(KEY, (Exception,), {})(KEY)",
        "import_module(KEY)",
        "f = KEY",
        "def f(x: KEY): pass",
        "def f(x: 'Nowhere[KEY]' = KEY): pass\nf.__annotations__['x'] = KEY",
    ],
)
async def test_no_failure_carries_a_secret(ask: Ask, source: str) -> None:
    head = "import os, sys\nfrom importlib import import_module\nKEY = os.environ['KEY']\ndef f(): pass\n"
    error = await failure(ask, head + source, variables={"KEY": SECRET})
    told = json.dumps([error.detail, error.hint, error.extra])
    assert "hush" not in told


async def test_no_schema_carries_a_secret(ask: Ask) -> None:
    source = """
import os
KEY = os.environ["KEY"]
def f(key=KEY, headers: dict = {"auth": [f"Bearer {KEY}"]}, default: int = 3, tries: int = 2): pass
"""
    schema = (await ask({"f": source}, {"KEY": SECRET})).contracts["f"].parameters
    assert "hush" not in json.dumps(schema)
    assert schema["properties"].keys() == {"key", "headers", "default", "tries"}
    assert schema["properties"]["default"]["default"] == 3
    assert "required" not in schema


async def test_no_result_and_no_signature_carries_a_secret(ask: Ask) -> None:
    source = """
import os
from pydantic import BaseModel
KEY = os.environ["KEY"]
class Answer(BaseModel):
    key: str = KEY
    count: int = 1
def f(key=KEY) -> Answer: pass
"""
    found = (await ask({"f": source}, {"KEY": SECRET})).contracts["f"]
    assert found.returns["properties"] == {"key": {"type": "string"}, "count": {"type": "integer", "default": 1}}
    assert "hush" not in found.signature


async def test_a_secret_too_short_to_hide_is_left(ask: Ask) -> None:
    error = await failure(ask, "raise ValueError('on a tree')\ndef f(): pass", variables={"ONE": "on"})
    assert "on a tree" in error.detail


# -- the environment itself


async def test_a_snapshot_that_is_not_there_is_no_functions_fault(
    generation: Generation, home: Home, tmp_path: Path
) -> None:
    env = sandbox.kernel_environment(generation.python, tmp_path, {})
    findings = await Probe(env, tmp_path, 30).ask(generation, tmp_path / "nowhere", ["f"])
    assert isinstance(findings.failures[""], ProbeCrashed)
    assert "The environment's Python" in findings.failures[""].detail
    assert "nowhere" in findings.failures[""].extra["log"]


async def test_warming_imports_what_there_is_and_passes_over_the_rest(
    generation: Generation, home: Home, tmp_path: Path
) -> None:
    write_snapshot_there(tmp_path / "1", [], {})
    env = sandbox.kernel_environment(generation.python, tmp_path, {})
    probe = Probe(env, tmp_path, 30)
    for needed in (["nowhere_at_all", "colorsys"], []):
        assert await probe.warm(generation, tmp_path / "1", needed, ["elsewhere_at_all", "antigravity.nothing"]) is None
    broken = await probe.warm(generation, tmp_path / "1", ["encodings.nothing"], [])
    assert isinstance(broken, ImportFailed) and "encodings.nothing itself does not import" in broken.detail
