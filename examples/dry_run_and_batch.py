"""Try a registration out before it counts; then register two functions together, both or neither.

Needs a running service. From the checkout: .venv/bin/python examples/dry_run_and_batch.py
"""

import json

from server.client import Client, ServiceProblem
from server.settings import Settings

SIZE = '''
import humanize

def example_size(size: int, digits: int = 1) -> str:
    """Say a number of bytes as people do."""
    return humanize.naturalsize(size, format=f"%.{digits}f")
'''
TOTAL = '''
from aigbb_functions import example_size

def example_total(sizes: list[int]) -> str:
    """Add up numbers of bytes."""
    return f"{len(sizes)} files, {example_size(sum(sizes))}"
'''

service = Client.find(Settings(), None)


def registered() -> list[str]:
    """Which of the two are there."""
    return [one["name"] for one in service.pages("/functions") if one["name"] in ("example_size", "example_total")]


# A dry run resolves, builds and imports, and says what would become of it. Nothing of it stays.
tried = service.request("POST", "/register", {"source": SIZE, "packages": ["humanize"], "dry_run": True})
print("schema:", json.dumps(tried["parameters"]))
print("packages:", tried["package_changes"])
print("new environment:", tried["new_generation"])
print("registered after the dry run:", registered())

# All or nothing: the second function imports a name that is not there, so the first is not registered either.
wrong = {"source": TOTAL.replace("import example_size", "import example_sice")}
try:
    service.request("POST", "/register/batch", {"functions": [{"source": SIZE, "packages": ["humanize"]}, wrong]})
except ServiceProblem as problem:
    print("refused:", problem.body["code"], problem.body["detail"])
print("registered after the refusal:", registered())

# One resolve and one environment for both; they may use each other.
both = {"functions": [{"source": SIZE, "packages": ["humanize"]}, {"source": TOTAL}]}
done = service.request("POST", "/register/batch", both)["functions"]
print("registered together:", [one["name"] for one in done], "in", {one["kernel"] for one in done})
print("result:", service.request("POST", "/functions/example_total/call", {"sizes": [1_500_000, 700_000]})["result"])

for name in ("example_total", "example_size"):
    service.request("DELETE", f"/functions/{name}")
