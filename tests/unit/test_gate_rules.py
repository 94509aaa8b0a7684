"""The rules of `--fail-on`, what `--allow` may name, and the last line, without documents."""

from __future__ import annotations

from typing import Any, cast

import pytest

from bench.analysis import gate
from bench.documents import Interval
from bench.documents.comparison import Comparison, Difference, Verdict
from dataplanes.errors import Usage
from scenarios.axes import Axes


def difference(
    interval: Interval | None, verdict: Verdict = "worse", *, metric: str = "connections_per_second", rounds: int = 5
) -> Difference:
    return Difference("crr", Axes(), "nft-lb", metric, 1, 1, interval, verdict, rounds)


@pytest.mark.parametrize(
    ("rule", "low", "high", "broken"),
    [
        ("-5%", 0.90, 0.94, True),
        ("-5%", 0.85, 0.96, False),
        ("-50%", 0.40, 0.50, False),  # by more than that
        ("-5%", 1.10, 1.20, False),
        ("+50%", 1.51, 1.60, True),
        ("+50%", 1.50, 1.60, False),
        ("+5%", 1.02, 1.20, False),
        ("+5%", 0.90, 0.94, False),
        ("+0%", 1.01, 1.02, True),
        ("+0%", 0.97, 0.99, False),
        ("+150%", 2.60, 3.00, True),
    ],
)
def test_a_rule_is_broken_by_the_whole_interval_only(rule: str, low: float, high: float, broken: bool) -> None:
    (parsed,) = gate.parse_rules(f"connections_per_second:{rule}")
    assert parsed.broken_by(difference(Interval((low + high) / 2, low, high))) is broken


def test_a_rule_is_about_its_metric_in_three_rounds() -> None:
    slower = Interval(0.5, 0.4, 0.6)
    (rule,) = gate.parse_rules("connections_per_second:-5%")
    assert rule.broken_by(difference(slower, rounds=3))
    assert not rule.broken_by(difference(slower, rounds=2))
    assert not rule.broken_by(difference(slower, metric="install_ms"))


@pytest.mark.parametrize("interval", [None, Interval(2.0), Interval(2.0, None, 3.0), Interval(2.0, 1.5, None)])
def test_what_was_nothing_breaks_a_rule_about_more_if_it_became_something(interval: Interval | None) -> None:
    more, less = gate.parse_rules("lost_percent:+50%, lost_percent:-50%")
    for verdict, told in (("worse", True), ("better", True), ("same", False), ("inconclusive", False)):
        found = difference(interval, cast(Verdict, verdict), metric="lost_percent")
        assert more.broken_by(found) is told
        assert not less.broken_by(found)
    (none_at_all,) = gate.parse_rules("lost_percent:+0%")
    assert not none_at_all.broken_by(difference(interval, metric="lost_percent"))


def test_rules_are_read_one_by_one() -> None:
    assert gate.parse_rules("") == gate.parse_rules(" , ") == []
    assert gate.parse_rules("install_ms:+10%, connect_p99.9_us:-2.5%") == [
        gate.Rule("install_ms", 0.1),
        gate.Rule("connect_p99.9_us", -0.025),
    ]
    with pytest.raises(Usage) as refused:
        gate.parse_rules("install_ms:+10%, install_ms:+10%%")
    assert str(refused.value).startswith(
        "cannot read --fail-on 'install_ms:+10%%' (METRIC:-5%, METRIC:+5% or one of worse, better, inconclusive, "
    )


def comparison(**more: Any) -> Comparison:
    return Comparison("new.json", "result", 0.005, **more)


def test_the_last_line_counts() -> None:
    assert gate.verdict([comparison(failures=["a is slow"])]) == "FAILED: a is slow"
    assert gate.verdict([comparison(failures=["a", "b"]), comparison(failures=["c"])]) == "FAILED: a, and 2 more"
    assert gate.verdict([comparison(failures=["a"]), comparison(failures=["c"])]) == "FAILED: a, and 1 more"
    assert gate.verdict([comparison(), comparison(warnings=["w"])]) == "ok: 0 figures; 0 figures; with a warning"
    assert gate.verdict([comparison(warnings=["w", "x"])]) == "ok: 0 figures; with 2 warnings"
    told = comparison(differences=[difference(None), difference(None, "same"), difference(None, "same")])
    assert gate.verdict([told]) == "ok: 3 figures (1 worse, 2 same)"


@pytest.mark.parametrize("text", ["nonsense", "speed:-5%", "install_ms:5%", "install_ms:-x%"])
def test_a_rule_nobody_can_read_is_refused(text: str) -> None:
    with pytest.raises(Usage, match="cannot read --fail-on"):
        gate.parse_rules(text)


def test_an_allowance_nobody_can_read_is_refused() -> None:
    with pytest.raises(Usage, match=r"cannot read --allow 'cpu'.*kernel, clock, scenario, variant"):
        gate.parse_allowed("kernel,cpu")
