"""Two equal runs are the same, a run that is a percent slower is worse, and noise is told from both."""

from __future__ import annotations

import random

import pytest

from bench.analysis import compare
from bench.documents import Interval, Result, Trial
from bench.documents.comparison import Difference, Verdict
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


@pytest.mark.parametrize(
    ("ratio", "told"),
    [
        (None, "1,000 -> 0.5"),
        (Interval(0.9), "-10.0%"),
        (Interval(1.5, None, 2.0), "+50.0%"),
        (Interval(1.5, 1.25, None), "+50.0%"),
        (Interval(1.5, 1.25, 2.125), "+50.0% [+25.0%, +112.5%]"),
    ],
)
def test_a_change_is_told_with_its_interval(ratio: Interval | None, told: str) -> None:
    assert Difference("crr", Axes(), "a", "install_ms", 1000, 0.5, ratio, "worse", 5).change() == told


def rates(*values: float, name: str = "connections_per_second") -> Result:
    trials = [Trial("nft-lb", "seed", "crr", n, False, {name: value}) for n, value in enumerate(values, 1)]
    return Result({}, {"clock": "instructions", "kernel": "6.1"}, {"trials": []}, trials, [])


def test_medians_are_compared_even_of_two_rounds() -> None:
    found = verdict(rates(10, 30), rates(30, 50, 70))
    assert (found.base, found.new, found.rounds) == (20, 50, 2)
    assert found.ratio == Interval(2.5)
    assert (found.p, found.p_noise, found.rounds_needed) == (None, None, None)
    nothing = verdict(rates(0, 0), rates(30, 50))
    assert (nothing.ratio, nothing.verdict) == (None, "inconclusive")
    assert verdict(rates(30, 50), rates(0, 0)).ratio == Interval(0)


@pytest.mark.parametrize(
    ("base", "new", "higher", "lower"),
    [
        (1000, 1005, "same", "same"),  # exactly noise
        (1000, 995, "same", "same"),
        (1000, 1006, "better", "worse"),
        (1000, 994, "worse", "better"),
    ],
)
def test_the_interval_and_the_noise_decide(base: float, new: float, higher: str, lower: str) -> None:
    for name, expected in (("connections_per_second", higher), ("install_ms", lower)):
        found = verdict(rates(*[base] * 5, name=name), rates(*[new] * 5, name=name))
        assert found.verdict == expected
        assert found.ratio == Interval(new / base, new / base, new / base)
        assert found.rounds_needed is None


def test_an_interval_that_touches_the_noise_is_inconclusive() -> None:
    assert compare._verdict(0.990, 0.9951, 0.005, higher=True) == "inconclusive"
    assert compare._verdict(1.0049, 1.010, 0.005, higher=True) == "inconclusive"
    assert compare._verdict(0.990, 0.995, 0.005, higher=True) == "inconclusive"
    assert compare._verdict(1.005, 1.010, 0.005, higher=True) == "inconclusive"


def test_the_interval_is_that_of_the_resamples() -> None:
    """Of two medians of three values each every resample is one of nine ratios: the interval is their range."""
    found = verdict(rates(100, 100, 100), rates(110, 120, 130))
    assert found.ratio == Interval(1.2, 1.1, 1.3)
    assert found.rounds_needed is None
    turned = verdict(rates(110, 120, 130), rates(100, 100, 100))
    assert turned.ratio == Interval(100 / 120, 100 / 130, 100 / 110)


def test_rounds_that_would_tell_grow_with_the_square_of_the_width() -> None:
    def needed(spread: float) -> int:
        found = verdict(rates(1000, 1000, 1000), rates(1000 - spread, 1000, 1000 + spread))
        assert found.verdict == "inconclusive"
        assert found.rounds_needed
        return found.rounds_needed

    assert needed(20) == 49  # half the interval is 4 times the noise: 16 times the 3 rounds, and a little
    assert needed(40) == 193
    assert needed(5.01) == 4
    narrow = verdict(rates(1000, 1000, 1000), rates(999, 1002, 1006))
    assert (narrow.verdict, narrow.rounds_needed) == ("inconclusive", 4), "one more than there were, at least"


def test_the_doubt_is_about_a_change_beyond_noise() -> None:
    within, beyond = (verdict(rates(*[1000] * 5), rates(*[new] * 5)) for new in (1004, 1010))
    assert (within.p, within.p_noise) == (0.0002, 1)
    assert (beyond.p, beyond.p_noise) == (0.0002, 0.0002), "none of 9,999 resamples, and this one"


def test_among_many_the_doubtful_are_doubted_by_their_rank() -> None:
    """Holm: of five p the smallest is held to 1 %, the next to 1.25 %. One that fails takes the larger ones along."""

    def verdicts(*doubts: float, verdict: Verdict = "worse") -> list[str]:
        found = [
            Difference("crr", Axes(), f"p{n}", "install_ms", 1, 1, Interval(0.9), verdict, 5, p_noise=p, p=p)
            for n, p in enumerate(doubts)
        ]
        return [each.verdict for each in compare._holm(found)]

    assert verdicts(0.05) == ["worse"]
    assert verdicts(0.051) == ["inconclusive"]
    assert verdicts(0.05, 0.025) == ["worse", "worse"]
    assert verdicts(0.05, 0.026, verdict="better") == ["inconclusive", "inconclusive"]
    assert verdicts(0.025, 0.05, 0.01, 0.0125, 0.016) == ["worse"] * 5
    assert verdicts(0.02, 0.013, 0.01, 0.014, 0.04) == ["inconclusive", "inconclusive", "worse", *["inconclusive"] * 2]
    assert verdicts(0.9, 0.9, verdict="same") == ["same", "same"]
