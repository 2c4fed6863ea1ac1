"""Two cities in one question: a model asks for both at once, and the calls run side by side.

Needs a running service that has a model. From the checkout: .venv/bin/python examples/parallel.py
"""

from server.client import Aigbb, ChatResult

SOURCE = '''
import time

def example_weather(city: str) -> dict[str, str | int]:
    """Say what the weather is like now.

    Args:
        city: Where.
    """
    time.sleep(0.5)  # a slow service somewhere
    return {"city": city, "sky": "rain" if len(city) > 5 else "sun", "degrees": 12 + len(city)}
'''

with Aigbb() as aigbb:
    # `read` says that calls change nothing: they may run at the same time, each on a kernel of its own.
    aigbb.register(SOURCE, effects="read", tags=["example-parallel"])

    # The turn as it goes: both calls are there before the first result is.
    for event, data in aigbb.chat_events("What is the weather in Paris and in London?", tags=["example-parallel"]):
        match event:
            case "tool_call.ready":
                print("asks for", data["name"], data["arguments"])
            case "tool_result":
                print("is told ", data["content"])
            case "done":
                done = ChatResult.of(data)
    print(f"{done.status}: {done.text}")

    aigbb.delete("example_weather")
