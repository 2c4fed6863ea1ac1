"""Kernels as forks of a warm parent: what they share, what they must not, and what happens when it fails."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import anyio
import psutil
import pytest

from kernels import forkserver, provisioner
from kernels.environments import Generation
from kernels.forkserver import Forks, can_fork
from kernels.home import Home
from kernels.kernel import Launch
from kernels.kernelspecs import FORK, Shelf
from kernels.limits import PoolLimits
from kernels.outputs import Execution, Result, fold
from kernels.pool import Pool
from kernels.provisioner import Line
from kernels.tasks import Task
from server.functions import Function
from server.snapshots import write_snapshot
from tests import waiting
from tests.conftest import launching, running_server

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not can_fork(), reason="kernels are not forked on this system"),
]


@dataclass
class Place:
    """A generation of a test's own, whose functions it can change."""

    generation: Generation
    launch: Launch
    snapshots: Path
    number: int = 0

    async def publish(self, **sources: str) -> None:
        """Have these functions, and no others, from now on."""
        await asyncio.to_thread(self.write, sources)

    def write(self, sources: Mapping[str, str]) -> None:
        """The same at once."""
        self.number += 1
        functions = [Function(name, source, (), (), "", "") for name, source in sources.items()]
        write_snapshot(self.snapshots / str(self.number), functions, {})
        aside = self.generation.folder / "aside"
        aside.write_text(str(self.snapshots / str(self.number)))
        aside.rename(self.generation.pointer)


@pytest.fixture
def place(generation: Generation, home: Home, tmp_path: Path) -> Iterator[Place]:
    """The shared generation's packages in a folder of its own, without any function."""
    folder = tmp_path / "generations" / "1"
    folder.mkdir(parents=True)
    (folder / "venv").symlink_to(generation.folder / "venv")
    (tmp_path / "snapshots").mkdir()
    own = replace(generation, folder=folder)
    with launching(own, home, tmp_path) as launch:
        Shelf(own.kernelspecs, home.path, FORK).put(own)
        found = Place(own, launch, tmp_path / "snapshots")
        found.write({})
        yield found


@asynccontextmanager
async def forking(place: Place, spares: int = 0) -> AsyncIterator[Pool]:
    """A pool whose kernels are forked."""
    async with Pool(lambda: place.launch, PoolLimits(spares=spares)) as pool:
        pool.refresh()
        await until(lambda: pool.forks.ready)
        yield pool


# Imports of a parent take their time.
until = partial(waiting.until, seconds=60)


async def up_to_date(place: Place, pool: Pool) -> Mapping[str, str]:
    """Wait until the parent has the functions; those that it left to the kernels, with the reasons."""
    pool.refresh()
    with anyio.fail_after(60):
        server = pool.forks._server
        assert server is not None
        return await server[1].refresh()


async def run(pool: Pool, code: str, session: str | None = None) -> Execution:
    """Run code; the parent of its kernel's process is the last thing that it shows."""
    async with aclosing(pool.execute(Task.code(code), session=session, timeout=30, max_output=100_000)) as items:
        return await fold(item async for _, item in items)


def shown(execution: Execution) -> str:
    """The result as text."""
    [result] = [output for output in execution.outputs if isinstance(output, Result)]
    return str(result.data["text/plain"])


PARENT = "import os; os.getppid()"


# -- what a fork is


async def test_a_clean_kernel_is_a_fork_of_the_parent(place: Place) -> None:
    async with forking(place) as pool:
        assert shown(await run(pool, PARENT)) == str(pool.forks.pid)
        assert shown(await run(pool, "import sys; 'pandas' in sys.modules, sys.argv[1:2]")) == "(True, ['-f'])"


async def test_functions_are_there_before_the_fork(place: Place) -> None:
    await place.publish(one="import os\n\nPID = os.getpid()\n\n\ndef one():\n    return PID\n")
    async with forking(place) as pool:
        assert await up_to_date(place, pool) == {}
        assert shown(await run(pool, "one()")) == str(pool.forks.pid)


