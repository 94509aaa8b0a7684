"""How figures are written: as many digits as say something."""

from __future__ import annotations

from bench.documents import Interval


def number(value: float) -> str:
    """With three digits at least."""
    return f"{value:,.0f}" if value >= 1000 or value == 0 else f"{value:,.3g}"


def figure(found: Interval | None) -> str:
    """A figure, or nothing."""
    return "" if found is None else number(found.value)


def ratio(found: Interval | None) -> str:
    """A ratio with its interval, where it has one."""
    if found is None:
        return ""
    if found.low is None or found.high is None or found.low == found.high:
        return f"{found.value:.3f}"
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
