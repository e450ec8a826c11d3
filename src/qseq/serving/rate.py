"""How often one client may ask."""

from __future__ import annotations

import time


class TokenBucket:
    """So many requests a second on average, and up to `burst` at once.

    Args:
        rate: 0 does not limit.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._left = float(burst)
        self._since = time.monotonic()

    def delay(self) -> float:
        """Seconds after which the request that came now may be looked at."""
        if not self._rate:
            return 0.0
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._since) * self._rate) - 1.0
        self._since = now
        return max(0.0, -self._left / self._rate)
