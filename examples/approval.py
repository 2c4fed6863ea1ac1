"""A call that changes something waits for a person: look at it, approve or reject it, and the turn goes on.

Needs a running service that has a model. Asks in a terminal; elsewhere say --yes, or it is no.
From the checkout: .venv/bin/python examples/approval.py [--yes | --no]
"""

import json
import sys

from server.client import Aigbb

SOURCE = '''
def send_email(to: str, subject: str, body: str) -> str:
    """Send an email.

    Args:
        to: The address.
        subject: In a few words.
        body: The text.
    """
    return f"sent to {to}"  # here a real one would be sent
'''


def agrees() -> bool:
    """What the person says."""
    if sys.stdin.isatty() and not {"--yes", "--no"} & set(sys.argv):
        return input("Send it? [y/n] ").strip().lower() == "y"
    return "--yes" in sys.argv


with Aigbb() as aigbb:
    aigbb.register(SOURCE, effects="write", tags=["example-mail"])
    done = aigbb.chat("Tell ada@example.com by email that lunch is at one.", tags=["example-mail"])

    # It may be tried again in other words, so that more than one decision is wanted.
    while approval := done.approval:
        for call in approval.calls:
            print(f"{call.name}@{call.version} waits: {json.dumps(call.arguments)}")
        if agrees():
            done = aigbb.decide(approval, "approve")
        else:
            done = aigbb.decide(approval, "reject", reason="Do not send anything today.")

    for run in done.runs:
        print(f"{run.name}: {run.status}")
    print(f"{done.status}: {done.text}")
    aigbb.delete("send_email")
