"""stdout and stderr of the kernels that a service owns."""

from ipykernel.iostream import OutStream


class Stream(OutStream):
    """ipykernel's own, but an empty one is flushed at once.

    ipykernel flushes both around everything that it does, and each time waits for the thread that sends: a third of
    a small request's time. What is empty has been handed to that thread, which keeps the order.
    """

    def flush(self) -> None:
        """Send what was written, if anything was."""
        if self._buffers:
            super().flush()  # type: ignore[no-untyped-call]
