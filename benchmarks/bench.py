"""What is measured, started when first asked for: our services, stock kernels, and the peers' environments."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from benchmarks import plain, service
from benchmarks.peers import Environments
from benchmarks.plain import Stock
from benchmarks.service import Service
from benchmarks.timing import spin

SERVICES = ("spare", "bare", "many", "chat", "hardened")
LIBRARIES = ("numpy", "pandas", "matplotlib")
IMPORTS = "import numpy, pandas, matplotlib.pyplot\n1+1"


@dataclass(frozen=True)
class Bench:
    """One run. quick: few samples, and no peer that has to be downloaded. spins: how steady the machine was."""

    folder: Path
    cache: Path
    stack: ExitStack
    quick: bool
    spins: list[float] = field(default_factory=list)

    def times(self, full: int, quick: int = 1) -> int:
        """How many samples."""
        return quick if self.quick else full

    def seconds(self, full: float) -> float:
        """How long a window of load is."""
        return 0.5 if self.quick else full

    # -- ours

    @cached_property
    def spare(self) -> Service:
        """A service exactly as `make serve` starts it."""
        return self._service("spare")

    @cached_property
    def bare(self) -> Service:
        """One that keeps no spare kernel: the only way to see what is paid when there is none."""
        return self._service("bare", pool_size=0)

    @cached_property
    def many(self) -> Service:
        """One more, for many functions; a quick run has no third one."""
        return self.bare if self.quick else self._service("many")

    @cached_property
    def hardened(self) -> Service:
        """One with the hardened profile."""
        return self._service("hardened", more={"AIGBB_SANDBOX": "required"})

    @contextmanager
    def with_model(self, url: str) -> Iterator[Service]:
        """One more that has a model at this address, for a while."""
        more = {"OPENAI_BASE_URL": url, "AIGBB_MODEL": "bench"}
        with service.running(self.folder / "chat", self.cache, more=more) as started:
            self.__dict__["chat"] = started
            try:
                yield started
            finally:
                del self.__dict__["chat"]

    def _service(self, name: str, pool_size: int | None = None, more: Mapping[str, str] | None = None) -> Service:
        return self.stack.enter_context(service.running(self.folder / name, self.cache, pool_size, more))

    def pause(self) -> None:
        """Until nothing of ours is under way; the machine's own noise is measured meanwhile."""
        service.settle([self.__dict__[name] for name in SERVICES if name in self.__dict__])
        self.spins.append(spin())

    # -- theirs

    @property
    def environments(self) -> Environments:
        """The peers'."""
        return Environments(self.cache)

    @property
    def libraries(self) -> tuple[str, ...]:
        """The libraries that our kernels have by default, at the versions that they have there."""
        packages = self.spare.generation()["packages"]
        return tuple(f"{name}=={packages[name]}" for name in LIBRARIES)

    def more(self, peer: str) -> tuple[str, ...]:
        """What a peer's environment has besides its pins: the plain one, our kernels' libraries."""
        return self.libraries if peer == "plain" else ()

    @cached_property
    def stock(self) -> Stock:
        """A stock kernel in an environment of its own; in a quick run in that of our kernels."""
        python = self.spare.python if self.quick else self.environments.python("plain", self.libraries)
        return Stock.write(self.folder, "stock", python)


@contextmanager
def opened(cache: Path, *, quick: bool) -> Iterator[Bench]:
    """A folder beside the cache: packages are linked from it, as in real use."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=cache.parent) as name, ExitStack() as stack:
        folder = Path(name)
        plain.isolate(folder)
        yield Bench(folder, cache, stack, quick)
