"""What kernels may see and do, asked from inside of real ones: by profile, and whether forked or started."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
import zmq.asyncio
from uv import find_uv_bin

from kernels import machine, sandbox
from kernels.cgroups import Cgroups, Group, Quota
from kernels.confinement import Bounds, Confinement
from kernels.environments import Generation
from kernels.errors import ConfinementUnavailable
from kernels.forkserver import command
from kernels.home import Home
from kernels.kernel import Kernel, Launch
from kernels.machine import Wanted
from kernels.mounts import Exposure, Mount
from kernels.outputs import Execution, fold
from kernels.probing import Probe
from kernels.provisioner import SOCKET
from kernels.tasks import Task
from server.functions import Function
from server.snapshots import write_snapshot
from server.source_reader import start_reader
from tests.conftest import ROOT, running_server
from tests.doors import wait_until
from tests.processes import BOMB
from tests.waiting import until

pytestmark = pytest.mark.anyio
# A row of the table in docs/confinement.md that a test holds to its promise.
capability = pytest.mark.capability

PARTS = {part.name: part for part in asyncio.run(machine.examine())}
MIB = 1024**2
BOUNDS = Bounds(file_size=64 * MIB, memory=2048 * MIB, processes=64, processors=1.5)


@dataclass(frozen=True)
class Place:
    """A home with what a service keeps in it, and how kernels of it start in one profile, one by one or forked."""

    home: Home
    launch: Launch
    confinement: Confinement
    profile: str
    shown: Path  # a folder with what the operator mounts: `data`, and `out`, which is writable


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
    async with launch.cage.nesting().entered(argv) as entered:
        process = subprocess.Popen(entered.argv, env=env, stdin=door.fileno(), pass_fds=entered.pass_fds)
        await entered.admit(group)
    return process, group


@contextmanager
def placed(wanted: Wanted, generation: Generation, home: Home) -> Iterator[Place]:
    """A kernel of the shared generation in a home that has secrets."""
    for file in ("token", "registry.sqlite3", "secret.key"):
        (home.path / file).write_text("canary")
    shown = home.path.parent / f"shown-{uuid4().hex[:6]}"
    for folder in ("data/private", "out"):
        (shown / folder).mkdir(parents=True)
    for file in ("data/rows", "data/private/key", "data/.env"):
        (shown / file).write_text("canary" if "rows" not in file else "rows")
    exposure = Exposure(
        mounts=(Mount(shown / "data"), Mount(shown / "out", writable=True)),
        hidden=(home.path, ROOT, shown / "data/private", shown / "data/.env"),
    )
    found = asyncio.run(machine.confine(wanted, BOUNDS, exposure))
    assert found.unforkable == ""
    with tempfile.TemporaryDirectory(prefix="aigbb-") as folder:
        runtime = Path(folder)
        env = sandbox.kernel_environment(generation.python, home.work, {})
        env |= {"AIGBB_OWNED": "1"}
        cage = found.kernels(home, runtime)
        launch = Launch(generation.kernel_name, 1, generation.kernelspecs, env, runtime, home.work, cage)
        yield Place(home, launch, found, found.profile, shown)


@pytest.fixture(
    scope="module",
    params=[
        "auto-forked",
        "required-forked",
        pytest.param("auto-spawned", marks=pytest.mark.nightly),
        pytest.param("required-spawned", marks=pytest.mark.nightly),
    ],
)
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
FAILED = ("FileNotFoundError", "PermissionError", "OSError", "NotADirectoryError", "ConnectionRefusedError")


@capability("the service's token, keys, registry, `.env`, processes")
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


@capability("the service's token, keys, registry, `.env`, processes")
async def test_no_process_but_its_own_is_to_be_seen(place: Place) -> None:
    async with running(place.launch) as kernel:
        code = "[int(n) for n in __import__('os').listdir('/proc') if n.isdecimal()]"
        numbers = await told(kernel, code)
        assert len(numbers) < 6
        environs = "{n: open(f'/proc/{n}/environ').read() for n in (1, 2)}"
        found = str(await told(kernel, environs))
        assert "canary" not in found
        assert found == "PermissionError" or "AIGBB_GENERATION" in found


@capability("base Python, environments, snapshots")
async def test_its_environment_and_its_functions_are_read_only(place: Place) -> None:
    async with running(place.launch) as kernel:
        ours = (place.home.snapshots / "1", Path(machine.__file__).parent / "inside")
        for folder in ("__import__('sys').prefix", *(repr(str(path)) for path in ours)):
            assert await told(kernel, f"open({folder} + '/planted.py', 'w')") in ("OSError", "PermissionError")


@capability("work folder")
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


@capability("sockets of other kernels")
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


@capability("system (`/usr`, some of `/etc`)")
@capability("home directory, `/run`, `/var`, `/mnt`, other files")
@capability("network")
async def test_it_sees_the_system_and_what_is_mounted_and_nothing_else_of_the_machine(
    place: Place, tmp_path: Path, generation: Generation
) -> None:
    (tmp_path / "data").write_text("theirs")
    user = Path(pwd.getpwuid(os.getuid()).pw_dir)
    unseen = [tmp_path / "data", ROOT / "server/reading.py", ROOT / ".venv/pyvenv.cfg", place.home.cache / "uv"]
    unseen += [user / ".bashrc", *map(Path, ("/etc/shadow", "/etc/ssl/private", "/run", "/var/run/docker.sock"))]
    async with running(place.launch) as kernel:
        found = await told(kernel, f"[p for p in {[str(p) for p in unseen]!r} if __import__('os').path.exists(p)]")
        assert found == []
        assert str(place.home.path.parent) != str(user)
        listed = await told(kernel, f"__import__('os').listdir({str(user)!r})")
        assert listed in FAILED or set(listed) <= {".pyenv", ".local"}
        written = [*unseen[:4], Path(sys.base_prefix, "x"), generation.python, *map(Path, ("/usr/x", "/dev/x", "/x"))]
        for path in written[1:3] + written[4:]:  # in `/tmp`, where test homes are, is its own
            assert await told(kernel, f"open({str(path)!r}, 'a')") in FAILED, path
        interfaces = await told(kernel, "sorted(name for _, name in __import__('socket').if_nameindex())")
    assert interfaces == (["lo"] if hardened(place) else sorted(name for _, name in socket.if_nameindex()))


@capability("paths of `AIGBB_MOUNTS`")
async def test_what_is_mounted_is_there_but_for_what_is_the_services_own(place: Place) -> None:
    data, out = place.shown / "data", place.shown / "out"
    async with running(place.launch) as kernel:
        assert await told(kernel, READS.format(str(data / "rows"))) == "rows"
        assert await told(kernel, f"open({str(data / 'new')!r}, 'w')") in FAILED
        assert await told(kernel, f"open({str(out / 'new')!r}, 'w').write('x')") == 1
        assert await told(kernel, f"__import__('os').listdir({str(data / 'private')!r})") == []
        assert await told(kernel, READS.format(str(data / ".env"))) in ("", *FAILED)
    assert (out / "new").read_text() == "x"


FILLS = """
import os
for folder in ("/tmp", "/dev/shm"):
    assert not [name for name in os.listdir(folder) if "canary" in name]
    try:
        for number in range(100):
            with open(f"{folder}/canary{number}", "wb") as file:
                file.write(bytes(2**20))
    except OSError as error:
        print(error.errno, 32 <= number <= 64)
