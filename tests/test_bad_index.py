"""An index that is down, slow or lying: an error that says so, in time, and nothing is installed or left behind."""

from __future__ import annotations

import base64
import hashlib
import io
import socket
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kernels.environments import Environments
from kernels.errors import AigbbError
from kernels.home import Home
from kernels.packages import Uv
from kernels.progress import silent

pytestmark = pytest.mark.anyio

WHEEL = "liar-1.0-py3-none-any.whl"


def wheel(name: str = "liar", version: str = "1.0", more: dict[str, str] | None = None) -> bytes:
    """A wheel, with what its metadata says, and more members."""
    info = "liar-1.0.dist-info"
    contents = {
        "liar.py": "x = 1\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        **(more or {}),
    }
    rows = [f"{path},sha256={_digest(text)},{len(text)}\n" for path, text in contents.items()]
    contents[f"{info}/RECORD"] = "".join(rows) + f"{info}/RECORD,,\n"
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for path, text in contents.items():
            archive.writestr(path, text)
    return data.getvalue()


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


class Handler(BaseHTTPRequestHandler):
    """Answers as the server's `page` and `file` say."""

    server: Liar

    def do_GET(self) -> None:
        """The page of a package, or a file."""
        is_file = self.path.endswith(".whl")
        (self.server.file if is_file else self.server.page)(self)

    def do_HEAD(self) -> None:
        """Nobody has to be able to."""
        self.send_error(405)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def say(self, data: bytes, kind: str = "text/html", status: int = 200) -> None:
        """A whole answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


Answer = Callable[[Handler], None]


class Liar(ThreadingHTTPServer):
    """An index on loopback. over: set when it ends, so that whoever answers for ever stops."""

    daemon_threads = True
    request_queue_size = 100
    page: Answer
    file: Answer
    over: threading.Event


def offering(data: bytes, digest: str = "") -> Answer:
    """The page of a package with one wheel; by default with its true hash."""
    digest = digest or hashlib.sha256(data).hexdigest()
    return lambda handler: handler.say(f'<a href="/{WHEEL}#sha256={digest}">{WHEEL}</a>'.encode())


def giving(data: bytes) -> Answer:
    """A file."""
    return lambda handler: handler.say(data, "application/octet-stream")


def never(handler: Handler) -> None:
    """No answer."""
    handler.server.over.wait()


def without_end(handler: Handler) -> None:
    """An answer that goes on."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.end_headers()
    while not handler.server.over.wait(0.01):
        try:
            handler.wfile.write(b"<!-- -->" * 1000)
        except OSError:
            return


def round_and_round(handler: Handler) -> None:
    """A redirect to itself."""
    handler.send_response(302)
    handler.send_header("Location", handler.path)
    handler.end_headers()


def broken(handler: Handler) -> None:
    """The index's own fault."""
    handler.say(b"oops", status=500)


def no_file(handler: Handler) -> None:
    """The page has named it all the same."""
    handler.say(b"gone", status=404)


def changed(member: str, text: str | None) -> bytes:
    """A wheel with another member of this name, or without it."""
    data = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(wheel())) as whole, zipfile.ZipFile(data, "w") as archive:
        for each in whole.namelist():
            if not each.endswith(member):
                archive.writestr(each, whole.read(each))
            elif text is not None:
                archive.writestr(each, text)
    return data.getvalue()


BAD_MEMBERS = {
    "no RECORD": changed("/RECORD", None),
    "no METADATA": changed("/METADATA", None),
    "no WHEEL": changed("/WHEEL", None),
    "bad METADATA": changed("/METADATA", "garbage"),
    "bad dependency": changed("/METADATA", "Metadata-Version: 2.1\nName: liar\nVersion: 1.0\nRequires-Dist: !!!\n"),
    "bad WHEEL": changed("/WHEEL", "garbage"),
    "empty": b"",
}
GOOD, CUT, NOISE = wheel(), wheel()[:300], b"no zip" * 100
OTHER_NAME, OTHER_VERSION = wheel(name="truth"), wheel(version="2.0")
ESCAPING = wheel(more={"../../../../../evil.py": "x = 1\n"})
ABSOLUTE = wheel(more={"/tmp/aigbb-evil.py": "x = 1\n"})

