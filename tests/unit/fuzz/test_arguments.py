"""Any argument is understood, or refused in a line."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.cli.main import main
from dataplanes import catalog
from dataplanes.errors import Usage
from scenarios import checks
from scenarios.axes import AXES
from tests.unit.fuzz.ending import end
from tests.unit.fuzz.strategies import HOSTILE_TEXTS

_WORDS = ["reach", "source", "and", "or", "not", "(", ")", " ", "'", '"', "\\", "#", "x", "-", "lambda:"]
_DEEP = ["(" * 150, "(" * 5000, "not " * 150, "not " * 5000, "(not " * 90, "a or " * 900, "a" * 50_000]
_KNOBS = ["scheduler", "back", "conntrack", "conn_reuse_mode", "connections", "vip_on", "x", ""]
_VALUES = ["rr", "none", "1", "-1", "1e400", "nan", "9" * 5000, "true", "", "=", "1.5", "0x10", *HOSTILE_TEXTS]
_PLANES = ["a@b@c+++", "nft-lb@@", "nft-lb@+", "nft-lb@+=", "@", ",", ",,all", "all,all", "x" * 100_000, "direct@x"]
_NUMBERS = ["1e400", "-1", "0", "1,2,3", "1,,2", ",", "9" * 5000, "nan", "inf", "1_000", "٣", "²", "1.5", " 1 ", "+1"]
_PATHS = ["/", "/dev/zero", "/etc/passwd", ".", "..", "~", "a/b", "x.toml"]
_COMMANDS = ["run", "matrix", "list", "compare", "report", "answer", "completion", "bash", "-h", "--version"]
hostile = st.sampled_from(HOSTILE_TEXTS)
expressions = st.one_of(
    st.lists(st.sampled_from(_WORDS), max_size=12).map(" ".join), st.sampled_from(_DEEP), hostile, st.text(max_size=30)
)
_known, _knobs, _values = (st.sampled_from(each) for each in (sorted(catalog.names()), _KNOBS, _VALUES))
planes = st.one_of(
    st.builds("{}@{}+{}={}".format, _known, _values, _knobs, _values),
    st.builds("{}@{}={}".format, _known, _knobs, _values),
    st.sampled_from(_PLANES),
    hostile,
    st.text(max_size=30),
)
numbers = st.one_of(
    st.sampled_from(_NUMBERS),
    st.lists(st.integers(-1, 30_000), max_size=40).map(lambda found: ",".join(map(str, found))),
    hostile,
)
NOWHERE = "/nowhere/vmlinuz"
"""Return the arguments with a kernel that does not exist, so that right arguments start nothing."""


@given(expression=expressions)
def test_a_choice_of_checks_is_read_or_refused(expression: str) -> None:
    with suppress(Usage):
        assert checks.select(expression)


@given(plane=planes)
def test_planes_are_known_or_refused(plane: str) -> None:
    with suppress(Usage):
        for found in catalog.select(plane):
            catalog.requires(found)


@given(axes=st.dictionaries(st.sampled_from(sorted(AXES)), numbers, max_size=3), workload=st.none() | hostile)
def test_axes_are_points_or_refused(axes: dict[str, str], workload: str | None) -> None:
    told = [f"--{name}={value}" for name, value in axes.items()] + ([f"--workload={workload}"] if workload else [])
    end(["run", "-d", "nft-lb", "--kernel", NOWHERE, "--dry-run", *told])


_rules = st.one_of(
    st.sampled_from(["x:-5%", "connections_per_second:-5%", "connections_per_second:-5", ",", ":", "%" * 1000]),
    st.builds("connections_per_second:{}%".format, numbers),
    hostile,
)


@given(text=_rules, option=st.sampled_from(["--fail-on", "--allow", "--noise"]))
def test_rules_are_read_or_refused(text: str, option: str) -> None:
    end(["compare", "/nowhere/base.json", "/nowhere/new.json", f"{option}={text}"])


@given(
    option=st.sampled_from(["repeat", "connections", "timeout", "clock", "kernel", "scenario", "output", "jobs"]),
    value=st.one_of(numbers, st.sampled_from(_PATHS)),
)
def test_options_are_read_or_refused(option: str, value: str) -> None:
    told = f"/nowhere/{value}" if option in ("kernel", "output") else value
    end(["run", "-d", "nft-lb", "--kernel", NOWHERE, f"--{option}={told}"])


def test_a_number_that_is_none_or_has_no_end_is_in_no_range() -> None:
    """Without bounds on both sides a time is too long for epoll, and NaN is neither below nor above a bound."""
    ranges = {
        (name, option.name): option.type
        for name, command in main.commands.items()
        for option in command.params
        if isinstance(option.type, click.FloatRange)
    }
    assert {("compare", "noise"), ("run", "precision"), ("run", "timeout"), ("lab", "timeout")} <= ranges.keys()
    for place, each in ranges.items():
        assert each.min is not None, place
        assert each.max is not None, place
        for text in ("nan", "-nan", "inf", "1e9"):
            with pytest.raises(click.BadParameter, match=r"not in the range|not a number"):
                each(text)


_words = st.sampled_from([*_COMMANDS, "-d", "-k", "--", "--json", "all", "checks"])


@given(words=st.lists(st.one_of(_words, hostile), max_size=5))
def test_any_words_end_well(words: list[str]) -> None:
    end([*words, *(["--kernel", NOWHERE] if {"run", "matrix"} & set(words) else [])])


def test_a_kernel_that_is_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    done = end(["lab", "-d", "nft-lb", "--kernel", str(loop), "--", "true"])
    assert done.exit_code == 2
    assert "cannot read the kernel" in done.stderr