async def test_a_new_snapshot_is_in_the_next_fork_and_the_old_one_is_gone(place: Place) -> None:
    await place.publish(one="def one():\n    return 1\n", gone="def gone():\n    return 0\n")
    async with forking(place) as pool:
        await up_to_date(place, pool)
        await place.publish(
            one="def one():\n    return 'new'\n", two="import os\n\nPID = os.getpid()\n\n\ndef two():\n    return PID\n"
        )
        assert await up_to_date(place, pool) == {}
        assert shown(await run(pool, "one(), two(), 'gone' in globals()")) == f"('new', {pool.forks.pid}, False)"


async def test_a_kernel_has_the_newest_functions_before_the_parent_has(place: Place) -> None:
    async with forking(place) as pool:
        await up_to_date(place, pool)
        await place.publish(late="def late():\n    return 5\n")
        assert shown(await run(pool, "late()")) == "5"


async def test_a_pinned_session_keeps_its_functions_until_it_is_restarted(place: Place) -> None:
    await place.publish(one="def one():\n    return 1\n")
    async with forking(place) as pool:
        pinned, free = (await pool.open_session(pinned=True)).id, (await pool.open_session()).id
        assert shown(await run(pool, "one()", pinned)) == "1"
        await place.publish(one="def one():\n    return 2\n")
        executions = [await run(pool, "one()", session) for session in (pinned, free, None)]
        assert [(shown(e), e.done.snapshot) for e in executions] == [("1", 2), ("2", 3), ("2", 3)]
        assert [session.pinned for session in pool.sessions()] == [True, False]
        await pool.restart_session(pinned)
        assert shown(await run(pool, "one()", pinned)) == "2"
        await place.publish(one="def one():\n    return 3\n")
        assert shown(await run(pool, "one()", pinned)) == "2"


SHARED = """
import random, ssl, uuid, secrets, tempfile, os
import numpy
from ipykernel.kernelapp import IPKernelApp
kernel = IPKernelApp.instance()
print([random.random(), numpy.random.random(), numpy.random.default_rng().random(), uuid.uuid4().hex,
       secrets.token_hex(8), os.urandom(4).hex(), ssl.RAND_bytes(8), next(tempfile._get_candidate_names()),
       kernel.kernel.ident, kernel.session.key.hex(), kernel.session.session,
       os.getcwd(), os.getpgid(0), os.environ["HOME"]])
"""


async def test_two_forks_share_no_random_numbers_keys_or_folders(place: Place) -> None:
    async with forking(place) as pool:
        first, second = [await run(pool, SHARED) for _ in range(2)]
        values = [eval(output.text) for run in (first, second) for output in run.outputs]  # type: ignore[union-attr]
        assert len(values) == 2
        assert len(values[0]) == 14
        assert not set(values[0]) & set(values[1])


OPENED = """
import os
sorted(os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{n}"))
"""


async def test_what_one_kernel_opens_is_not_open_in_another(place: Place, tmp_path: Path) -> None:
    async with forking(place) as pool:
        session = (await pool.open_session()).id
        secret = tmp_path / "secret"
        await run(pool, f"secret = open({str(secret)!r}, 'w')", session)
        found = shown(await run(pool, OPENED))
        assert str(secret) not in found
        assert str(place.launch.runtime / "fork") not in found


