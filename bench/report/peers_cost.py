"""The tables of what peers cost, out of the documents of their runs (results/peers)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bench.documents import Interval, Result, Summary
from bench.report import digits
from bench.report.model import Report
from dataplanes.selection import balances, split

_WORKLOAD, _COST = "crr", "instructions_per_connection"
_COLUMNS = ("connect_p50_us", "request_p50_us")


def programs(results: Mapping[str, Result]) -> Iterator[str]:
    """Yield the table of programs at our placements, beside the planes that they are held against."""
    cost = "connections/s, ratio to `direct` | instructions per connection"
    yield f"| plane | rounds | {cost} | `connect()`, median | answer, median |"
    yield "|---|---|---|---|---|---|"
    for row in _rows(results["cost-of-programs"]):
        figures = (f"{digits.figure(row.figures[each])} µs" for each in _COLUMNS)
        cells = (str(row.n), digits.ratio(row.ratio_to_direct), _told(row.figures[_COST]), *figures)
        yield f"| `{row.dataplane}` | " + " | ".join(cells) + " |"


def platforms(results: Mapping[str, Result], planes: Report) -> Iterator[str]:
    """Yield the table of platforms: each beside its imitation in our lab, on nodes of both kinds."""
    yield "| | rounds | direct | through the VIP | ratio |"
    yield "|---|---|---|---|---|"
    real, imitation = results["cost-of-platforms"], results["cost-of-imitations"]
    columns = [(f"`{row.dataplane}`", *_pair(real, row.dataplane)) for row in _rows(real) if balances(_plane(row))]
    for row in _rows(imitation):
        if balances(_plane(row)):
            columns.append(
                (f"our lab, nodes as dockerd leaves them: `{row.dataplane}`", *_pair(imitation, row.dataplane))
            )
            bare = next(
                result
                for _, result in planes.results
                if result.kernel() == imitation.kernel()
                and result.environment["clock"] == "instructions"
                and any(each.dataplane == row.dataplane for each in _rows(result))
            )
            columns.append((f"our lab, bare nodes: `{row.dataplane}`", *_pair(bare, row.dataplane)))
    for name, direct, through in columns:
        rounds = str(direct.n) if direct.n == through.n else f"{direct.n} and {through.n}"
        cells = _told(direct.figures[_COST]), _told(through.figures[_COST]), digits.ratio(through.ratio_to_direct)
        yield f"| {name} | {rounds} | " + " | ".join(cells) + " |"


def _plane(row: Summary) -> str:
    return split(row.dataplane)[0]


def _rows(result: Result) -> Iterator[Summary]:
    """Yield what was found of connections at the usual point."""
    return (each for each in result.summary if each.workload == _WORKLOAD and not each.axes.label() and each.figures)


def _pair(result: Result, name: str) -> tuple[Summary, Summary]:
    """Return the direct path that a plane's figures are divided by, and the plane."""
    through = next(each for each in _rows(result) if each.dataplane == name)
    own = f"direct@{name}"
    rows = {each.dataplane: each for each in _rows(result)}
    return rows.get(own) or rows["direct"], through


def _told(found: Interval) -> str:
    """Write a figure with its interval."""
    if found.low is None or found.high is None or found.low == found.high:
        return digits.number(found.value)
    return f"{digits.number(found.value)} [{digits.number(found.low)}, {digits.number(found.high)}]"
