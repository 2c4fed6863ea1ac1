"""Every change is a version: compare two, call an older one, roll back, delete, and undo that.

Needs a running service. From the checkout: .venv/bin/python examples/versions.py
"""

from server.client import Client
from server.settings import Settings

FIRST = '''
def example_greet(name: str) -> str:
    """Greet somebody."""
    return f"Hello, {name}!"
'''
SECOND = FIRST.replace("Hello", "Good evening")

service = Client.find(Settings(), None)


def greet(version: str = "") -> str:
    """What the function says: the active version, or the one after the @."""
    answer = service.request("POST", f"/functions/example_greet{version}/call", {"name": "Ada"})
    return f"version {answer['version']} says {answer['result']}"


# Whatever versions there were before, these are the two newest.
first = service.request("POST", "/register", {"source": FIRST})["version"]
second = service.request("POST", "/register", {"source": SECOND})["version"]
print(service.request("GET", f"/functions/example_greet/versions/{second}/diff")["diff"])
print("active:     ", greet())
print("pinned:     ", greet(f"@{first}"))

# Rolling back moves a pointer: no new version is made, and the newer one stays.
service.request("POST", "/functions/example_greet/activate", {"version": first})
print("rolled back:", greet())

# Deleting takes the function out of service. Its versions stay, so that it can be undone.
service.request("DELETE", "/functions/example_greet")
names = [one["name"] for one in service.pages("/functions")]
print("deleted:    ", "example_greet" not in names)
service.request("POST", "/functions/example_greet/activate", {"version": second})
print("undone:     ", greet())

service.request("DELETE", "/functions/example_greet")
for line in service.request("GET", "/history", name="example_greet", limit=6):
    print("history:    ", line["action"], f"{line['name']}@{line['version']}", line["outcome"])
