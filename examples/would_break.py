"""Functions share one environment: a registration that would break another one, or that excludes it, is refused.

Needs a running service and the package index. From the checkout: .venv/bin/python examples/would_break.py
"""

from typing import Any

from server.client import Client, ServiceProblem
from server.settings import Settings

# `takewhile_inclusive` is new in more-itertools 10.
MODERN = '''
from more_itertools import takewhile_inclusive

def example_until(numbers: list[int], limit: int) -> list[int]:
    """Take numbers up to and including the first one over the limit."""
    return list(takewhile_inclusive(lambda number: number <= limit, numbers))
'''
OLD_FASHIONED = '''
from more_itertools import chunked

def example_chunks(numbers: list[int], size: int) -> list[list[int]]:
    """Cut a list into pieces."""
    return list(chunked(numbers, size))
'''

service = Client.find(Settings(), None)


def register(source: str, package: str) -> dict[str, Any]:
    """Register, and say what came of it."""
    try:
        done = service.request("POST", "/register", {"source": source, "packages": [package]})
    except ServiceProblem as problem:
        print(f"{package}: {problem.body['code']}. {problem.body['detail']}")
        return problem.body
    print(f"{package}: registered {done['name']}, added {done['package_changes']['added']}")
    return {}


# The first function takes whatever release there is, and is given the newest.
register(MODERN, "more-itertools")

# The second asks for an old release. That fits both lists, but the first function would not import any more.
refused = register(OLD_FASHIONED, "more-itertools<9")
for broken in refused["functions"]:
    print(f"  {broken['function']}: {broken['error']}")

# Once the first says what it needs, the two exclude each other, and the answer says who would have to give way.
register(MODERN, "more-itertools>=10")
refused = register(OLD_FASHIONED, "more-itertools<9")
for asked in refused["requirements"]:
    print(f"  {asked['requirement']} for {', '.join(asked['functions'])}")
print("  would have to give way:", refused["give_way"])

# Nothing changed by the refusals.
answer = service.request("POST", "/functions/example_until/call", {"numbers": [1, 5, 2, 9], "limit": 3})
print("still works:", answer["result"])
service.request("DELETE", "/functions/example_until")
