"""Configuration of a Jupyter server: its kernels' websockets send at once, and nothing is dropped for coming fast."""

from __future__ import annotations

from typing import Any

from jupyter_server.services.kernels.websocket import KernelWebsocketHandler  # type: ignore[import-not-found]

as_shipped = KernelWebsocketHandler.open


async def open_without_delay(self: Any, kernel_id: str) -> None:
    """Without Nagle's algorithm, which waits for the client's delayed acknowledgement."""
    self.set_nodelay(True)
    await as_shipped(self, kernel_id)


KernelWebsocketHandler.open = open_without_delay
get_config().ZMQChannelsWebsocketConnection.limit_rate = False  # type: ignore[name-defined] # noqa: F821