"""


@capability("`/tmp` and `/dev/shm`")
async def test_its_memory_files_are_few_private_and_gone_with_it(place: Place) -> None:
    for _ in range(2):
        async with running(place.launch) as kernel:
            [said] = (await run(kernel, FILLS)).outputs
            assert said.text.split() == ["28", "True"] * 2  # type: ignore[union-attr]
    assert not [path for path in ("/dev/shm/canary0", "/tmp/canary0") if Path(path).exists()]


@capability("privileges")
@capability("system calls for mounts, namespaces, tracing, keys, modules")
async def test_it_has_no_privileges(place: Place) -> None:
    async with running(place.launch) as kernel:
        status = await told(kernel, "open('/proc/self/status').read()")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["NoNewPrivs"] == "1"
        assert {int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
        for call in ("mount(b'none', b'/mnt', b'tmpfs', 0, None)", "unshare(0x10000000)", "umount2(b'/tmp', 2)"):
            assert await told(kernel, f"__import__('ctypes').CDLL(None).{call}") == -1
        if hardened(place):
            assert fields["Seccomp"] == "2"
            to_the_host = "__import__('socket').socket(40, 1)"
            assert await told(kernel, to_the_host) == "PermissionError"
            netlink = "int(__import__('socket').socket(16, 3).family)"  # which zmq needs
            assert await told(kernel, netlink) == 16


@capability("core files; file size; open files")
async def test_its_limits_hold(place: Place) -> None:
    async with running(place.launch) as kernel:
        assert await told(kernel, "__import__('resource').getrlimit(4)") == (0, 0)
        assert await told(kernel, f"open('big', 'wb').truncate({65 * MIB})") == "OSError"
        assert await told(kernel, "__import__('resource').getrlimit(7)") == (BOUNDS.files, BOUNDS.files)
        assert await told(kernel, f"[open('/dev/null') for n in range({BOUNDS.files})]") == "OSError"
        assert await told(kernel, "(1).real") == 1


def group_of(place: Place) -> Iterator[Mapping[str, Path]]:
    """The folders of groups that are there, by controller."""
    assert place.confinement.cgroups is not None
    folders = place.confinement.cgroups.folders
    for group in folders["memory"].glob("*/"):
        yield {controller: folder / group.name for controller, folder in folders.items()}


def charged(place: Place) -> int:
    """Bytes of memory that kernels are charged with."""
    names = ("memory.usage_in_bytes", "memory.current")
    paths = [folders["memory"] / name for folders in group_of(place) for name in names]
    return sum(int(path.read_text()) for path in paths if path.exists())


@capability("`/tmp` and `/dev/shm`")
@capability("memory")
@capability("processors")
async def test_what_is_in_its_shared_memory_is_charged_to_its_group(place: Place) -> None:
    if not hardened(place):
        assert place.confinement.cgroups is None
        return
    if not PARTS["cgroup"].ok:
        pytest.skip(f"NOT TESTED: cgroup: {PARTS['cgroup'].detail}")
    async with running(place.launch) as kernel:
        for folder in ("/tmp", "/dev/shm"):
            before = charged(place)
            assert await told(kernel, f"open('{folder}/filled', 'wb').write(bytes({32 * MIB}))") == 32 * MIB
            assert charged(place) - before > 24 * MIB
        shares = [(found["cpu"] / name) for found in group_of(place) for name in ("cpu.cfs_quota_us", "cpu.max")]
        assert {path.read_text().split()[0] for path in shares if path.exists()} == {"150000"}


@capability("graphics cards")
async def test_no_device_of_the_machine_is_to_be_seen_in_the_hardened_profile(place: Place) -> None:
    if not hardened(place):
        return
    harmless = {"console", "core", "fd", "full", "null", "ptmx", "pts", "random", "shm", "tty", "urandom", "zero"}
    async with running(place.launch) as kernel:
        listed = await told(kernel, "__import__('os').listdir('/dev')")
        assert listed == "PermissionError" or set(listed) - harmless <= {"stdin", "stdout", "stderr"}


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


LISTENS = """
import os, socket, ctypes
open("mine", "w").write("x"); open("/tmp/mine", "w").write("x"); open("/dev/shm/mine", "w").write("x")
held = [socket.socket(socket.AF_UNIX) for _ in range(2)] + [socket.socket()]
held[0].bind("\\0canary"); held[1].bind("/tmp/socket"); held[2].bind(("127.0.0.1", 0))
for one in held: one.listen()
memory = ctypes.CDLL(None).shmget(4321, 4096, 0o1666)
queue = ctypes.CDLL("librt.so.1").mq_open(b"/canary", os.O_CREAT | os.O_RDWR, 0o666, None)
print(os.getpid(), held[2].getsockname()[1], memory >= 0, queue >= 0)
"""


@capability("sockets of other kernels")
@capability("processes of other kernels")
async def test_two_kernels_do_not_reach_each_other(place: Place) -> None:
    async with running(place.launch) as one, running(place.launch) as other:
        [said] = (await run(other, LISTENS)).outputs
        pid, port, *made = ast.literal_eval(said.text.replace(" ", ","))  # type: ignore[union-attr]
        assert all(made) or hardened(place)  # where some of these calls are refused
        forked = SOCKET in place.launch.env
        if forked:
            assert await told(one, f"__import__('os').kill({pid}, 0)") == "PermissionError"
            for file in ("environ", "mem", "maps"):
                assert await told(one, f"open('/proc/{pid}/{file}', 'rb').read(1)") == "PermissionError"
            for link in ("cwd", "root", "fd/1", "ns/mnt"):
                assert await told(one, f"__import__('os').readlink('/proc/{pid}/{link}')") in FAILED
            attach = f"__import__('ctypes').CDLL(None).ptrace(16, {pid}, 0, 0)"
            assert await told(one, attach) == -1
        for path in (other.workdir / "mine", Path("/tmp/mine"), Path("/dev/shm/mine")):
            assert await told(one, READS.format(str(path))) in FAILED
        for folder in (one.workdir.parent, place.launch.runtime / "k"):
            listed = await told(one, f"__import__('os').listdir({str(folder)!r})")
            assert listed == "PermissionError" or listed == [one.workdir.name]
        for beside in ("../" + other.workdir.name, f"/proc/self/cwd/../{other.workdir.name}"):
            assert await told(one, f"__import__('os').listdir({beside!r})") in FAILED
        there = f"__import__('os').path.exists('/proc/self/fd/%d/../../work/{other.workdir.name}' % n)"
        assert await told(one, f"[n for n in range(64) if {there}]") == []
        connects = "__import__('socket').socket({}).connect({!r})"
        theirs = str(place.launch.runtime / "k" / other.workdir.name / "kernel.json-ipc-2")
        for address in ("\0canary", "/tmp/socket", theirs):
            assert await told(one, connects.format(1, address)) in FAILED
        if hardened(place):
            assert await told(one, connects.format(2, ("127.0.0.1", port))) == "ConnectionRefusedError"
            names = await told(one, READS.format("/proc/net/unix"))
            assert other.workdir.name not in names
            assert "canary" not in names
        assert await told(one, "__import__('ctypes').CDLL(None).shmget(4321, 4096, 0)") == -1
        assert await told(one, "__import__('ctypes').CDLL('librt.so.1').mq_open(b'/canary', 0)") == -1
        assert await told(one, "str(__import__('multiprocessing').Lock())") == "<Lock(owner=None)>"
        loop = "(lambda s, c: (s.bind(('127.0.0.1', 0)), s.listen(), c.connect(s.getsockname()), 'reached')[3])"
        assert await told(one, f"{loop}(__import__('socket').socket(), __import__('socket').socket())") == "reached"
        assert await told(other, READS.format("mine")) == "x"


@capability("memory")
@capability("processes and threads")
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
        asyncio.run(machine.confine("required", BOUNDS, Exposure()))
    assert caught.value.extra["missing"] == ["bubblewrap", "landlock"]
    assert "apt-get install bubblewrap" in caught.value.hint
    found = asyncio.run(machine.confine("auto", BOUNDS, Exposure()))
    assert (found.state()["profile"], found.state()["bubblewrap"]) == ("default", "not installed")


def test_bubblewrap_that_may_not_run_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(machine, "_bubblewrap", lambda: program)
    found = asyncio.run(machine.confine("auto", BOUNDS, Exposure()))
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


@capability("network")
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


HOLDS = """
import os, socket, sys, time
for folder in (".", "/tmp", "/dev/shm"):
    open(f"{folder}/theirs", "w").write("canary")
