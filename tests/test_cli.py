"""The command line as a person or a script meets it: output, exit codes, and what to do next."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from server.errors import PortInUse
from server.serving import listening
from server.settings import Settings
from tests.conftest import ROOT, Server, running_server, server_environment
from tests.doors import wait_until

Run = Callable[..., subprocess.CompletedProcess[str]]


def run(environment: dict[str, str], *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """One command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        cwd=ROOT,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def aigbb(server: Server) -> Run:
    """Commands that find the shared service by its settings."""
    port = server.url.rpartition(":")[2]
    environment = {**server.environment, "AIGBB_PORT": port}
    return lambda *arguments, stdin="": run(environment, *arguments, stdin=stdin)


def test_execute_prints_what_the_code_prints(aigbb: Run) -> None:
    done = aigbb("execute", "print('hello')\nword_count('a a b')")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "hello\n{'a': 2, 'b': 1}\n"


def test_execute_reads_stdin_and_fails_with_the_code(aigbb: Run) -> None:
    done = aigbb("execute", "-", stdin="print('first')\n1/0\n")
    assert done.returncode == 1
    assert done.stdout == "first\n"
    assert "ZeroDivisionError" in done.stderr


def test_execute_shows_the_hint(aigbb: Run) -> None:
    done = aigbb("execute", "word_cuont('a')")
    assert "Did you mean the function 'word_count'?" in done.stderr


def test_execute_says_why_code_was_stopped(aigbb: Run) -> None:
    done = aigbb("execute", "import time; time.sleep(60)", "--timeout", "1")
    assert done.returncode == 1
    assert "Timed out after 1 s" in done.stderr


def test_execute_answers_json(aigbb: Run) -> None:
    done = aigbb("execute", "6 * 7", "--json")
    assert json.loads(done.stdout)["result"] == "42"


def test_register_takes_a_file_with_its_packages_and_variables(aigbb: Run, tmp_path: Path, server: Server) -> None:
    path = tmp_path / "anything.py"
    path.write_text("import os\n\ndef from_file() -> str:\n    return os.environ['FROM_FILE']\n")
    done = aigbb("register", str(path), "--env", "FROM_FILE=here")
    assert done.returncode == 0, done.stderr
    assert "from_file() -> str" in done.stdout
    assert "version 1" in done.stdout
    assert "missing_docstring" in done.stdout
    assert aigbb("execute", "from_file()").stdout == "'here'\n"
    assert json.loads(aigbb("register", str(path), "-e", "FROM_FILE=here", "--json").stdout)["unchanged"] is True
    with server.client() as client:
        assert client.delete("/functions/from_file").status_code == 204


def test_a_refusal_explains_itself_and_ends_with_2(aigbb: Run, tmp_path: Path) -> None:
    path = tmp_path / "wants_old.py"
    path.write_text("def wants_old(): pass\n")
    done = aigbb("register", str(path), "--package", "tabulate<0.8")
    assert done.returncode == 2
    assert "dependency_conflict" in done.stderr
    assert "asked for by markdown_table" in done.stderr
    refused = json.loads(aigbb("register", str(path), "-p", "tabulate<0.8", "--json").stdout)
    assert refused["code"] == "dependency_conflict"
    assert aigbb("register", str(path), "--env", "NOVALUE").returncode == 2
    assert aigbb("register", str(tmp_path / "nothing.py")).returncode == 2


def test_lists_are_tables_for_people_and_json_for_programs(aigbb: Run) -> None:
    assert "word_count(text: str" in aigbb("functions").stdout
    assert {f["name"] for f in json.loads(aigbb("functions", "--json").stdout)} >= {"word_count", "plot_series"}
    assert "aigbb_functions_kernel_" in aigbb("kernels").stdout
    assert sum(k["current"] for k in json.loads(aigbb("kernels", "--json").stdout)) == 1
    assert aigbb("sessions").returncode == 0
    assert isinstance(json.loads(aigbb("sessions", "--json").stdout), list)


