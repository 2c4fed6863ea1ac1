"""What a call of a function may do, and whether a person is asked before a model's call runs."""

from __future__ import annotations

from typing import Literal

# Read only, or change things outside its kernel. Unknown counts as the latter.
Effects = Literal["read", "write", "unknown"]
# `policy` leaves it to the chat and the function's effects.
Confirm = Literal["never", "always", "policy"]
