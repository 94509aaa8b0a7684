"""Two equal runs are the same, a run that is a percent slower is worse, and noise is told from both."""

from __future__ import annotations

import random

import pytest

from bench.analysis import compare
from bench.documents import Interval, Result, Trial
from bench.documents.comparison import Difference
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


NOISE = 0.005


def verdict(base: Result, new: Result) -> Difference:
    (found,) = compare.compare(base, new, NOISE)
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
    assert found.ratio
    assert (found.verdict, found.ratio.low, found.rounds) == ("inconclusive", None, 2)


@pytest.mark.parametrize("spread", [0.0, 0.001, 0.02])
@pytest.mark.parametrize("rounds", [3, 5, 8])
def test_p_is_a_probability_and_says_what_the_interval_says(spread: float, rounds: int) -> None:
    """The probability was twice a count of resamples, so up to 2. It was about the noise threshold, not about 1."""
    base = result(3000, spread, rounds=rounds)
    for number, rate in enumerate((3000, 2999, 2990, 2970, 3040, 3500)):
        found = verdict(base, result(rate, spread, rounds=rounds, seed=50 + number))
        assert found.p is not None
        assert found.p_noise is not None
        assert found.ratio
        assert found.ratio.low is not None
        assert found.ratio.high is not None
        assert 0 < found.p <= 1
        assert 0 < found.p_noise <= 1
        assert (found.p < 0.05) == (not found.ratio.low <= 1 <= found.ratio.high), found


def lossy(*lost: float) -> Result:
    trials = [Trial("nft-lb", "seed", "udp", n, False, {"lost_percent": each}) for n, each in enumerate(lost)]
    return Result({}, {"clock": "instructions", "kernel": "6.1"}, {"trials": []}, trials, [])


def test_what_was_nothing_and_is_something_is_worse() -> None:
    """A figure of zero has no ratio. It was left out, so half of all datagrams could be lost unnoticed."""
    found = verdict(lossy(0, 0, 0, 0), lossy(50, 48, 51, 50))
    assert (found.verdict, found.ratio, found.base, found.new) == ("worse", None, 0, 50)
    assert found.change() == "0 -> 50"
    assert verdict(lossy(0, 0, 0), lossy(0, 0, 0)).verdict == "same"
    assert verdict(lossy(50, 48, 51), lossy(0, 0, 0)).verdict == "better"
    assert verdict(lossy(0, 0, 1), lossy(0, 1, 0)).verdict == "inconclusive"


def planes(rates: dict[str, float], seed: int) -> Result:
    """Return a run of many planes, each with its own rate and a tenth of a percent of noise."""
    numbers = random.Random(seed)
    trials = [
        Trial(name, "seed", "crr", number, False, {"connections_per_second": rate * numbers.gauss(1, 0.001)})
        for number in range(1, 6)
        for name, rate in rates.items()
    ]
    return Result({}, {"clock": "instructions"}, {"trials": [{"connections": 10}]}, trials, [])


def test_among_many_cells_the_one_that_changed_is_found_and_no_other() -> None:
    rates = {f"plane{number}": 1000.0 for number in range(100)}
    found = compare.compare(planes(rates, 1), planes(rates | {"plane7": 980.0}, 2), NOISE)
    assert {each.dataplane for each in found if each.verdict == "worse"} == {"plane7"}
    assert not [each for each in found if each.verdict == "better"]


def test_what_one_figure_alone_would_tell_is_doubted_among_many() -> None:
    def difference(name: str, p: float) -> Difference:
        ratio = Interval(0.98)
        return Difference("crr", Axes(), name, "connections_per_second", 1, 1, ratio, "worse", 5, p_noise=p, p=p)

    alone = compare._holm([difference("a", 0.03)])
    many = compare._holm(
        [difference("a", 0.03), *(difference(f"b{n}", 0.0002) for n in range(3)), difference("c", 0.04)]
    )
    assert [each.verdict for each in alone] == ["worse"]
    assert [each.verdict for each in many] == ["inconclusive", "worse", "worse", "worse", "inconclusive"]