held = [socket.socket(socket.AF_UNIX), socket.socket()]
held[0].bind("\\0theirs"); held[1].bind(("127.0.0.1", 0))
for one in held: one.listen()
print(os.getpid(), held[1].getsockname()[1], os.getcwd())
"""
# Speaks to itself for as long as the other one looks for a way to hear it.
SPEAKS = """
import time
for _ in range(3000):
    print("canary", flush=True)
    time.sleep(0.01)
"""
RAIDS = """
import os, signal, socket
pid, port, folder = {held!r}
reached = []
def tries(what, act):
    try:
        act()
        reached.append(what)
    except OSError:
        pass
def connects(family, address):
    with socket.socket(family) as one:
        one.settimeout(5)
        one.connect(address)
for other in {{pid, *(int(name) for name in os.listdir("/proc") if name.isdecimal())}} - {{os.getpid()}}:
    for number in (0, signal.SIGINT, signal.SIGKILL):
        tries(("signal", other), lambda: os.kill(other, number))
    for name in ("mem", "environ", "maps"):
        tries((name, other), lambda: open(f"/proc/{{other}}/{{name}}", "rb").read(1))
    for name in ("cwd", "root", "exe", "ns/net"):
        tries((name, other), lambda: os.stat(f"/proc/{{other}}/{{name}}"))
