"""Call a function by name with JSON: its types are the contract, and a wrong call says how to mend it.

Needs a running service. From the checkout: .venv/bin/python examples/typed_calls.py
"""

import json

from server.client import Client, ServiceProblem
from server.settings import Settings

SOURCE = '''
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, Literal

from pydantic import Field

@dataclass
class Stay:
    room: str
    leaves: date

def example_book(room: Literal["single", "double"], arrives: date, nights: Annotated[int, Field(ge=1)] = 1) -> Stay:
    """Book a room.

    Args:
        room: Which kind of room.
        arrives: The first night.
        nights: How many nights.
    """
    return Stay(room, arrives + timedelta(days=nights))
'''

service = Client.find(Settings(), None)

# What a caller has to send was found in the signature and the docstring.
registered = service.request("POST", "/register", {"source": SOURCE})
print("registered", registered["signature"])
for name, schema in registered["parameters"]["properties"].items():
    print(f"  {name}: {json.dumps(schema, sort_keys=True)}")

# JSON comes in, and is what the types say inside: a date is a date, "3" is 3. The answer is JSON again.
call = "/functions/example_book/call"
answer = service.request("POST", call, {"room": "single", "arrives": "2030-05-01", "nights": "3"})
print("result:", answer["result"])

# A wrong call does not run. Each parameter has its own entry; what a program can mend is in `fix`.
arguments = {"rom": "double", "arrives": "2030-05-01", "nights": 0}
try:
    service.request("POST", call, arguments)
except ServiceProblem as problem:
    for error in problem.body["errors"]:
        print(f"wrong: {error['parameter']}: {error['message']}")
    renamed = problem.body["fix"]["rename"]
    print("rename:", renamed)
    arguments = {renamed.get(name, name): value for name, value in arguments.items()} | {"nights": 2}
    print("result:", service.request("POST", call, arguments)["result"])

service.request("DELETE", "/functions/example_book")
