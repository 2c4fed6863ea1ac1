"""Register a function with a package, then call it: what an agent does to give itself a tool.

Needs a running service and `pip install httpx2`. Run it from the checkout, or set AIGBB_TOKEN or AIGBB_HOME.
"""

import os
from pathlib import Path

import httpx2

SOURCE = '''
from slugify import slugify

def slug(title: str) -> str:
    """Turn a title into the last part of a web address."""
    return slugify(title)
'''


def token() -> str:
    """The token: from the environment, else the one that the service keeps in its home folder."""
    home = Path(os.environ.get("AIGBB_HOME") or Path(__file__).parents[1] / ".aigbb")
    return os.environ.get("AIGBB_TOKEN") or (home / "token").read_text().strip()


url = os.environ.get("AIGBB_URL", "http://127.0.0.1:8000")
with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {token()}"}, timeout=300) as client:
    answer = client.post("/register", json={"source": SOURCE, "packages": ["python-slugify"]})
    if answer.is_error:
        raise SystemExit(f"{answer.json()['detail']} {answer.json().get('hint', '')}")
    print("registered", answer.json()["signature"], "in", answer.json()["kernel"])
    execution = client.post("/execute", json={"code": "slug('Every function by its name')"}).json()
    print(execution["status"], execution["result"] or execution["error"])