for path in (folder + "/theirs", "/tmp/theirs", "/dev/shm/theirs"):
    tries(path, lambda: open(path).read())
seen = []
for line in open("/proc/net/unix").readlines()[1:]:
    seen += [name.replace("@", chr(0), 1) for name in line.split()[7:] if name not in seen]
for address in {{"\\0theirs", *seen}}:
    tries(("socket", address), lambda: connects(socket.AF_UNIX, address))
for door in (port, {door!r}):
    tries(("port", door), lambda: connects(socket.AF_INET, ("127.0.0.1", door)))
print(sorted(map(str, reached)))
"""


@capability("sockets of other kernels")
@capability("processes of other kernels")
@pytest.mark.parametrize("sandbox", ["auto", "required"])
def test_the_kernels_of_two_keys_do_not_reach_each_other(tmp_path: Path, cache: Path, sandbox: str) -> None:
    for part in PARTS.values() if sandbox == "required" else [PARTS["bubblewrap"], PARTS["landlock"]]:
        if not part.ok and not part.optional:
            pytest.skip(f"NOT TESTED: {part.name}: {part.detail}. {part.fix}")
    with running_server(tmp_path, cache, sandbox=sandbox, pool_size=2) as server, ExitStack() as opened:
        admin = opened.enter_context(server.client())
        wait_until(lambda: admin.get("/healthz").json()["fork"] == "ready")
        bodies = [{"name": name, "scopes": ["execute:code"]} for name in ("one", "other")]
        tokens = [admin.post("/keys", json=body).json()["key"] for body in bodies]
        one, other = (opened.enter_context(server.client(token)) for token in tokens)
        session = other.post("/sessions", json={}).json()["id"]
        pid, port, folder = printed(other, HOLDS, session).split()
        spoken = other.post(
            "/execute", json={"code": SPEAKS, "session": session}, headers={"Prefer": "respond-async"}
        ).json()["id"]
        door = int(server.url.rpartition(":")[2])
        raids = RAIDS.format(held=(int(pid), int(port), folder), door=door)
        ports = set() if sandbox == "required" else {f"('port', {port})", f"('port', {door})"}
        for mine in (None, one.post("/sessions", json={}).json()["id"]):
            assert set(ast.literal_eval(printed(one, raids, mine))) == ports
        # Nor by the API.
        assert one.get(f"/executions/{spoken}").status_code == 404
        assert one.post(f"/sessions/{session}/interrupt").status_code == 404
        assert one.post("/execute", json={"code": "1", "session": session}).status_code == 404
        assert other.get(f"/executions/{spoken}").json()["status"] == "running"
        assert other.post(f"/executions/{spoken}/cancel").is_success
        assert printed(other, "print(open('theirs').read())", session) == "canary\n"


def printed(client: httpx2.Client, code: str, session: str | None) -> str:
    """What code prints, in a session or on a kernel of its own."""
    answer = client.post("/execute", json={"code": code, **({"session": session} if session else {})}).json()
    [output] = answer["outputs"]
    text: str = output["text"]
    return text


APPENDS = """
import os
opened = []
for path in {paths!r}:
    try:
        with open(path, "a"):
            opened.append(path)
    except OSError:
        pass
