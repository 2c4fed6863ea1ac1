"""Register a function and let a model use it: one request, and the service runs what the model asks for.

Needs a running service that has a model: AIGBB_MODEL, and OPENAI_API_KEY or OPENAI_BASE_URL.
From the checkout: .venv/bin/python examples/chat.py
"""

from server.client import Client
from server.settings import Settings

SOURCE = '''
def example_forecast(city: str) -> dict[str, str | int]:
    """Say tomorrow's weather.

    Args:
        city: Where.
    """
    return {"city": city, "sky": "rain" if len(city) > 4 else "sun", "degrees": 12 + len(city)}
'''

service = Client.find(Settings(), None)
service.request("POST", "/register", {"source": SOURCE, "tags": ["example-weather"]})

question = {"role": "user", "content": "Where do I need an umbrella tomorrow, in Rome or in London?"}
done = service.request("POST", "/chat", {"messages": [question], "tags": ["example-weather"]})

# The whole conversation comes back: what the model asked for, and what it was told.
for message in done["messages"]:
    for call in message.get("tool_calls", ()):
        print("asks for", call["function"]["name"], call["function"]["arguments"])
    if message["role"] == "tool":
        print("is told ", message["content"])
print(f"{done['status']}: {done['content']}")

# State is a value: add a question, send the conversation back.
messages = [*done["messages"], {"role": "user", "content": "And what do I wear there?"}]
done = service.request("POST", "/chat", {"messages": messages, "tags": ["example-weather"]})
print(f"{done['status']}: {done['content']}")

service.request("DELETE", "/functions/example_forecast")
