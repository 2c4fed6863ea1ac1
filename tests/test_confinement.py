"""What kernels may see and do, asked from inside of real ones: by profile, and whether forked or started."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import zmq.asyncio

from kernels import machine, sandbox
from kernels.cgroups import Cgroups, Group, Quota
from kernels.confinement import Bounds, Confinement
from kernels.environments import Generation
from kernels.errors import ConfinementUnavailable
from kernels.forkserver import command
from kernels.home import Home
from kernels.kernel import Kernel, Launch
from kernels.machine import Wanted
from kernels.outputs import Execution, fold
from kernels.probing import Probe
from kernels.provisioner import SOCKET
from kernels.tasks import Task
from server.functions import Function
from server.snapshots import write_snapshot
from tests.conftest import running_server
from tests.waiting import until

pytestmark = pytest.mark.anyio

PARTS = {part.name: part for part in asyncio.run(machine.examine())}
MIB = 1024**2
BOUNDS = Bounds(file_size=64 * MIB, memory=2048 * MIB, processes=64)


@dataclass(frozen=True)
class Place:
    """A home with what a service keeps in it, and how kernels of it start in one profile, one by one or forked."""

    home: Home
    launch: Launch
    confinement: Confinement
    profile: str


@contextmanager
def parent_of(launch: Launch) -> Iterator[Launch]:
    """The same launch, forked from a parent in a sandbox of its own."""
    address = launch.runtime / "parent"
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(address))
        door.listen()
        argv, env = command(launch)
        process, group = asyncio.run(_start(launch, argv, env, door))
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(str(address))
                line.sendall(b'{"do": "refresh"}\n')
                assert line.recv(4096).startswith(b'{"late": {}, ')
            yield replace(launch, env={**launch.env, SOCKET: str(address)})
        finally:
            process.kill()
            process.wait()
            if group is not None:
                group.remove()


async def _start(
    launch: Launch, argv: list[str], env: dict[str, str], door: socket.socket
) -> tuple[subprocess.Popen[bytes], Group | None]:
    group = launch.cage.group(kernels=2)
    async with launch.cage.entered(argv) as entered:
        process = subprocess.Popen(entered.argv, env=env, stdin=door.fileno(), pass_fds=entered.pass_fds)
        await entered.admit(group)
    return process, group


@contextmanager
def placed(wanted: Wanted, generation: Generation, home: Home) -> Iterator[Place]:
    """A kernel of the shared generation in a home that has secrets."""
    for file in ("token", "registry.sqlite3", "secret.key"):
        (home.path / file).write_text("canary")
    found = asyncio.run(machine.confine(wanted, BOUNDS, ()))
    with tempfile.TemporaryDirectory(prefix="aigbb-") as folder:
        runtime = Path(folder)
        env = sandbox.kernel_environment(generation.python, home.work, {})
        env |= {"AIGBB_OWNED": "1"}
        cage = found.kernels(home, runtime)
        launch = Launch(generation.kernel_name, 1, generation.kernelspecs, env, runtime, home.work, cage)
        yield Place(home, launch, found, found.profile)


@pytest.fixture(scope="module", params=["auto-spawned", "auto-forked", "required-spawned", "required-forked"])
def place(request: pytest.FixtureRequest, generation: Generation, home: Home) -> Iterator[Place]:
    """Each profile, each way."""
    wanted, how = request.param.split("-")
    missing = PARTS.values() if wanted == "required" else [PARTS["bubblewrap"]]
    for part in missing:
        if not part.ok:
            pytest.skip(f"NOT TESTED: {part.name}: {part.detail}. {part.fix}")
    with placed(wanted, generation, home) as found:
        if how == "spawned":
            yield found
            return
        with parent_of(found.launch) as launch:
            yield replace(found, launch=launch)


@asynccontextmanager
async def running(launch: Launch) -> AsyncIterator[Kernel]:
    """A kernel."""
    context = zmq.asyncio.Context()
    kernel = await Kernel.start(launch, context)
    try:
        yield kernel
    finally:
        await kernel.stop()
        context.term()


async def run(kernel: Kernel, code: str, timeout: float = 30) -> Execution:
    """Run code to its end."""
    async with aclosing(kernel.execute(Task.code(code), timeout=timeout, max_output=100_000)) as items:
        return await fold(items)


async def told(kernel: Kernel, code: str) -> Any:
    """What an expression is in the kernel; the name of the exception, if there is one."""
    text = f"try:\n    _r = ({code})\nexcept BaseException as e:\n    _r = type(e).__name__\nprint(repr(_r))"
    execution = await run(kernel, text)
    [output] = execution.outputs
    return eval(output.text)  # type: ignore[union-attr]


def hardened(place: Place) -> bool:
    """Whether it is the profile that starts from nothing."""
    return place.profile == "hardened"


def sleepers() -> list[str]:
    """The processes that a kernel started here and nobody ended."""
    return subprocess.run(["pgrep", "-f", "^sleep 4321$"], capture_output=True, text=True, check=False).stdout.split()


READS = "open({!r}).read()"


async def test_nothing_of_the_services_own_is_to_be_seen(place: Place) -> None:
    async with running(place.launch) as kernel:
        listed = await told(kernel, f"sorted(__import__('os').listdir({str(place.home.path)!r}))")
        assert listed == "PermissionError" or set(listed) <= {"generations", "snapshots", "work", "cache"}
        for file in ("token", "registry.sqlite3", "secret.key"):
            assert (place.home.path / file).read_text() == "canary"
            path = str(place.home.path / file)
            assert await told(kernel, READS.format(path)) in ("FileNotFoundError", "PermissionError")
        sockets = await told(kernel, f"sorted(__import__('os').listdir({str(place.launch.runtime)!r}))")
        assert sockets in (["k"], "PermissionError")


async def test_no_process_but_its_own_is_to_be_seen(place: Place) -> None:
    async with running(place.launch) as kernel:
        code = "[int(n) for n in __import__('os').listdir('/proc') if n.isdecimal()]"
        numbers = await told(kernel, code)
        assert len(numbers) < 6
        environs = "{n: open(f'/proc/{n}/environ').read() for n in (1, 2)}"
        found = str(await told(kernel, environs))
        assert "canary" not in found
        assert found == "PermissionError" or "AIGBB_GENERATION" in found


async def test_its_environment_and_its_functions_are_read_only(place: Place) -> None:
    async with running(place.launch) as kernel:
        ours = (place.home.snapshots / "1", Path(machine.__file__).parent / "inside")
        for folder in ("__import__('sys').prefix", *(repr(str(path)) for path in ours)):
            assert await told(kernel, f"open({folder} + '/planted.py', 'w')") in ("OSError", "PermissionError")


async def test_what_it_writes_is_in_folders_that_go_with_it(place: Place) -> None:
    async with running(place.launch) as kernel:
        made = await told(kernel, "open('here', 'w').write('x'), __import__('tempfile').mkdtemp()")
        assert made[0] == 1
        assert Path(made[1]).is_relative_to(kernel.workdir)
        assert Path(made[1]).is_dir()
        assert await told(kernel, "oct(__import__('os').stat('.').st_mode)[-3:]") == "700"
    assert not kernel.workdir.exists()
    assert not list((place.launch.runtime / "k").iterdir())


SWAP = """
import os, shutil
os.chdir("/")
done = []
for path in ({!r}, {!r}):
    try:
        shutil.rmtree(path, ignore_errors=True)
        os.symlink({!r}, path)
        done.append(path)
    except OSError:
        pass
