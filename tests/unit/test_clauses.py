"""The specification: a check is about one clause, sources can be found, and the page says who keeps what, and why."""

from __future__ import annotations

import re
from collections import Counter

import msgspec
import pytest

from bench.report import keeping, plane_names, semantics
from bench.report.keeping import lacks, selections, unobserved
from scenarios import clauses, expectations
from scenarios.checks import CHECKS
from scenarios.clauses import CLAUSES, GROUPS, LEVELS, OUTSIDE, SUITES, Clause
from scenarios.expectations import Expectation
from tests.conftest import ROOT

_NAMED = {clause.name: clause for clause in CLAUSES}
_SOURCES = (ROOT / "docs" / "sources.md").read_text("utf-8")
_FORMS = {
    r"D\d+": r"`D1` to `D46`",
    r"[\w.-]+/[\w.-]+#\d+": r"`owner/name#N`",
    r"(net|drivers)/[\w./-]+\.c": r"`net/ipv4/...`, `drivers/...`",
    r"pkg/proxy/[\w./-]+": r"`pkg/proxy/...`",
    r"KEP-\d+": r"`KEP-N`",
    r"RFC \d+": r"RFC N",
    r"[\w-]+\(\d\)": r"`name(N)`",
    r"(docs\.docker\.com|kubernetes\.io/docs)/[\w/-]+": r"`docs.docker.com/...`, `kubernetes.io/docs/...`",
}
"""A form of source -> the row of docs/sources.md that explains it."""


def test_every_check_is_about_exactly_one_clause() -> None:
    found = Counter(check for clause in CLAUSES for check in clause.checks)
    assert [check for check in CHECKS if check not in found] == [], (
        "say in scenarios/clauses.toml what it is about: a clause there, or a new one"
    )
    assert [check for check in found if check not in CHECKS] == []
    assert [check for check, count in found.items() if count > 1] == []


@pytest.mark.parametrize("clause", CLAUSES, ids=lambda clause: clause.name)
def test_a_clause_has_a_check(clause: Clause) -> None:
    assert clause.checks or clause.besides
    assert set(clause.besides) <= set(CHECKS)
    assert not set(clause.besides) & set(clause.checks)


def test_at_least_110_clauses_are_observed() -> None:
    assert len([clause for clause in CLAUSES if not unobserved(clause)]) >= 110


def test_numbers_and_names_stay_as_they_were() -> None:
    """A number or a name that somebody has referred to must not mean another clause later."""
    recorded = dict(line.split() for line in (ROOT / "tests/unit/clauses.txt").read_text("utf-8").splitlines())
    assert {clause.number: clause.name for clause in CLAUSES}.items() <= recorded.items(), (
        "add a new clause to the list"
    )
    assert len(set(recorded.values())) == len(recorded)
    assert len(_NAMED) == len(CLAUSES)


def test_numbers_are_in_the_order_of_the_file() -> None:
    for number, group in enumerate(GROUPS, 1):
        parts = [tuple(map(int, clause.number.split("."))) for clause in group.clause]
        assert {part[0] for part in parts} == {number}
        assert parts == sorted(set(parts))


@pytest.mark.parametrize("clause", CLAUSES, ids=lambda clause: clause.name)
def test_a_clause_is_a_sentence_with_its_reason(clause: Clause) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", clause.name)
    for text in (clause.says, clause.rationale):
        assert re.fullmatch(r"[A-Z`].*\.", text.replace("getpeername()", "It"), re.DOTALL), text
    assert not clause.rationale.startswith(clause.says)


def test_no_clause_says_what_another_one_says() -> None:
    assert len({clause.says for clause in CLAUSES}) == len({clause.rationale for clause in CLAUSES}) == len(CLAUSES)


@pytest.mark.parametrize("clause", CLAUSES, ids=lambda clause: clause.name)
def test_every_source_can_be_found(clause: Clause) -> None:
    assert clause.sources
    for name in clause.sources:
        (form,) = (form for form in _FORMS if re.fullmatch(form, name))
        assert f"| {_FORMS[form]} |" in _SOURCES, form
        assert not re.fullmatch(r"D\d+", name) or f"| {name} |" in _SOURCES
    cited = {name for check in clause.checks for name in _statements(CHECKS[check].source)}
    assert cited <= set(clause.sources), "what a check cites of swarm's VIPs, its clause cites, too"


def _statements(source: str) -> set[str]:
    ranges = re.findall(r"\bD(\d+)(?:-D(\d+))?", source)
    return {f"D{n}" for first, last in ranges for n in range(int(first), int(last or first) + 1)}


def test_what_the_lab_cannot_express_is_told_with_its_sources() -> None:
    assert {"IPv6", "ingress"} <= {word for each in OUTSIDE for word in re.findall(r"[\w]+", each.subject)}
    for each in OUTSIDE:
        assert re.fullmatch(r"[A-Z].*\.", each.takes)
        assert each.sources
        assert all(any(re.fullmatch(form, name) for form in _FORMS) for name in each.sources)
        assert f"*{each.subject}*: {each.takes}" in semantics.page()
        for number in re.findall(r"\d+\.\d+", each.subject):
            (found,) = (clause for clause in CLAUSES if clause.number == number)
            assert unobserved(found), f"{number} is observed"


def test_levels_are_of_the_three_and_each_is_used() -> None:
    assert {clause.level for clause in CLAUSES} == set(LEVELS)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(msgspec.to_builtins(CLAUSES[0]) | {"level": "optional"}, Clause)


