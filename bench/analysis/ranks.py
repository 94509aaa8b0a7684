"""How far two figures put the same things into one order. Needs scipy."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import spearmanr

_LEAST = 3


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation, -1 to 1. Equal values share a rank.

    It is None of fewer than three pairs, and where one side has a single value, because then there is no order.
    """
    if len(first) < _LEAST or len({*first}) < 2 or len({*second}) < 2:
        return None
    return float(spearmanr(first, second).statistic)
