"""The notebook user's story: a notebook picks the kernel in Jupyter and has every function by name.

Notebooks are run by nbclient, as Jupyter runs them: through the kernelspec, as processes of the user's own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

from kernels.home import write_atomically
from kernels.kernelspecs import ALIAS
from tests.conftest import ROOT, Server, running_server

EXAMPLE = ROOT / "examples" / "notebook.ipynb"
# As a careful user has it; without, each kernel warns on the terminal that nothing is encrypted.
ENCRYPTED = {"transport_encryption": "required"}


@dataclass(frozen=True)
class Ran:
    """What a cell showed."""

    stdout: str
    stderr: str
    result: str
    error: str


class Notebook:
    """An open notebook with a running kernel."""

    def __init__(self, client: NotebookClient) -> None:
        self._client = client

    def run(self, code: str) -> Ran:
        """Run one more cell."""
        cells = self._client.nb.cells
        cells.append(nbformat.v4.new_code_cell(code))  # type: ignore[no-untyped-call]
        self._client.execute_cell(cells[-1], len(cells) - 1)
        outputs = cells[-1].outputs
        streams = {"stdout": "", "stderr": ""}
        for output in outputs:
            if output.output_type == "stream":
                streams[output.name] += output.text
        results = [o.data["text/plain"] for o in outputs if o.output_type == "execute_result"]
        errors = [f"{o.ename}: {o.evalue}" for o in outputs if o.output_type == "error"]
        return Ran(**streams, result="".join(results), error="".join(errors))


@contextmanager
def encrypted() -> Iterator[Config]:
    """Over sockets with names: another process may take a port between its choice and its use."""
    with tempfile.TemporaryDirectory(prefix="aigbb-") as folder:
        yield Config({"KernelManager": {**ENCRYPTED, "transport": "ipc", "ip": f"{folder}/k"}})


@contextmanager
def open_notebook(kernel: str = ALIAS, config: Config | None = None) -> Iterator[Notebook]:
    """Open a notebook; its kernel ends with the block."""
    empty = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    with encrypted() as named:
        client = NotebookClient(
            empty, kernel_name=kernel, config=config or named, timeout=60, startup_timeout=60, allow_errors=True
        )
        with client.setup_kernel():
            yield Notebook(client)


def read_example() -> nbformat.NotebookNode:
    """The notebook in examples/, checked against the format."""
    example: nbformat.NotebookNode = nbformat.read(EXAMPLE, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(example)
    return example


@contextmanager
def jupyter(folder: Path, cache: Path) -> Iterator[None]:
    """This process, and what it starts, as a user of Jupyter who has only the service's kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        patch.setenv("JUPYTER_DATA_DIR", str(folder / "data"))
        patch.setenv("JUPYTER_CONFIG_DIR", str(folder / "config"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "runtime"))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("MPLCONFIGDIR", str(cache / "matplotlib"))
        yield


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Server]:
    """A service of this module's own; each test registers under names of its own."""
    folder = tmp_path_factory.mktemp("notebook")
    with running_server(folder, cache, shipped=True) as started, jupyter(folder, cache):
        yield started


@pytest.fixture
def notebook(service: Server) -> Iterator[Notebook]:
    """A notebook that was opened before whatever the test does."""
    with open_notebook() as opened:
        yield opened


def register(server: Server, source: str, **more: Any) -> Mapping[str, Any]:
    """Register over REST."""
    with server.client() as client:
        answer = client.post("/register", json={"source": source, **more})
    assert answer.status_code in (200, 201), answer.text
    body: dict[str, Any] = answer.json()
    return body


def delete(server: Server, name: str) -> None:
    """Delete over REST."""
    with server.client() as client:
        assert client.delete(f"/functions/{name}").status_code == 204


# -- the kernel in Jupyter


def test_jupyter_lists_the_numbered_kernel_and_the_one_that_is_always_the_latest(service: Server) -> None:
    argv = [sys.executable, "-m", "jupyter_client.kernelspecapp", "list", "--json"]
    listed = json.loads(subprocess.run(argv, capture_output=True, check=True, text=True).stdout)["kernelspecs"]
    names = {name: listed[name]["spec"]["display_name"] for name in (ALIAS, "aigbb_functions_kernel_1")}
    assert names == {
        ALIAS: "aigbb functions (latest)",
        "aigbb_functions_kernel_1": "Python (aigbb_functions_kernel_1)",
    }
    for name in names:
        logos = {path.name for path in Path(listed[name]["resource_dir"]).glob("logo-*")}
        assert logos == {"logo-svg.svg", "logo-64x64.png", "logo-32x32.png"}


