"""Two runs of the same are the same; one that is a percent slower is worse; noise is told from both."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from bench import compare
from bench.documents import Interval, Result, Trial
from dataplanes.errors import Usage
from scenarios.axes import Axes


def result(rate: float, spread: float, *, rounds: int = 5, seed: int = 1, clock: str = "instructions") -> Result:
    numbers = random.Random(seed)
    trials = [
        Trial("nft-lb", "seed", "crr", number, number == 0, {"connections_per_second": rate * numbers.gauss(1, spread)})
        for number in range(rounds + 1)
    ]
    trials.append(Trial("nft-lb", "seed", "crr", 9, False, {}, error="no figure"))
    plan = {"trials": [{"connections": 10, "concurrency": 1}]}
    return Result({}, {"clock": clock, "kernel": "6.1"}, plan, trials, [])


def verdict(base: Result, new: Result) -> compare.Difference:
    (found,) = compare.compare(base, new)
    return found


def test_a_run_against_its_like_is_the_same() -> None:
    same = [verdict(result(3000, 0.001, seed=n), result(3000, 0.001, seed=100 + n)).verdict for n in range(40)]
    assert same == ["same"] * 40


def test_one_percent_slower_is_worse_and_faster_better() -> None:
    base = result(3000, 0.001)
    assert verdict(base, result(2970, 0.001, seed=2)).verdict == "worse"
    assert verdict(base, result(3030, 0.001, seed=2)).verdict == "better"


def test_what_noise_hides_is_inconclusive_and_says_how_many_rounds_would_tell() -> None:
    found = verdict(result(3000, 0.02), result(2985, 0.02, seed=3))
    assert found.verdict == "inconclusive"
    assert found.rounds_needed
    assert found.rounds_needed > 20


def test_two_rounds_conclude_nothing() -> None:
    found = verdict(result(3000, 0.001, rounds=2), result(1000, 0.001, rounds=2))
    assert (found.verdict, found.ratio.low) == ("inconclusive", None)


def test_a_rule_is_broken_by_the_whole_interval_only() -> None:
    (rule,) = compare.parse_rules("connections_per_second:-5%")
    found = verdict(result(3000, 0.001), result(2700, 0.001, seed=2))
    assert rule.broken_by(found)
    assert not rule.broken_by(msgspec.structs.replace(found, ratio=Interval(0.9, 0.85, 0.96)))
    (rise,) = compare.parse_rules("install_ms:+10%")
    assert not rise.broken_by(found)


@pytest.mark.parametrize("text", ["nonsense", "speed:-5%", "install_ms:5%", "install_ms:-x%"])
def test_a_rule_nobody_can_read_is_refused(text: str) -> None:
    with pytest.raises(Usage, match="cannot read --fail-on"):
        compare.parse_rules(text)


def test_different_clocks_are_not_compared() -> None:
    with pytest.raises(Usage, match="nothing to compare"):
        compare.compare(result(3000, 0.001), result(3000, 0.001, clock="wall"))


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    with pytest.raises(Usage, match="cannot read"):
        compare.load(str(file))
    file.write_text("{}")
    with pytest.raises(Usage, match="neither a result"):
        compare.load(str(file))
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(result(1, 0), schema=2)))
    with pytest.raises(Usage, match="schema is 2"):
        compare.load(str(file))
    file.write_bytes(msgspec.json.encode(result(3000, 0.001)))
    assert compare.load(str(file)).environment["clock"] == "instructions"


def test_a_different_environment_is_told() -> None:
    base, new = result(3000, 0.001), result(3000, 0.001)
    assert compare.warnings(base, new) == []
    new.environment["kernel"] = "6.12"
    assert compare.warnings(base, new) == ["the runs' kernel differ"]


def planes(rates: dict[str, float], seed: int) -> Result:
    """A run of many planes, each with its own rate, a tenth of a percent of noise."""
    numbers = random.Random(seed)
    trials = [
        Trial(name, "seed", "crr", number, False, {"connections_per_second": rate * numbers.gauss(1, 0.001)})
        for number in range(1, 6)
        for name, rate in rates.items()
    ]
    return Result({}, {"clock": "instructions"}, {"trials": [{"connections": 10}]}, trials, [])


def test_among_many_cells_the_one_that_changed_is_found_and_no_other() -> None:
    rates = {f"plane{number}": 1000.0 for number in range(100)}
    found = compare.compare(planes(rates, 1), planes(rates | {"plane7": 980.0}, 2))
    assert {each.dataplane for each in found if each.verdict == "worse"} == {"plane7"}
    assert not [each for each in found if each.verdict == "better"]


def test_what_one_figure_alone_would_tell_is_doubted_among_many() -> None:
    def difference(name: str, p: float) -> compare.Difference:
        return compare.Difference("crr", Axes(), name, "connections_per_second", 1, 1, Interval(0.98), "worse", None, p)

    alone = compare._holm([difference("a", 0.03)])
    many = compare._holm(
        [difference("a", 0.03), *(difference(f"b{n}", 0.0002) for n in range(3)), difference("c", 0.04)]
    )
    assert [each.verdict for each in alone] == ["worse"]
    assert [each.verdict for each in many] == ["inconclusive", "worse", "worse", "worse", "inconclusive"]
