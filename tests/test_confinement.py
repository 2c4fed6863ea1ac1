"""What kernels may see and do, asked from inside of real ones: by profile, and whether forked or started."""

from __future__ import annotations

import asyncio
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
from kernels.cgroups import Group
from kernels.confinement import Bounds, Confinement
from kernels.environments import Generation
from kernels.forkserver import command
from kernels.home import Home
from kernels.kernel import Kernel, Launch
from kernels.machine import Wanted
from kernels.outputs import Execution, fold
from kernels.provisioner import SOCKET
from kernels.tasks import Task

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
    (home.cache / "matplotlib").mkdir(exist_ok=True)
    found = asyncio.run(machine.confine(wanted, BOUNDS, ()))
    with tempfile.TemporaryDirectory(prefix="aigbb-") as folder:
        runtime = Path(folder)
        env = sandbox.kernel_environment(generation.python, home.work, home.cache, {})
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
    if not hardened(place) and SOCKET in place.launch.env:
        return  # one that leaves its group lives as long as the parent does
    for _ in range(200):
        if not sleepers():
            break
        await asyncio.sleep(0.05)
    assert not sleepers()
