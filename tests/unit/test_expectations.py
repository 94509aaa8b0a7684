"""The data file of expectations, and its use in a matrix."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import msgspec
import pytest

from bench.documents import Matrix, MatrixCell
from bench.outside.matrix import planes, unexpected
from bench.report import matrix_table
from dataplanes import catalog
from dataplanes.errors import Usage
from scenarios import checks, expectations, topology
from scenarios.outcomes import Expected, Outcome


def test_every_difference_names_checks_and_planes_there_are_and_gives_its_reason() -> None:
    for each in expectations.load():
        assert set(each.checks) <= set(checks.CHECKS)
        assert {name.partition("@")[0] for name in each.planes} <= set(catalog.names())
        assert each.reason
        assert each.reference or each.expected == "pass"


def test_every_check_states_a_semantic_and_its_source() -> None:
    for name, each in checks.CHECKS.items():
        assert each.statement.endswith("."), name
        assert each.source, name
        topology.load(each.scenario)


def test_all_46_assertions_are_covered() -> None:
    import re

    covered: set[int] = set()
    for each in checks.CHECKS.values():
        for first, last in re.findall(r"D(\d+)(?:-D(\d+))?", each.source):
            covered |= set(range(int(first), int(last or first) + 1))
    assert sorted(set(range(1, 47)) - covered) == []


def test_a_difference_holds_for_its_planes_variants_and_kernels_only(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [
        expectations.Expectation(["reach.payload"], ["nft-lb"], "because"),
        expectations.Expectation(["reach.payload"], ["nft-lb"], "", "pass", kernels=["6.12"]),
        expectations.Expectation(["reach.payload"], ["ipvs-container@1.12.0"], "because"),
    ]
    monkeypatch.setattr(expectations, "load", lambda: known)

    def expected(plane: str, release: str = "6.1.0-1-amd64") -> str:
        return expectations.expected(catalog.select(plane)[0], "reach.payload", release).expected

    assert (expected("nft-lb"), expected("nft-lb", "6.12.1")) == ("fail", "pass")
    assert (expected("ipvs-container"), expected("ipvs-container@1.12.0")) == ("pass", "fail")


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("icmp.ping", ["icmp.ping"]),
        (
            "icmp and not (fragments or path or narrow or too-long)",
            ["icmp.port-unreachable", "icmp.port-unreachable-hairpin", "icmp.ping", "icmp.redirect"],
        ),
        ("idle.udp-400s or icmp.ping", ["icmp.ping", "idle.udp-400s"]),
    ],
)
def test_an_expression_selects_checks(expression: str, names: list[str]) -> None:
    assert sorted(each.name for each in checks.select(expression)) == sorted(names)


@pytest.mark.parametrize("expression", ["nothing-like-it", "ping and", "ping(1)", "not"])
def test_an_expression_that_selects_nothing_is_refused(expression: str) -> None:
    with pytest.raises(Usage):
        checks.select(expression)


def test_direct_has_no_vip_to_observe() -> None:
    assert [each.name for each in planes(catalog.select("direct,nft-lb"))] == ["nft-lb"]
    with pytest.raises(Usage, match="it has no VIP"):
        planes(catalog.select("direct"))


def cell(check: str, outcome: Outcome, expected: Expected, reason: str = "") -> MatrixCell:
    return MatrixCell("debian-6.1", "nft-lb", check, outcome, expected, "seen", 0.5, reason, "a thread" * bool(reason))


def test_what_is_not_expected_is_red_everywhere() -> None:
    cells = [
        cell("reach.payload", "pass", "pass"),
        cell("icmp.ping", "pass", "fail", "why not"),
        cell("identity.ttl", "fail", "fail", "lowered"),
        cell("limits.ipv6", "skip", "skip"),
        cell("idle.udp-400s", "error", "pass"),
    ]
    plan = {"dataplanes": [{"name": "nft-lb"}], "checks": [{"name": each.check} for each in cells]}
    matrix = Matrix({}, {"debian-6.1": {"kernel": "6.1.0"}}, plan, cells)
    assert [each.check for each in unexpected(matrix)] == ["icmp.ping", "idle.udp-400s"]
    suite = ET.fromstring(matrix_table.junit(matrix))[0]
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "5", "failures": "1", "errors": "1", "skipped": "1"}
    text = matrix_table.markdown(matrix)
    assert "| icmp.ping | \u25cf! |" in text
    assert "**identity.ttl** does not hold on nft-lb: lowered (a thread)" in text
    assert "5 cells: 2 pass, 1 fail, 1 skip, 1 error; 2 not as expected" in text
    assert matrix_table.verdict(matrix) == "FAILED: debian-6.1 nft-lb icmp.ping is pass: seen, and 1 more"


def test_the_last_line_of_a_matrix_counts_what_does_not_hold() -> None:
    cells = [cell("reach.payload", "pass", "pass"), cell("identity.ttl", "fail", "fail", "lowered")]
    cells.append(msgspec.structs.replace(cells[1], kernel="debian-6.12"))
    plan = {"dataplanes": [{"name": "nft-lb"}], "checks": [{"name": each.check} for each in cells[:2]]}
    kernels = {"debian-6.1": {"kernel": "6.1.0"}, "debian-6.12": {"kernel": "6.12.0"}}
    told = matrix_table.verdict(Matrix({}, kernels, plan, cells))
    assert told == "ok: every outcome is as expected; semantics that do not hold: nft-lb 1"
    told = matrix_table.verdict(Matrix({}, kernels, plan, cells[:1]))
    assert told == "ok: every outcome is as expected; semantics that do not hold: none"
