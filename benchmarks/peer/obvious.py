"""The obvious design: FastAPI in front of a few kernels, each with jupyter_client's AsyncKernelClient."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import start_new_async_kernel
from pydantic import BaseModel


class Code(BaseModel):
    """What a caller sends."""

    code: str


class Result(BaseModel):
    """What a caller gets."""

    result: str


@asynccontextmanager
async def kernels(app: FastAPI) -> AsyncIterator[None]:
    """As many as the variable KERNELS says; whoever is free takes the next request."""
    started = [await start_new_async_kernel() for _ in range(int(os.environ["KERNELS"]))]
    app.state.free = asyncio.LifoQueue()
    for _, client in started:
        app.state.free.put_nowait(client)
    yield
    for manager, client in started:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)


app = FastAPI(lifespan=kernels)


@app.post("/execute")
async def execute(body: Code) -> Result:
    """Run code on a kernel that is free."""
    client = await app.state.free.get()
    try:
        return Result(result=await run(client, body.code))
    finally:
        app.state.free.put_nowait(client)


async def run(client: AsyncKernelClient, code: str) -> str:
    """Execute, and wait for the reply and for idle. Returns the result's text."""
    asked, result = client.execute(code, store_history=False), ""
    while (await client.get_shell_msg(timeout=60))["parent_header"].get("msg_id") != asked:
        pass
    while True:
        message = await client.get_iopub_msg(timeout=60)
        kind, content = message["msg_type"], message["content"]
        if message["parent_header"].get("msg_id") != asked:
            continue
        if kind == "execute_result":
            result = content["data"]["text/plain"]
        if kind == "status" and content["execution_state"] == "idle":
            return result
