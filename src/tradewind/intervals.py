"""Intervals. Of a share that was counted, 95 % (Wilson 1927): it stays within 0 to 1, and is not empty at 0 of n.

Trials are taken as independent; where they share a question or a store, the interval is narrower than the truth.
"""

import math

Z = 1.959963984540054


def wilson(part: int, whole: int) -> tuple[float, float]:
    """Interval of part / whole; 0 to 1 where nothing was counted."""
    if whole == 0:
        return 0.0, 1.0
    share, extra = part / whole, Z * Z / whole
    middle = (share + extra / 2) / (1 + extra)
    reach = Z / (1 + extra) * math.sqrt(share * (1 - share) / whole + extra / (4 * whole))
    low = 0.0 if part == 0 else max(0.0, middle - reach)
    return low, 1.0 if part == whole else min(1.0, middle + reach)