async def test_a_fork_reads_nothing_of_the_services_environment(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIGBB_TOKEN", "secret")
    async with forking(place) as pool:
        found = shown(await run(pool, "import os; sorted(n for n in os.environ if n.startswith('AIGBB'))"))
        assert found == "['AIGBB_GENERATION', 'AIGBB_KERNEL']"


# -- imports that must not be shared

LATE = {
    "threaded": (
        "import threading\n\nthreading.Thread(target=threading.Event().wait, daemon=True).start()",
        "starts threads",
    ),
    "opening": ("import os\n\nFILE = open(os.devnull)", "opens files"),
    "starting": ("import subprocess, sys\n\nCHILD = subprocess.Popen(['sleep', '100'])", "starts processes"),
    "drawing": ("import random\n\nrandom.random()", "draws random numbers"),
    "seeding": ("import numpy\n\nnumpy.random.seed(3)", "draws numpy's random numbers"),
    "keeping": ("import random\n\nOWN = random.Random(3)", "keeps a random generator"),
    "setting": ("import os\n\nos.environ['SET_BY_IMPORT'] = '1'", "changes environment variables"),
    "moving": ("import os\n\nos.chdir('/')", "changes the working directory"),
    "pathing": ("import sys\n\nsys.path.append('/nowhere')", "changes sys.path"),
    "handling": ("import signal\n\nsignal.signal(signal.SIGUSR1, signal.SIG_IGN)", "handles signals"),
    "ending": ("import os\n\nif 'AIGBB_LOCK' in os.environ:\n    os._exit(0)", "ends the process"),
    "forking": ("import os\n\nif os.fork() == 0:\n    os._exit(0)", "starts processes"),
}


async def test_imports_that_must_not_be_shared_are_left_to_each_kernel_and_named(place: Place) -> None:
    good = "import os\n\nPID = os.getpid()\n\n\ndef good():\n    return PID\n"
    sources = {name: f"{line}\n\n\ndef {name}():\n    return 1\n" for name, (line, _) in LATE.items()}
    await place.publish(good=good, **sources)
    async with forking(place) as pool:
        late = await up_to_date(place, pool)
        assert late == {name: reason for name, (_, reason) in LATE.items()}
        assert pool.forks.late == late
        calls = ", ".join(f"{name}()" for name in LATE)
        assert shown(await run(pool, f"good(), sum([{calls}])")) == f"({pool.forks.pid}, {len(LATE)})"
        assert shown(await run(pool, "keeping.__globals__['OWN'].random()")) == "0.23796462709189137"


async def test_a_function_that_was_put_off_is_tried_again_when_it_changes(place: Place) -> None:
    await place.publish(one="open('/dev/null')\nF = open('/dev/null')\n\n\ndef one():\n    return 1\n")
    async with forking(place) as pool:
        assert await up_to_date(place, pool) == {"one": "opens files"}
        await place.publish(one="def one():\n    return 2\n")
        assert await up_to_date(place, pool) == {}
        assert shown(await run(pool, "one()")) == "2"


async def test_an_import_that_fails_harms_neither_the_parent_nor_others(place: Place) -> None:
    await place.publish(bad="import no_such_module\n\n\ndef bad():\n    return 1\n", one="def one():\n    return 1\n")
    async with forking(place) as pool:
        assert list(await up_to_date(place, pool)) == ["bad"]
        execution = await run(pool, "one()")
        assert shown(execution) == "1"
        assert "bad is not available (ModuleNotFoundError" in str(execution.outputs)


# -- faults


async def test_while_the_parent_is_gone_kernels_are_started_and_a_new_one_comes(place: Place) -> None:
    async with forking(place) as pool:
        old = pool.forks.pid
        assert old is not None
        os.kill(old, signal.SIGKILL)
        await until(lambda: not pool.forks.ready)
        execution = await run(pool, PARENT)
        assert shown(execution) != str(old)
        await until(lambda: pool.forks.ready)
        assert shown(await run(pool, PARENT)) == str(pool.forks.pid) != str(old)


async def test_a_session_on_a_parent_that_is_killed_says_so_and_goes_on(place: Place) -> None:
    async with forking(place) as pool:
        session = (await pool.open_session()).id
        await run(pool, "kept = 1", session)
        assert pool.forks.pid is not None
        os.kill(pool.forks.pid, signal.SIGKILL)
        await until(lambda: pool.sessions()[0].state == "dead")
        execution = await run(pool, "'kept' in globals()", session)
        assert (shown(execution), execution.done.kernel_lost) == ("False", True)


async def test_a_parent_that_hangs_is_not_waited_for_and_replaced(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provisioner, "FORK_TIMEOUT", 0.2)
    monkeypatch.setattr(forkserver, "FORK_TIMEOUT", 0.2)
    monkeypatch.setattr(forkserver, "HANGS", 0.5)
    async with forking(place) as pool:
        old = pool.forks.pid
        assert old is not None
        os.kill(old, signal.SIGSTOP)
        assert shown(await run(pool, PARENT)) == str(os.getpid())
        pool.refresh()
        await until(lambda: pool.forks.ready and pool.forks.pid != old)
        assert not Path(f"/proc/{old}").exists()


async def test_a_parent_that_grows_is_replaced(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forkserver, "GROWTH", 0)
    async with forking(place) as pool:
        old = pool.forks.pid
        await place.publish(big="KEPT = b'x' * 400_000_000\n\n\ndef big():\n    return len(KEPT)\n")
        pool.refresh()
        await until(lambda: pool.forks.ready and pool.forks.pid != old)
        await place.publish()
        assert shown(await run(pool, "1+1")) == "2"


async def test_a_parent_that_cannot_start_leaves_kernels_as_they_were(place: Place) -> None:
    spec = place.generation.kernelspecs / place.launch.name / "kernel.json"
    broken = json.loads(spec.read_text())
    broken["argv"][1] = "/nowhere/launch.py"
    async with Pool(lambda: place.launch, PoolLimits(spares=0)) as pool:
        good = spec.read_text()
        spec.write_text(json.dumps(broken))
        pool.refresh()
        await until(lambda: pool.forks.reason)
        assert "can't open file" in pool.forks.reason
        spec.write_text(good)
        assert shown(await run(pool, PARENT)) == str(os.getpid())


async def test_a_fork_that_dies_at_birth_is_told_of(place: Place, tmp_path: Path) -> None:
    async with forking(place) as pool:
        line = Line(pool.forks.through(place.launch).env[provisioner.SOCKET])
        with (tmp_path / "words").open("wb") as words:
            request = {"do": "fork", "argv": ["-f", "x"], "env": {}, "cwd": "/nowhere", "owned": True}
            answer = await line.ask(request, (words.fileno(), words.fileno()))
            assert answer.keys() == {"pid"}
            assert await line.read() == {"exit": 1}
        line.close()
        assert "No such file or directory: '/nowhere'" in (tmp_path / "words").read_text()
        assert shown(await run(pool, PARENT)) == str(pool.forks.pid)


@pytest.mark.parametrize("said", [b"", b"nonsense\n", b"[]\n", b'{"do": "dance"}\n', b"x" * 100])
async def test_what_is_no_request_harms_nobody(place: Place, said: bytes) -> None:
    async with forking(place) as pool:
        line = Line(pool.forks.through(place.launch).env[provisioner.SOCKET])
        line.socket.send(said)
        line.close()
        assert shown(await run(pool, PARENT)) == str(pool.forks.pid)


async def test_two_hundred_forks_at_once_all_come_and_all_go(place: Place) -> None:
    async with forking(place) as pool:
        address = pool.forks.through(place.launch).env[provisioner.SOCKET]
        lines = [Line(address) for _ in range(200)]
        nowhere = os.open(os.devnull, os.O_WRONLY)
        request = {"do": "fork", "argv": ["-f", "x"], "env": {}, "cwd": "/", "owned": True}
        answers = await asyncio.gather(*(line.ask(request, (nowhere, nowhere)) for line in lines))
        os.close(nowhere)
        pids = {answer["pid"] for answer in answers}
        assert len(pids) == 200
        for line in lines:
            line.close()
        await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
        assert shown(await run(pool, PARENT)) == str(pool.forks.pid)


async def test_kernels_that_end_themselves_while_the_pool_refills_are_replaced(place: Place) -> None:
    async with forking(place, spares=2) as pool:
        for _ in range(5):
            assert (await run(pool, "import os; os._exit(3)")).done.status == "died"
        await until(lambda: pool.spares == 2)
        assert shown(await run(pool, PARENT)) == str(pool.forks.pid)


def test_nothing_outlives_a_service_that_is_killed(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "aigbb_functions").mkdir()
    with running_server(tmp_path, cache) as server, server.client() as client:
        session = client.post("/sessions").json()["id"]
        for body in ({"code": "1", "session": session}, {"code": "1"}):
            client.post("/execute", json=body)
        started = psutil.Process(server.process.pid).children(recursive=True)
        assert started
        server.stop(signal.SIGKILL)
        assert not psutil.wait_procs(started, timeout=20)[1]


async def test_where_forking_is_not_wanted_kernels_are_started(place: Place) -> None:
    async with Pool(lambda: place.launch, PoolLimits(spares=0, fork=False)) as pool:
        pool.refresh()
        assert (pool.forks.ready, pool.forks.reason) == (False, "switched off")
        assert shown(await run(pool, PARENT)) == str(os.getpid())


def test_elsewhere_than_on_linux_nothing_is_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    forks = Forks(lambda: pytest.fail("asked"))
    assert forks.reason == "kernels can't be forked on this system"