"""


async def test_links_that_it_puts_in_the_place_of_its_folders_are_not_followed(place: Place) -> None:
    canary = place.home.path / "canary"
    canary.mkdir(mode=0o750)
    for name in ("kernel.json", "registry.sqlite3"):
        (canary / name).touch()
    async with running(place.launch) as kernel:
        folders = str(kernel.workdir), str(place.launch.runtime / "k" / kernel.id)
        assert (await run(kernel, SWAP.format(*folders, str(canary)))).done.status == "ok"
    assert not any(os.path.lexists(folder) for folder in folders)
    assert sorted(path.name for path in canary.iterdir()) == ["kernel.json", "registry.sqlite3"]
    assert canary.stat().st_mode & 0o777 == 0o750
    shutil.rmtree(canary)


async def test_how_it_is_reached_is_gone_once_it_runs(place: Place) -> None:
    async with running(place.launch) as one, running(place.launch) as other:
        assert list((place.launch.runtime / "k").iterdir()) == []
        paths = "[line.split()[7] for line in open('/proc/net/unix') if len(line.split()) > 7]"
        seen = await told(one, paths)
        assert seen == "PermissionError" or not any(os.path.lexists(path) for path in seen if other.id in path)
        assert (await run(other, "6 * 7")).result == "42"


DRAW = """
import matplotlib, matplotlib.pyplot as pyplot
pyplot.plot([1])
pyplot.savefig("drawn.png")
print(matplotlib.get_configdir())
print(matplotlib.get_cachedir())
print(pyplot.style.library and matplotlib.style.USER_LIBRARY_PATHS[0])
"""
POISON = """
import os
for folder in {!r}:
    for name in os.listdir(folder):
        try:
            open(os.path.join(folder, name), "w").write("{{}}")
        except OSError:
            pass
