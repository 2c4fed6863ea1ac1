"""A package index on loopback, with packages made for the test: small, and known to the last byte."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from kernels.packages import Uv

PROGRAM = "import sys\n\n\ndef main():\n    print('ran', sys.prefix)\n"


@dataclass(frozen=True)
class Index:
    """A folder laid out as a simple repository (PEP 503), served at `url`."""

    folder: Path
    url: str

    def add_wheel(
        self,
        name: str,
        version: str,
        *,
        requires: Sequence[str] = (),
        python: str = "",
        tag: str = "py3-none-any",
        files: Mapping[str, str] | None = None,
        script: str = "",
    ) -> None:
        """A wheel with one module of the package's name, `requires` as its dependencies."""
        info = f"{name}-{version}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        metadata += f"Requires-Python: {python}\n" if python else ""
        contents = {
            f"{name}/__init__.py": f"version = {version!r}\n{PROGRAM}",
            **(files or {}),
            f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {line}\n" for line in requires),
            f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
        }
        if script:
            contents[f"{info}/entry_points.txt"] = f"[console_scripts]\n{script} = {name}:main\n"
        contents[f"{info}/RECORD"] = _record(contents, info)
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            for path, text in contents.items():
                archive.writestr(zipfile.ZipInfo(path, (2024, 1, 1, 0, 0, 0)), text)
        self._put(name, f"{name}-{version}-{tag}.whl", data.getvalue(), python)

    def add_source(self, name: str, version: str, touches: Path) -> None:
        """A source distribution whose build code, if it ran, would make the file `touches`."""
        setup = f"import pathlib\npathlib.Path({str(touches)!r}).touch()\nfrom setuptools import setup\nsetup()\n"
        metadata = f"Metadata-Version: 1.0\nName: {name}\nVersion: {version}\n"
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w:gz") as archive:
            for path, text in {"setup.py": setup, "PKG-INFO": metadata}.items():
                member = tarfile.TarInfo(f"{name}-{version}/{path}")
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
        self._put(name, f"{name}-{version}.tar.gz", data.getvalue(), "")

    def _put(self, name: str, filename: str, data: bytes, python: str) -> None:
        folder = self.folder / "simple" / name.replace("_", "-")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / filename).write_bytes(data)
        needs = f' data-requires-python="{python.replace(">", "&gt;")}"' if python else ""
        digest = hashlib.sha256(data).hexdigest()
        with (folder / "index.html").open("a") as page:
            page.write(f'<a href="{filename}#sha256={digest}"{needs}>{filename}</a><br>\n')

    def uv(self, python: Path, cache: Path, **more: str) -> Uv:
        """uv that knows this index alone, with a cache of its own."""
        env = {"PATH": os.defpath, "HOME": str(cache), "UV_DEFAULT_INDEX": f"{self.url}/simple"}
        return Uv(python, cache, {**env, "UV_HTTP_RETRIES": "0", **more}, build_timeout=60)


def _record(contents: Mapping[str, str], info: str) -> str:
    rows = []
    for path, text in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text.encode())}\n")
    return "".join(rows) + f"{info}/RECORD,,\n"


class Server(ThreadingHTTPServer):
    # The installer asks for fifty packages at once; those that find no place wait for a second.
    request_queue_size = 100


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serve_index(folder: Path) -> Iterator[Index]:
    """Serve an index from `folder`."""
    (folder / "simple").mkdir(parents=True)
    server = Server(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Index(folder, f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
