"""Answer from texts of your own: a function finds paragraphs in a folder, and the answer comes with its sources.

Needs a running service that has a model, and that shows the folder to kernels:

    cp -r examples/notes ~/notes
    AIGBB_MOUNTS=~/notes make serve
    .venv/bin/python examples/retrieval.py ~/notes
"""

import json
import sys
from pathlib import Path

from server.client import Aigbb

SOURCE = '''
import re
from pathlib import Path

def search_notes(query: str, folder: str, limit: int = 3) -> list[dict[str, str]]:
    """Find paragraphs of the handbook that have most of some words.

    Args:
        query: The words to look for.
        limit: How many paragraphs, at most.
    """
    words = set(re.findall(r"\\w+", query.lower()))
    found = []
    for path in sorted(Path(folder).glob("*.txt")):
        for paragraph in path.read_text().split("\\n\\n"):
            common = words & set(re.findall(r"\\w+", paragraph.lower()))
            found.append((len(common), {"source": path.name, "text": " ".join(paragraph.split())}))
    best = sorted(found, key=lambda pair: -pair[0])[:limit]
    return [paragraph for score, paragraph in best if score]
'''
FOLDER = Path(sys.argv[1])
RULES = "Answer from what search_notes finds, and from nothing else. Name the files that you used."

with Aigbb() as aigbb:
    # `folder` is bound: where the texts are is said with the request, and the model neither sees nor chooses it.
    aigbb.register(SOURCE, effects="read", bound=["folder"], tags=["example-notes"])
    messages = [
        {"role": "system", "content": RULES},
        {"role": "user", "content": "How many days of holiday do I have, and who agrees to them?"},
    ]
    done = aigbb.chat(messages, tags=["example-notes"], bound={"folder": str(FOLDER)})

    for run in done.runs:
        print("searched", run.arguments)
        for paragraph in json.loads(run.content):
            print(f"  {paragraph['source']}: {paragraph['text']}")
    print(f"{done.status}: {done.text}")
    aigbb.delete("search_notes")