"""


async def test_matplotlib_has_a_folder_of_its_own_and_the_fonts_of_its_environment(
    place: Place, generation: Generation
) -> None:
    [fonts] = (generation.folder / "matplotlib").iterdir()
    before = fonts.read_bytes()
    async with running(place.launch) as kernel:
        execution = await run(kernel, DRAW)
        own = str(kernel.workdir / ".config" / "matplotlib")
        assert (execution.text("stderr"), execution.done.status) == ("", "ok")
        assert execution.text("stdout").split() == [own, own, f"{own}/stylelib"]
        assert await told(kernel, f"__import__('os').readlink({f'{own}/{fonts.name}'!r})") == str(fonts)
        started = "__import__('subprocess').run([__import__('sys').executable, '-c', 'import matplotlib.font_manager'],"
        assert await told(kernel, f"{started} capture_output=True).stderr") == b""
        await run(kernel, POISON.format([own, str(fonts.parent)]))
    assert fonts.read_bytes() == before


async def test_the_machine_is_as_the_user_has_it_or_bare(place: Place, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("theirs")
    async with running(place.launch) as kernel:
        read = await told(kernel, READS.format(str(tmp_path / "data")))
        written = await told(kernel, f"open({str(tmp_path / 'new')!r}, 'w').write('x')")
        interfaces = await told(kernel, "sorted(name for _, name in __import__('socket').if_nameindex())")
    if hardened(place):
        assert (read, written) == ("FileNotFoundError", "FileNotFoundError")
        assert interfaces == ["lo"]
    else:
        assert (read, written) == ("theirs", 1)
        assert (tmp_path / "new").read_text() == "x"
        assert interfaces == sorted(name for _, name in socket.if_nameindex())


async def test_it_has_no_privileges(place: Place) -> None:
    async with running(place.launch) as kernel:
        status = await told(kernel, "open('/proc/self/status').read()")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["NoNewPrivs"] == "1"
        sys_admin, sys_ptrace, mknod = 1 << 21, 1 << 19, 1 << 27
        assert not int(fields["CapEff"], 16) & (sys_admin | sys_ptrace | mknod)
        mounts = "__import__('ctypes').CDLL(None).mount(b'none', b'/mnt', b'tmpfs', 0, None)"
        assert await told(kernel, mounts) == -1
        if hardened(place):
            assert int(fields["CapEff"], 16) == 0
            assert fields["Seccomp"] == "2"
            assert (
                await told(kernel, "__import__('socket').socket(40, 1)") == "PermissionError"
            )  # to the machine's host
            assert (
                await told(kernel, "int(__import__('socket').socket(16, 3).family)") == 16
            )  # netlink, which zmq needs
            assert await told(kernel, "__import__('ctypes').CDLL(None).unshare(0x10000000)") == -1


async def test_its_limits_hold(place: Place) -> None:
    async with running(place.launch) as kernel:
        assert await told(kernel, "__import__('resource').getrlimit(4)") == (0, 0)
        assert await told(kernel, f"open('big', 'wb').truncate({65 * MIB})") == "OSError"
        assert await told(kernel, "(1).real") == 1


async def test_an_interrupt_reaches_it_and_its_end_is_told_truly(place: Place) -> None:
    async with running(place.launch) as kernel:
        assert await told(kernel, "1 / 0") == "ZeroDivisionError"  # what tracebacks need is imported
        await run(kernel, "1 / 0")
        run_on = asyncio.create_task(run(kernel, "import os\nprint(os.getpid(), flush=True)\nwhile True: pass"))
        while not await kernel.interrupt():
            await asyncio.sleep(0.01)
        assert (await run_on).done.status == "cancelled"
        died = await run(kernel, "import os\nos.kill(os.getpid(), 11)")
        assert (died.done.status, died.done.detail) == ("died", "The kernel was killed by SIGSEGV.")


async def test_what_it_starts_ends_with_it(place: Place) -> None:
    async with running(place.launch) as kernel:
        code = "__import__('subprocess').Popen(['sleep', '4321'], start_new_session=True).pid"
        assert await told(kernel, code) > 0
        assert sleepers()
    await until(lambda: not sleepers())


async def test_two_kernels_of_a_hardened_parent_do_not_reach_each_other(place: Place) -> None:
    if not hardened(place) or SOCKET not in place.launch.env:
        return
    async with running(place.launch) as one, running(place.launch) as other:
        await run(other, "open('mine', 'w').write('x')")
        pid = await told(other, "__import__('os').getpid()")
        assert await told(one, f"__import__('os').kill({pid}, 9)") == "PermissionError"
        assert await told(one, f"open('/proc/{pid}/environ').read()") == "PermissionError"
        assert await told(one, f"open('/proc/{pid}/root{other.workdir}/mine').read()") == "PermissionError"
        assert await told(one, READS.format(str(other.workdir / "mine"))) == "PermissionError"
        for folder in (place.launch.workdir, place.launch.runtime / "k", Path("/tmp"), Path("/dev/shm")):
            assert await told(one, f"__import__('os').listdir({str(folder)!r})") == "PermissionError"
        assert await told(one, "str(__import__('multiprocessing').Lock())") == "<Lock(owner=None)>"
        assert await told(other, READS.format("mine")) == "x"


BOMB = """
import os, time
count = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(600)
        count += 1