def test_a_check_has_the_level_of_the_clause_that_it_is_about() -> None:
    assert clauses.level("icmp.ping") == _NAMED["ping"].level == "visible"
    assert clauses.level("greeting.answers") == "extended", "a check of another package is about no clause"


def test_the_tests_of_others_are_of_suites_that_are_told() -> None:
    assert {key for clause in CLAUSES for key in clause.elsewhere} == {suite.key for suite in SUITES}


# -- who keeps what ----------------------------------------------------------------------------------------------------


def clause(*checks: str, besides: list[str] | None = None) -> Clause:
    return Clause("0.0", "name", "It holds.", "core", "Somebody needs it.", [], [*checks], besides or [])


def expecting(monkeypatch: pytest.MonkeyPatch, *found: Expectation) -> None:
    monkeypatch.setattr(expectations, "load", lambda: [*found])


def test_a_clause_is_not_kept_where_one_of_its_checks_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    expecting(monkeypatch, Expectation(["reach.mapped-udp"], ["nft-lb"], "because", reference="a thread"))
    (found,) = lacks(clause("reach.mapped", "reach.mapped-udp"))
    assert (found.reason, found.reference, found.planes) == ("because", "a thread", ("nft-lb@", "nft-lb@random"))
    assert found.checks == ("reach.mapped-udp",)
    assert found.applies


def test_a_clause_that_is_shown_besides_is_kept_where_one_check_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ["reach.mapped", "reach.mapped-udp"]
    expecting(
        monkeypatch,
        Expectation(both[:1], ["nft-lb", "nft-host"], "one"),
        Expectation(both[1:], ["nft-host@random"], "other"),
    )
    found = lacks(clause(besides=both))
    assert [(each.reason, each.planes) for each in found] == [
        ("one", ("nft-host@random",)),
        ("other", ("nft-host@random",)),
    ]


def test_a_difference_of_some_kernels_is_told_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    expecting(monkeypatch, Expectation(["reach.payload"], ["ebpf-tc"], "because", kernels=["5.", "6.0.", "6.1."]))
    (found,) = lacks(clause("reach.payload"))
    assert found.kernels == ["5.", "6.0.", "6.1."]
    assert "`ebpf-tc` on kernels 5 to 6.1: because." in semantics._lack(found, clause("reach.payload"))


def test_what_does_not_apply_is_told_apart() -> None:
    (found,) = lacks(_NAMED["any-port"])
    assert not found.applies
    assert "kube-ipvs@" in found.planes
    assert "ipvs-lb@port" in found.planes
    assert "ipvs-lb@map" not in found.planes


def test_a_clause_is_unobserved_if_all_its_checks_are_skipped() -> None:
    assert unobserved(_NAMED["ipv6"])
    assert unobserved(clause("limits.ipv6", "reach.payload")) == ""


def test_what_the_kernel_that_makes_the_page_lacks_is_not_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = msgspec.structs.replace(CHECKS["reach.sctp"], obstacle=lambda: "this kernel has no SCTP")
    monkeypatch.setitem(CHECKS, "reach.sctp", lacking)
    assert [each.planes for each in lacks(_NAMED["sctp"])] == [("ebpf-socket@",)]


# -- planes in few words -----------------------------------------------------------------------------------------------

_EVERY = list(selections())
_PLANES = list(dict.fromkeys(name.partition("@")[0] for name in _EVERY))


def variants(*planes: str) -> list[str]:
    return [name for name in _EVERY if name.partition("@")[0] in planes]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (_EVERY, "every plane"),
        ([name for name in _EVERY if not name.startswith("nft-lb@")], "every plane but `nft-lb`"),
        (variants("ebpf-socket", "ebpf-tc", "ebpf-redirect", "nft-lb"), "every eBPF plane, `nft-lb`"),
        (["nft-lb@", "nft-host@", "ebpf-tc@"], "`ebpf-tc`; `nft-lb`, `nft-host` but for the variant `random`"),
        (["nft-lb@random", "nft-host@random"], "`nft-lb@random`, `nft-host@random`"),
    ],
)
def test_planes_are_told_in_few_words(names: list[str], words: str) -> None:
    assert plane_names.told(names, _EVERY) == words


def test_every_plane_is_of_one_mechanism() -> None:
    for plane in _PLANES:
        assert sum(kind in plane for kind in plane_names._MECHANISMS) == 1, plane


# -- the page ----------------------------------------------------------------------------------------------------------


def test_links_within_the_page_lead_somewhere() -> None:
    page = semantics.page()
    headings = re.findall(r"^#+ (?:<a id=\"([\w-]+)\"></a>)?(.*)$", page, re.MULTILINE)
    anchors = {anchor or semantics._anchor(heading) for anchor, heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= anchors
    assert set(_NAMED) <= anchors


def test_the_page_tells_every_reason_that_a_clause_is_not_kept() -> None:
    page = semantics.page()
    for each in expectations.load():
        assert each.expected == "pass" or each.reason in page, each.reason


def test_no_reason_is_lost_in_the_default_variants() -> None:
    """A plane's list has exactly the clauses whose checks are not expected to hold there."""
    lines = dict(
        re.findall(r"^- `([\w@.-]+)`: (.*)$", semantics.page().partition("## What each plane")[2], re.MULTILINE)
    )
    assert len(lines) == len(_PLANES)
    found = set(re.findall(r"\[([\d.]+)\]", lines["nft-lb"]))
    selection = keeping.selections()["nft-lb@"]
    failing = {check for check in CHECKS if expectations.expected(selection, check, "6.12.0").expected == "fail"}
    assert found == {clause.number for clause in CLAUSES if failing & set(clause.checks)}