# The page, the file, and the codes of which one is the answer.
FAULTS: dict[str, tuple[Answer, Answer, set[str]]] = {
    "slow": (never, never, {"index_unavailable"}),
    "slow file": (offering(GOOD), never, {"index_unavailable", "build_failed"}),
    "500": (broken, broken, {"index_unavailable"}),
    "500 for the file": (offering(GOOD), broken, {"index_unavailable"}),
    "404 for the file": (offering(GOOD), no_file, {"index_unavailable", "build_failed"}),
    "redirects": (round_and_round, round_and_round, {"index_unavailable"}),
    "redirects of the file": (
        offering(GOOD),
        round_and_round,
        {"index_unavailable", "build_failed", "invalid_package"},
    ),
    "endless page": (without_end, never, {"index_unavailable"}),
    "endless file": (offering(GOOD), without_end, {"index_unavailable", "build_failed", "invalid_package"}),
    "garbage": (
        lambda h: h.say(b"<html><p>Welcome to the hotel's wifi"),
        never,
        {"version_not_found", "package_not_found"},
    ),
    "binary garbage": (lambda h: h.say(bytes(range(256)), "image/png"), never, {"index_unavailable"}),
    "another hash": (offering(GOOD, "0" * 64), giving(GOOD), {"invalid_package"}),
    "another file": (offering(GOOD), giving(wheel(more={"evil.py": ""})), {"invalid_package"}),
    "cut off": (offering(CUT), giving(CUT), {"invalid_package"}),
    "no zip": (offering(NOISE), giving(NOISE), {"invalid_package"}),
    "another name": (offering(OTHER_NAME), giving(OTHER_NAME), {"invalid_package"}),
    "another version": (offering(OTHER_VERSION), giving(OTHER_VERSION), {"invalid_package"}),
    **{name: (offering(data), giving(data), {"invalid_package"}) for name, data in BAD_MEMBERS.items()},
}


# These take until the installer's patience ends.
SLOW = ("slow", "slow file", "endless page")


@contextmanager
def lying(page: Answer, file: Answer) -> Iterator[str]:
    """Serve it. Gives its address."""
    server = Liar(("127.0.0.1", 0), Handler)
    server.page, server.file, server.over = page, file, threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def uv_for(url: str, cache: Path) -> Uv:
    """An installer that knows this index alone, and is patient for 5 s."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(cache), "UV_DEFAULT_INDEX": f"{url}/simple", "UV_HTTP_RETRIES": "0"}
    return Uv(Path(sys.executable), cache, env, build_timeout=5)


async def install(uv: Uv, home: Home) -> None:
    """All that a registration asks of an index."""
    lock = (await uv.resolve({"liar": ["f"]}, None, silent)).lock
    await Environments(home, uv).build(1, lock, None, silent)


@pytest.mark.parametrize(
    ("page", "file", "codes"),
    [pytest.param(*fault, id=name, marks=[pytest.mark.nightly] * (name in SLOW)) for name, fault in FAULTS.items()],
)
async def test_what_an_index_does_wrong_is_told_and_changes_nothing(
    page: Answer, file: Answer, codes: set[str], home: Home, tmp_path: Path
) -> None:
    own = replace(home, path=tmp_path / "home", cache=tmp_path / "cache")
    for folder in (own.path, own.generations, own.cache):
        folder.mkdir()
    with lying(page, file) as url, pytest.raises(AigbbError) as refused:
        await install(uv_for(url, own.cache), own)
    assert refused.value.code in codes, refused.value.extra
    assert refused.value.hint
    if codes == {"invalid_package"}:
        assert refused.value.status == 422
        assert refused.value.extra["package"].startswith("liar")
    assert list(own.generations.iterdir()) == []
    assert not list(tmp_path.rglob("*evil*")) and not Path("/tmp/aigbb-evil.py").exists()


async def test_an_index_that_is_down_is_told_of_at_once(home: Home, tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(AigbbError) as refused:
            await install(uv_for(url, tmp_path), home)
    assert refused.value.code == "index_unavailable"


async def test_the_same_index_without_a_lie_is_good(home: Home, tmp_path: Path) -> None:
    own = replace(home, path=tmp_path / "home", cache=tmp_path / "cache")
    for folder in (own.path, own.generations, own.cache):
        folder.mkdir()
    with lying(offering(GOOD), giving(GOOD)) as url:
        await install(uv_for(url, own.cache), own)
    assert [path.name for path in own.generations.iterdir()] == ["1"]