def test_the_doctor_finds_a_healthy_service_healthy(aigbb: Run) -> None:
    done = aigbb("doctor", "--json")
    findings = {f["check"]: f for f in json.loads(done.stdout)}
    assert [f for f in findings.values() if f["state"] == "problem"] == []
    assert done.returncode == 0
    good = {"Python", "uv", "package index", "home", "disk", "token", "clock", "fork", "Jupyter kernel", "service"}
    assert {check for check in good if findings[check]["state"] != "ok"} == set()
    assert findings["Jupyter looks there"]["fix"].startswith("Notebooks won't offer the kernel")
    assert findings["model"] == {
        "check": "model",
        "state": "warning",
        "detail": "none configured",
        "fix": "Chat has no model. Set OPENAI_API_KEY, or OPENAI_BASE_URL for a service of your own.",
    }


def test_the_doctor_says_what_is_wrong_with_a_machine(tmp_path: Path, cache: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment = server_environment(tmp_path, cache, port=port, fork=False, timout=5)
        nowhere = f"http://127.0.0.1:{port}/simple"
        environment |= {"UV_INDEX_URL": nowhere, "UV_DEFAULT_INDEX": nowhere, "UV_HTTP_TIMEOUT": "1"}
        environment |= {"UV_HTTP_RETRIES": "0"}
        environment |= {"OTEL_TRACES_EXPORTER": "zipkin", "OPENAI_BASE_URL": "http://127.0.0.1:1"}
        home = tmp_path / "home"
        home.mkdir(mode=0o755)
        home.chmod(0o755)
        os.utime(home, (time.time() + 9999,) * 2)
        (home / "token").touch()
        os.utime(home / "token", (time.time() + 9999,) * 2)
        done = run(environment, "doctor", "--json", "--url", f"http://127.0.0.1:{unused_port()}")
    found = {f["check"]: (f["state"], f["fix"]) for f in json.loads(done.stdout)}
    assert done.returncode == 2
    assert {check for check, (state, _) in found.items() if state == "problem"} == {
        "home", "token", "Jupyter kernel", "service", "port",
    }  # fmt: skip
    for check in ("package index", "clock", "Jupyter looks there", "fork", "model", "settings", "traces"):
        state, fix = found[check]
        assert (check, state, bool(fix)) == (check, "warning", True)
    assert "chmod 700" in found["home"][1]


def unused_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


def test_without_a_service_commands_say_how_to_start_it(tmp_path: Path, cache: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        environment = server_environment(tmp_path, cache, port=unused.getsockname()[1])
        done = run(environment, "functions")
        assert done.returncode == 3
        assert "make serve" in done.stderr
        examined = run(environment, "doctor", "--json")
    assert examined.returncode == 2
    wrong = {f["check"]: f["fix"] for f in json.loads(examined.stdout) if f["state"] == "problem"}
    assert "Start the service once" in wrong["home"]
    assert "service" in wrong


def test_serve_refuses_an_open_address_without_a_token(tmp_path: Path, cache: Path) -> None:
    done = run(server_environment(tmp_path, cache, host="0.0.0.0"), "serve")
    assert done.returncode == 2
    assert "insecure_bind" in done.stderr
    assert "AIGBB_TOKEN" in done.stderr
    assert not (tmp_path / "home").exists()


def test_serve_refuses_a_taken_port_before_it_builds_anything(tmp_path: Path, cache: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run(server_environment(tmp_path, cache), "serve", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "port_in_use" in done.stderr
    assert not (tmp_path / "home").exists()


def test_a_port_is_kept_from_the_start_on(tmp_path: Path) -> None:
    with listening(Settings(home=tmp_path / "home", port=0)) as first:
        port = first.getsockname()[1]
        other = Settings(home=tmp_path / "other", port=port)
        with pytest.raises(PortInUse, match=f"127.0.0.1:{port}"), listening(other):
            raise AssertionError


def test_a_first_start_that_fails_slowly_says_why_and_nothing_else(tmp_path: Path) -> None:
    environment = server_environment(tmp_path, tmp_path / "cache", kernel_max_age=0.05, log_level="debug", port=0)
    done = run(
        environment | {"UV_INDEX_URL": f"http://127.0.0.1:{unused_port()}/simple", "UV_HTTP_RETRIES": "1"}, "serve"
    )
    assert done.returncode == 4
    assert "Traceback" not in done.stderr + done.stdout
    assert "background_task_failed" not in done.stderr + done.stdout
    assert "index_unavailable" in "".join(done.stderr.splitlines()[-4:])


def test_serve_refuses_a_home_that_is_in_use(server: Server) -> None:
    done = run(server.environment, "serve")
    assert done.returncode == 2
    assert "home_in_use" in done.stderr


def test_a_wrong_setting_is_named(tmp_path: Path, cache: Path) -> None:
    done = run(server_environment(tmp_path, cache, pool_size="many"), "serve")
    assert done.returncode == 2
    assert "pool_size" in done.stderr


def test_commands_that_ask_the_service_do_not_import_it() -> None:
    heavy = ["fastapi", "jupyter_client", "limits", "openai", "pygments", "sqlalchemy", "structlog", "uvicorn", "zmq"]
    code = f"import sys, server.cli; server.cli.Settings(); print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_setting_is_a_flag_of_serve(tmp_path: Path, cache: Path) -> None:
    text = re.sub(r"\s+", " ", run(server_environment(tmp_path, cache), "serve", "--help").stdout)
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in text


def test_a_chosen_token_is_the_token_and_is_not_written_down(tmp_path: Path, cache: Path) -> None:
    with running_server(tmp_path, cache, token="chosen-token", pool_size=0) as server:
        with server.client(token="chosen-token") as client:
            assert client.get("/functions").status_code == 200
        assert not (server.home / "token").exists()
        assert "chosen-token" not in "".join(server.said)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_service_ends_its_kernels_and_leaves_no_sockets(
    tmp_path: Path, cache: Path, how: signal.Signals
) -> None:
    with running_server(tmp_path, cache, pool_size=1) as server:
        with server.client() as client:
            client.post("/sessions", json={"id": "open"})
            client.post("/execute", json={"code": "1", "session": "open"})
            wait_until(lambda: client.get("/healthz").json()["fork"] == "ready")
            started = psutil.Process(server.process.pid).children(recursive=True)
            assert started
        runtime = (server.home / "runtime").readlink()
        assert runtime.is_dir()
        server.stop(how)
        assert not psutil.wait_procs(started, timeout=100)[1]
        assert not runtime.exists()
        assert list((server.home / "work").iterdir()) == []


def test_the_second_start_registers_what_was_edited_and_leaves_what_is_broken(tmp_path: Path, cache: Path) -> None:
    functions = tmp_path / "aigbb_functions"
    functions.mkdir()
    (functions / "good.py").write_text("def good() -> int:\n    return 1\n")
    with running_server(tmp_path, cache, pool_size=0) as server, server.client() as client:
        assert [f["name"] for f in client.get("/functions").json()] == ["good"]
    (functions / "good.py").write_text("def good() -> int:\n    return 2\n")
    (functions / "fine.py").write_text(
        "def fine() -> int:\n    return good() + 1\n\n\nfrom aigbb_functions import good\n"
    )
    (functions / "broken.py").write_text("def broken(:\n")
    (functions / "raises.py").write_text("def raises(): pass\n\n1/0\n")
    with running_server(tmp_path, cache, pool_size=0) as server, server.client() as client:
        versions = {f["name"]: f["version"] for f in client.get("/functions").json()}
        assert versions == {"good": 2, "fine": 1}
        assert client.post("/execute", json={"code": "fine()"}).json()["result"] == "3"
        banner = "".join(server.said)
    assert "broken.py: Line 1: invalid syntax." in banner
    assert "raises.py: Importing raises raised ZeroDivisionError: division by zero" in banner
    assert (functions / "broken.py").read_text() == "def broken(:\n"
