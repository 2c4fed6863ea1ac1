"""The OpenAPI document is taken at its word: schemathesis sends what it allows and what it forbids, by every operation.

All its checks hold: no 5xx; no status, content type or shape of an answer that the document lacks; what it forbids is
refused, what it allows is not; a key is asked for; `Allow` tells the truth. What is spared, tests/schemathesis.toml
says. Chat has a model that always says the same. The index is out of reach, so that nothing made up is looked for.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernels.environments import Generation
from tests.conftest import ROOT, Server, running_server
from tests.provider import Answer, Provider, says, serving


class Parrot(Provider):
    """Answers everything, and always the same."""

    def next(self, request: dict[str, Any], key: str) -> Answer:
        """What comes now."""
        return says("Hello.")


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory, cache: Path, generation: Generation) -> Iterator[Server]:
    """A service with the functions that ship, and with what the installer has seen in making `generation`."""
    folder = tmp_path_factory.mktemp("fuzz")
    with serving(Parrot) as parrot:
        more = {**parrot.environment, "UV_OFFLINE": "1"}
        settings = {"model": "parrot", "confirm": "never", "max_sessions": 100, "guess_rate": "-"}
        with running_server(folder, cache, more, shipped=True, **settings) as server:
            yield server


@pytest.mark.nightly
@pytest.mark.timeout(900)  # it is many small tests in one
def test_every_operation_keeps_its_word(fuzzed: Server) -> None:
    with fuzzed.client() as client:
        document = fuzzed.home / "openapi.json"
        document.write_bytes(client.get("/openapi.json").raise_for_status().content)
    argv = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(ROOT / "tests" / "schemathesis.toml"), "run"]
    argv += [str(document), "--url", fuzzed.url, "--no-color", "-H", f"Authorization: Bearer {fuzzed.token}"]
    done = subprocess.run(argv, cwd=fuzzed.home, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    assert fuzzed.process.poll() is None
    assert "request.bug" not in "".join(fuzzed.said)
