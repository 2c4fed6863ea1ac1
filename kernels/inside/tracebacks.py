"""Tracebacks short enough to be shown: each frame takes milliseconds, and a recursion has thousands."""

# Frames that are kept of a longer one.
FIRST, LAST = 20, 30


def shorten(error: BaseException | None) -> None:
    """Leave out the middle of long tracebacks, also of what it was raised from."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        frames = []
        frame = error.__traceback__
        while frame is not None:
            frames.append(frame)
            frame = frame.tb_next
        if len(frames) > FIRST + LAST:
            frames[FIRST - 1].tb_next = frames[-LAST]
        error = error.__cause__ or error.__context__
