"""The writing of figures, with as many digits as are significant."""

from __future__ import annotations

from bench.documents import Interval


def number(value: float) -> str:
    """Write a number with three digits at least."""
    return f"{value:,.0f}" if value >= 1000 or value == 0 else f"{value:,.3g}"


def figure(found: Interval | None) -> str:
    """Write a figure, or "" for none."""
    return "" if found is None else number(found.value)


def ratio(found: Interval | None) -> str:
    """Write a ratio with its interval, if it has one."""
    if found is None:
        return ""
    if found.low is None or found.high is None or found.low == found.high:
        return f"{found.value:.3f}"
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
