"""One kernel: what an execution answers, how it ends, and what hostile code can do to it."""

from __future__ import annotations

import pytest

from kernels.kernel import Kernel
from kernels.outputs import Execution, fold

pytestmark = pytest.mark.anyio


async def run(kernel: Kernel, code: str, *, timeout: float = 20.0, max_output: int = 1 << 20) -> Execution:
    """Execute and fold."""
    return await fold(kernel.execute(code, timeout=timeout, max_output=max_output))


async def test_output_and_result_come_back(kernel: Kernel) -> None:
    execution = await run(kernel, "print('hello')\n6 * 7")
    assert execution.text("stdout") == "hello\n"
    assert execution.result == "42"
    assert execution.done.status == "ok"
