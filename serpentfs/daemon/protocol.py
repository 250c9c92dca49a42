"""The number of the control socket's protocol, for both ends (CONTROL.md has the protocol)."""

PROTOCOL = 1
"""In every line of both sides. Another one is refused: an answer that is misunderstood is worse than none. New
requests, and new fields that may be missing, do not change it."""