def test_the_numbered_kernel_has_every_function_too(service: Server) -> None:
    with open_notebook("aigbb_functions_kernel_1") as opened:
        assert opened.run("word_count('a b a')").result == "{'a': 2, 'b': 1}"


@pytest.mark.usefixtures("service")
def test_a_notebook_is_reached_by_ports_too() -> None:
    with open_notebook(config=Config({"KernelManager": ENCRYPTED})) as notebook:
        assert notebook.run("6 * 7").result == "42"


def test_the_example_notebook_runs_as_it_is(service: Server, tmp_path: Path) -> None:
    example = read_example()
    assert example.metadata.kernelspec.name == ALIAS
    with encrypted() as config:
        NotebookClient(example, config=config, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {cell.id: cell.outputs for cell in example.cells if cell.cell_type == "code"}
    assert shown["by-name"][0].data["text/plain"] == "{'it': 4, 'was': 4, 'the': 4}"
    assert "Count the words of a text" in shown["help"][0].text
    assert "'word_count'" in shown["names"][0].data["text/plain"]
    assert "<table" in shown["frame"][0].data["text/html"]
    assert shown["table"][0].data["text/markdown"].startswith("| word")
    assert "image/png" in shown["chart"][0].data
    errors = [o for outputs in shown.values() for o in outputs if o.get("name") == "stderr"]
    assert errors == []


def test_the_example_notebook_is_kept_without_outputs() -> None:
    example = read_example()
    code = [cell for cell in example.cells if cell.cell_type == "code"]
    assert code
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_help_and_source_of_a_function_are_those_that_were_registered(notebook: Notebook) -> None:
    assert "Count the words of a text" in notebook.run("import inspect; inspect.getdoc(word_count)").result
    source = notebook.run("print(inspect.getsource(word_count))").stdout
    assert source.startswith("def word_count(")
    assert source.strip() in (ROOT / "aigbb_functions" / "word_count.py").read_text()


# -- what changes while a notebook is open


def test_a_function_registered_meanwhile_is_there_in_the_next_cell(service: Server, notebook: Notebook) -> None:
    assert notebook.run("kept = 40\ntwice").error == "NameError: name 'twice' is not defined"
    register(service, "def twice(x: int) -> int:\n    return 2 * x\n")
    assert notebook.run("twice(1) + kept") == Ran("", "", "42", "")


def test_a_function_registered_again_is_replaced(service: Server, notebook: Notebook) -> None:
    register(service, "def changing() -> str:\n    return 'old'\n")
    assert notebook.run("changing()").result == "'old'"
    register(service, "def changing() -> str:\n    return 'new'\n")
    assert notebook.run("changing()").result == "'new'"


def test_a_function_that_imports_a_replaced_one_has_the_new_one(service: Server, notebook: Notebook) -> None:
    register(service, "def inner() -> str:\n    return 'old'\n")
    register(service, "from aigbb_functions import inner\n\ndef outer() -> str:\n    return inner()\n")
    assert notebook.run("outer()").result == "'old'"
    register(service, "def inner() -> str:\n    return 'new'\n")
    assert notebook.run("outer()").result == "'new'"


def test_a_deleted_function_is_gone_unless_the_user_took_its_name(service: Server, notebook: Notebook) -> None:
    register(service, "def fleeting() -> int:\n    return 1\n")
    register(service, "def taken() -> int:\n    return 1\n")
    assert notebook.run("taken = [taken()]\nfleeting()").result == "1"
    delete(service, "fleeting")
    delete(service, "taken")
    assert notebook.run("fleeting").error == "NameError: name 'fleeting' is not defined"
    assert notebook.run("taken").result == "[1]"


def test_a_users_own_variable_is_left_alone_by_a_function_of_that_name(service: Server, notebook: Notebook) -> None:
    notebook.run("mine = 'my own'")
    register(service, "def mine() -> int:\n    return 1\n")
    assert notebook.run("mine").result == "'my own'"
    notebook.run("del mine")
    assert notebook.run("mine()").result == "1"


def test_a_reset_of_the_namespace_loses_no_function(notebook: Notebook) -> None:
    notebook.run("own = 1")
    notebook.run("%reset -f")
    assert notebook.run("own").error == "NameError: name 'own' is not defined"
    assert notebook.run("word_count('a')").result == "{'a': 1}"


def test_registered_variables_arrive_in_an_open_notebook(service: Server, notebook: Notebook) -> None:
    source = "import os\n\ndef secret() -> str:\n    return os.environ['NOTEBOOK_SECRET']\n"
    register(service, source, env={"NOTEBOOK_SECRET": "first"})
    assert notebook.run("import os; os.environ['NOTEBOOK_SECRET'], secret()").result == "('first', 'first')"
    with open_notebook() as another:
        assert another.run("secret()").result == "'first'"


def test_a_variable_that_the_user_set_survives_other_registrations(service: Server, notebook: Notebook) -> None:
    register(service, "def reader() -> int:\n    return 1\n", env={"NOTEBOOK_OWN": "theirs"})
    notebook.run("import os\nos.environ['NOTEBOOK_OWN'] = 'mine'")
    register(service, "def unrelated() -> int:\n    return 1\n")
    assert notebook.run("unrelated(); os.environ['NOTEBOOK_OWN']").result == "'mine'"


def test_a_broken_function_is_one_line_in_the_next_cell_and_harms_no_other(
    service: Server, notebook: Notebook, tmp_path: Path
) -> None:
    pointer = Path(notebook.run("import os; print(os.environ['AIGBB_GENERATION'])").stdout.strip(), "snapshot")
    good = pointer.read_text()
    shutil.copytree(good, tmp_path / "broken")
    (tmp_path / "broken" / "aigbb_functions" / "plot_series.py").write_text("import no_such_module\n")
    manifest = json.loads((tmp_path / "broken" / "manifest.json").read_text())
    manifest["plot_series"]["digest"] = "another"
    (tmp_path / "broken" / "manifest.json").write_text(json.dumps(manifest))
    try:
        write_atomically(pointer, str(tmp_path / "broken"))
        ran = notebook.run("word_count('a')")
    finally:
        write_atomically(pointer, good)
    assert ran.result == "{'a': 1}"
    reason = "ModuleNotFoundError: No module named 'no_such_module'"
    assert ran.stderr == f"aigbb_functions: plot_series is not available ({reason})\n"
    assert notebook.run("plot_series.__name__") == Ran("", "", "'plot_series'", "")


# -- newer generations


def test_an_open_notebook_keeps_its_generation_while_newer_ones_come_and_go(tmp_path: Path, cache: Path) -> None:
    generations, specs = tmp_path / "home" / "generations", tmp_path / "jupyter" / "kernels"
    with running_server(tmp_path, cache, shipped=True, keep_generations=1) as server, jupyter(tmp_path, cache):
        with open_notebook() as old:
            assert old.run("kept = word_count('a')").error == ""
            answer = register(
                server, "import slugify\n\ndef slug() -> int:\n    return 2\n", packages=["python-slugify"]
            )
            assert answer["kernel"] == "aigbb_functions_kernel_2"
            assert old.run("kept == word_count('a')") == Ran("", NEWER.format(2), "True", "")
            assert old.run("kept").stderr == ""
            with open_notebook() as new:
                assert new.run("slug()") == Ran("", "", "2", "")
            register(server, "import inflection\n\ndef last() -> int:\n    return 3\n", packages=["inflection"])
            # A registration begins when the deletions behind the one before are over.
            register(server, "def another() -> int:\n    return 4\n")
            assert old.run("kept == word_count('a')") == Ran("", NEWER.format(3), "True", "")
            assert (generations / "1").exists()
            assert (specs / "aigbb_functions_kernel_1").exists()
        register(server, "def another() -> int:\n    return 5\n")
        register(server, "def another() -> int:\n    return 6\n")
    assert {path.name for path in generations.iterdir()} == {"3"}
    assert {path.name for path in specs.iterdir()} == {ALIAS, "aigbb_functions_kernel_3"}


NEWER = (
    "aigbb_functions: kernel {} has new packages; this kernel stays as it is."
    ' To switch, pick the kernel again: "aigbb functions (latest)".\n'
)
