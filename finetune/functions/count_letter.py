def count_letter(word: str, letter: str) -> int:
    """Count how often a letter is in a word.

    Args:
        word: The word.
        letter: The letter to look for.
    """
    return word.lower().count(letter.lower())
