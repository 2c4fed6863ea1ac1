"""jupyter_kernel_client as its documentation shows it: `client.py URL TOKEN`, a line of code in, a line of JSON out."""

from __future__ import annotations

import json
import sys
import time

from jupyter_kernel_client import JupyterKernelClient  # type: ignore[import-not-found]


def main() -> None:
    """Execute each line of stdin on one kernel, and say what came and how many milliseconds it took."""
    _, url, token = sys.argv
    with JupyterKernelClient(server_url=url, token=token) as kernel:
        for line in sys.stdin:
            begin = time.perf_counter()
            reply = kernel.execute(json.loads(line), store_history=False)
            milliseconds = (time.perf_counter() - begin) * 1000
            answer = {"result": reply["outputs"][0]["data"]["text/plain"], "milliseconds": milliseconds}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
