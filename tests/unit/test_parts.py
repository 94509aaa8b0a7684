"""The checks of one plane, dealt to guests that would have nothing else to do."""

from __future__ import annotations

import pytest

from bench.outside.matrix import parts
from scenarios import checks

EVERY = [*checks.CHECKS.values()]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 1000])
def test_every_check_is_in_one_part(count: int) -> None:
    dealt = parts(EVERY, count)
    assert len(dealt) <= count
    assert all(dealt)
    assert sorted(each.name for part in dealt for each in part) == sorted(each.name for each in EVERY)


@pytest.mark.parametrize("count", [2, 8])
def test_checks_with_a_world_of_their_own_stay_together_and_so_do_those_that_idle(count: int) -> None:
    dealt = parts(EVERY, count)
    for name in {each.scenario for each in EVERY} - {"matrix"}:
        assert sum(any(each.scenario == name for each in part) for part in dealt) == 1
    assert sum(any(each.idles for each in part) for part in dealt) == 1


def test_parts_are_about_as_large() -> None:
    sizes = [len(part) for part in parts([each for each in EVERY if not each.idles], 4)]
    assert max(sizes) - min(sizes) <= max(sum(each.scenario == "underlay" for each in EVERY), 10)
