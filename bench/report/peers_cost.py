"""The tables of what peers cost, out of the documents of their runs (results/peers)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bench.documents import Interval, Result, Summary
from bench.report import digits
from bench.report.model import Report
from dataplanes.selection import balances, split

_WORKLOAD, _COST = "crr", "instructions_per_connection"
BARE, LAB = "namespace", "lab"
_WHERE = {
    "container": "in the containers",
    "cgroup": "in the containers' network namespaces and control groups",
    BARE: "in the containers' network namespaces only",
    LAB: "our lab, nodes as dockerd leaves them",
}
_COLUMNS = ("connect_p50_us", "request_p50_us")


def beside(results: Mapping[str, Result], document: str) -> Iterator[str]:
    """Yield the table of a document about peers and the planes that they are held against."""
    cost = "connections/s, ratio to `direct` | instructions per connection"
    yield f"| plane | rounds | {cost} | `connect()`, median | answer, median |"
    yield "|---|---|---|---|---|---|"
    for row in _rows(results[document]):
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


def containers(results: Mapping[str, Result]) -> Iterator[str]:
    """Yield the table of what containers add: a platform by where its servers run, and our lab."""
    yield "| servers | rounds | direct | through the VIP |"
    yield "|---|---|---|---|"
    told = ratios(results)
    for place, pair in _places(results):
        rounds = " and ".join(dict.fromkeys(str(each.n) for each in pair))
        cells = [_told(each.figures[_COST]) for each in pair]
        if place != BARE:
            signed = (f"{ratio - 1:+.1%}".replace("%", " %") for ratio in told[place])
            cells = [f"{cell}: {each}" for cell, each in zip(cells, signed, strict=True)]
        yield f"| {_WHERE[place]}: `{pair[1].dataplane}` | {rounds} | " + " | ".join(cells) + " |"


def ratios(results: Mapping[str, Result]) -> dict[str, list[float]]:
    """Return what a connection costs, directly and through a VIP, by where the servers run: in LAB and on a platform.

    All are ratios to a platform whose servers are BARE, in the containers' network namespaces only, as the lab's are.
    """
    costs = {place: [each.figures[_COST].value for each in pair] for place, pair in _places(results)}
    return {place: [one / bare for one, bare in zip(each, costs[BARE], strict=True)] for place, each in costs.items()}


def _places(results: Mapping[str, Result]) -> Iterator[tuple[str, tuple[Summary, Summary]]]:
    """Yield the direct path and the plane by where the servers run: a platform's places, and our lab."""
    for document in ("cost-of-platforms", "cost-outside-containers"):
        result = results[document]
        for row in _rows(result):
            if balances(_plane(row)):
                yield row.dataplane.partition("+servers=")[2] or "container", _pair(result, row.dataplane)
    imitation = results["cost-of-imitations"]
    yield from ((LAB, _pair(imitation, row.dataplane)) for row in _rows(imitation) if balances(_plane(row)))


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