try:
    listed = os.listdir({user!r})
except OSError:
    listed = []
[opened, [name for name in listed if name not in (".pyenv", ".local")]]
"""


@capability("checkout, `.venv`, uv, functions folder, kernelspecs folder, cache")
@pytest.mark.skipif(not PARTS["bubblewrap"].ok, reason=f"NOT TESTED: bubblewrap: {PARTS['bubblewrap'].detail}")
@pytest.mark.parametrize("fork", [True, False])
def test_code_of_a_caller_opens_nothing_of_the_service_whatever_kernel_it_gets(
    fork: bool, tmp_path_factory: pytest.TempPathFactory, cache: Path, shown: Path
) -> None:
    folder = tmp_path_factory.mktemp("attacked")
    with (
        running_server(folder, cache, fork=fork, pool_size=1, mounts=f"{shown}:rw") as server,
        server.client() as client,
    ):
        if fork:
            wait_until(lambda: client.get("/healthz").json()["fork"] == "ready")
        folders = (server.home, server.functions, folder / "jupyter/kernels", cache, Path(sys.base_prefix))
        files = [ROOT / "server/reading.py", ROOT / ".venv/pyvenv.cfg", Path(find_uv_bin()), server.home / "token"]
        specs = sorted((folder / "jupyter/kernels").glob("*/kernel.json"))
        assert specs
        paths = [str(path) for path in (*files, *specs, *(here / "canary" for here in folders))]
        code = APPENDS.format(paths=paths, user=str(Path.home()))
        bodies: list[dict[str, Any]] = [{"code": code}]
        for wanted in ({}, {"pinned": True}):
            session = client.post("/sessions", json=wanted).json()["id"]
            bodies += [{"code": code, "session": session}]
        for body in bodies:
            answer = client.post("/execute", json=body).json()
            found, listed = ast.literal_eval(answer["result"])
            assert listed == []
            # In `/tmp`, where the homes of tests are, a kernel has files of its own.
            assert not [path for path in found if not path.startswith("/tmp/")]
        assert len(server.token) > 20
        assert not [here for here in folders if (here / "canary").exists()]
        assert all(json.loads(path.read_text()) for path in specs)
        client.post("/execute", json={"code": f"open({str(shown / 'result')!r}, 'w').write('mine')"})
        assert (shown / "result").read_text() == "mine"


LOOKS = """
import os, socket
print([path for path in {paths!r} if os.path.exists(path)], [name for _, name in socket.if_nameindex()])
"""


def test_sources_are_read_by_a_process_that_sees_python_and_itself(tmp_path: Path) -> None:
    if not PARTS["bubblewrap"].ok:
        pytest.skip(f"NOT TESTED: bubblewrap: {PARTS['bubblewrap'].detail}")
    exposure, python = Exposure(mounts=(Mount(tmp_path),), hidden=(ROOT,)), Path(sys.executable).resolve()
    confinement = asyncio.run(machine.confine("auto", BOUNDS, exposure))
    paths = [str(path) for path in (ROOT / "server/api.py", ROOT / ".venv/bin", tmp_path, Path.home() / ".bashrc")]

    async def ask() -> tuple[sandbox.Finished, sandbox.Finished]:
        reader = await start_reader(confinement)
        argv: list[str | Path] = [python, "-I", "-S", "-c", LOOKS.format(paths=paths)]
        looked = await sandbox.run(argv, env={}, timeout=60, cage=reader.cage)
        return looked, await reader.finish(b'["def f(): pass"]', 60)

    looked, read = asyncio.run(ask())
    assert looked.stdout.decode().strip() == "[] ['lo']", looked.stderr
    assert b'"name": "f"' in read.stdout, read.stderr
