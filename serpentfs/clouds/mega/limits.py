"""When a request may go out: a token bucket for the rate, a circuit breaker for a host that does not answer.

Pure: the caller tells the time and does the waiting.
"""

from __future__ import annotations


class TokenBucket:
    """At most ``rate`` requests a second on average, ``burst`` at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = 0.0

    def take(self, now: float) -> float:
        """Take a token, be it one of the future. The answer: seconds to wait before it may be used."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        self._tokens -= 1.0
        return max(0.0, -self._tokens / self._rate)


class CircuitBreaker:
    """After ``failures`` in a row nothing is sent for ``pause`` seconds; then one request tries, and its outcome closes
    the circuit or opens it for twice as long, at most ``longest``."""

    def __init__(self, failures: int = 5, pause: float = 1.0, longest: float = 30.0) -> None:
        self._allowed = failures
        self._first_pause = pause
        self._longest = longest
        self._failures = 0
        self._pause = pause
        self._open_until = 0.0
        self._trying = False
        """The circuit is open and the one request that may try is out."""

    def may_send(self, now: float) -> bool:
        """Whether a request may go out now. While the circuit is open, one that may is the one that tries."""
        if self._failures < self._allowed:
            return True
        if now < self._open_until:
            return False
        # One that is given up without an outcome must not keep the others waiting for ever.
        self._open_until = now + self._pause
        self._trying = True
        return True

    def answered(self) -> None:
        self._failures = 0
        self._pause = self._first_pause
        self._trying = False

    def failed(self, now: float) -> None:
        was_open = self._failures >= self._allowed
        self._failures += 1
        # Requests that were under way when the circuit opened tell nothing new: a line that breaks under many
        # connections is one failure, not one for each.
        if self._failures < self._allowed or (was_open and not self._trying):
            return
        self._trying = False
        self._open_until = now + self._pause
        self._pause = min(2 * self._pause, self._longest)