except OSError as error:
    print(count, type(error).__name__)
"""


async def test_too_many_processes_and_too_much_memory_end_with_the_kernel_that_wanted_them(place: Place) -> None:
    if not hardened(place):
        return
    if not PARTS["cgroup"].ok:
        pytest.skip(f"NOT TESTED: cgroup: {PARTS['cgroup'].detail}")
    async with running(place.launch) as kernel:
        [said] = (await run(kernel, BOMB)).outputs
        count, error = said.text.split()  # type: ignore[union-attr]
        assert (int(count) < BOUNDS.processes, error) == (True, "BlockingIOError")
    async with running(place.launch) as kernel:
        done = (await run(kernel, f"x = bytearray({BOUNDS.memory} + 2**20)")).done
        assert (done.status, done.reason) == ("died", "oom")
    async with running(place.launch) as kernel:
        assert await told(kernel, "len(bytearray(2**20))") == 2**20


async def test_an_import_at_registration_sees_no_more_than_a_kernel(place: Place, generation: Generation) -> None:
    source = "import os\nraise RuntimeError(sorted(os.listdir({!r})), os.path.exists('/proc/{}'))\ndef f(): pass"
    folder = place.home.snapshots / "seen"
    shutil.rmtree(folder, ignore_errors=True)
    text = source.format(str(place.home.path), os.getpid())
    await asyncio.to_thread(write_snapshot, folder, [Function("f", text, (), (), "", "")], {})
    env = sandbox.kernel_environment(generation.python, place.home.work, {})
    probe = Probe(env, place.home.work, 60, cage=place.confinement.probes(place.home))
    found = (await probe.ask(generation, folder, ["f"])).failures["f"]
    shutil.rmtree(folder)
    assert "'generations'" in found.detail
    assert "'token'" not in found.detail
    assert found.detail.endswith("False)")


async def test_an_import_before_an_environment_serves_writes_beside_it_and_not_into_it(
    place: Place, generation: Generation
) -> None:
    beside = place.home.path / "beside"
    cage = place.confinement.probes(place.home, beside)
    installed = next(generation.folder.glob("venv/lib/python3*/site-packages/IPython/__init__.py"))
    code = f"open({str(beside / 'x')!r}, 'w').close(); open({str(installed)!r}, 'a')"
    beside.mkdir()
    env = sandbox.kernel_environment(generation.python, place.home.work, {})
    child = await sandbox.Child.start([generation.python, "-c", code], env=env, cage=cage)
    finished = await child.finish(b"", 60)
    assert (beside / "x").is_file()
    shutil.rmtree(beside)
    assert "Read-only file system" in finished.stderr


def test_a_machine_without_a_part_is_told_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_bubblewrap", lambda: None)
    monkeypatch.setattr(machine, "version", lambda: 3)
    with pytest.raises(ConfinementUnavailable) as caught:
        asyncio.run(machine.confine("required", BOUNDS, ()))
    assert caught.value.extra["missing"] == ["bubblewrap", "landlock"]
    assert "apt-get install bubblewrap" in caught.value.hint
    found = asyncio.run(machine.confine("auto", BOUNDS, ()))
    assert (found.state()["profile"], found.state()["bubblewrap"]) == ("default", "not installed")


def test_bubblewrap_that_may_not_run_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(machine, "_bubblewrap", lambda: program)
    found = asyncio.run(machine.confine("auto", BOUNDS, ()))
    assert found.bubblewrap is None
    assert "setting up uid map" in found.state()["bubblewrap"]


def test_groups_of_the_second_version_are_made_in_what_is_delegated(tmp_path: Path) -> None:
    own = tmp_path / "user.slice"
    own.mkdir()
    (own / "cgroup.controllers").write_text("cpu memory pids io")
    (own / "cgroup.subtree_control").write_text("cpu memory pids")
    found = Cgroups.find(tmp_path, "0::/user.slice\n")
    group = found.group(Quota(memory=MIB, processes=7, processors=0.5))
    [folder] = set(group.folders.values())
    folder.mkdir()
    for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.max"):
        (folder / name).touch()
    group.fill()
    read = {path.name: path.read_text() for path in folder.iterdir()}
    assert read == {"memory.max": str(MIB), "memory.swap.max": "0", "pids.max": "7", "cpu.max": "50000 100000"}
    (own / "cgroup.controllers").write_text("cpu")
    with pytest.raises(OSError, match="memory, pids not delegated"):
        Cgroups.find(tmp_path, "0::/user.slice\n")


NAMES = "def {}() -> list[str]:\n    import socket\n    return sorted(name for _, name in socket.if_nameindex())\n"


def test_a_hardened_service_gives_the_network_to_functions_that_ask_for_it(tmp_path: Path, cache: Path) -> None:
    for part in PARTS.values():
        if not part.ok and not part.optional:
            pytest.skip(f"NOT TESTED: {part.name}: {part.detail}. {part.fix}")
    with running_server(tmp_path, cache, sandbox="required", pool_size=1) as server, server.client() as client:
        assert "hardened" in "".join(server.said)
        assert client.get("/healthz").json()["confinement"]["profile"] == "hardened"
        code = "import socket; [name for _, name in socket.if_nameindex()]"
        assert client.post("/execute", json={"code": code}).json()["result"] == "['lo']"
        for name, network in (("alone", False), ("online", True)):
            body = {"source": NAMES.format(name), "network": network}
            answer = client.post("/register", json=body)
            assert answer.status_code == 201, answer.text
            assert client.get(f"/functions/{name}").json()["network"] is network
        host = sorted(name for _, name in socket.if_nameindex())
        for _ in range(2):
            assert client.post("/functions/alone/call", json={}).json()["result"] == ["lo"]
            assert client.post("/functions/online/call", json={}).json()["result"] == host
