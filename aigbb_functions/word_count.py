import re
from collections import Counter


def word_count(text: str, top: int = 10) -> dict[str, int]:
    """Count the words of a text, most frequent first.

    Args:
        text: The text; upper and lower case are the same.
        top: How many words to return.
    """
    words = re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", text.lower())
    return dict(Counter(words).most_common(top))
