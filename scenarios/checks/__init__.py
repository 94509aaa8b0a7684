"""The semantics of a service VIP, one function each, observed on a running lab.

A check returns what it saw where the semantic holds, and raises `Differs` with what it saw where it does not. Whether
that is as expected on a plane is in expected.toml. Names are theme.slug; the sources are rows of research on swarm's
behaviour (D1 to D46) or the thread in which a user met it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Literal

from msgspec import Struct

from dataplanes.errors import BenchError, Usage
from scenarios.checks.world import Differs, World

Outcome = Literal["pass", "fail", "skip", "error"]


class Check(Struct, frozen=True):
    """A semantic, the scenario it is observed in, and how. `skip` says why it is observed nowhere."""

    name: str
    statement: str
    source: str
    scenario: str
    observe: Callable[[World], str]
    skip: str = ""
    idles: bool = False  # for minutes: only where idle time is free

    @property
    def theme(self) -> str:
        """The first part of the name."""
        return self.name.partition(".")[0]


class Cell(Struct):
    """What one check saw on one plane."""

    dataplane: str
    check: str
    outcome: Outcome
    detail: str
    seconds: float  # by the clock of the kernel under test
    expected: Literal["pass", "fail", "skip"] = "pass"


CHECKS: dict[str, Check] = {}


def check(
    name: str, source: str, *, scenario: str = "matrix", skip: str = "", idles: bool = False
) -> Callable[[Callable[[World], str]], Callable[[World], str]]:
    """Enter a function as a check; its docstring is the statement that holds or does not."""

    def enter(observe: Callable[[World], str]) -> Callable[[World], str]:
        statement = " ".join((observe.__doc__ or "").split())
        CHECKS[name] = Check(name, statement, source, scenario, observe, skip, idles)
        return observe

    return enter


def skipped(each: Check, clock: str) -> str:
    """Why a check is not observed at all, or nothing."""
    if each.idles and clock != "instructions":
        return "it idles for minutes, which only the instruction clock makes free"
    return each.skip


def observe(each: Check, world: World, dataplane: str) -> Cell:
    """One cell. An error of the lab or the plane is an error; of the connection under test, a difference."""
    start = time.monotonic()
    outcome: Outcome
    try:
        outcome, detail = "pass", each.observe(world)
    except Differs as differs:
        outcome, detail = "fail", str(differs)
    except (FileExistsError, FileNotFoundError) as error:  # the lab's files, not the network under test
        outcome, detail = "error", f"{error}; last: {world.doing}"
    except OSError as error:
        outcome, detail = "fail", f"{type(error).__name__}: {error}; last: {world.doing}"
    except BenchError as error:
        outcome, detail = "error", f"{error}; last: {world.doing}"
    except Exception as error:  # a fault of the check's own must not take the other cells along
        outcome, detail = "error", f"{type(error).__name__}: {error}; last: {world.doing}"
    world.settle()
    return Cell(dataplane, each.name, outcome, detail, time.monotonic() - start)


def select(expression: str) -> list[Check]:
    """The checks whose names contain the words of an expression like pytest's -k: and, or, not, parentheses.

    Raises Usage if it cannot be read or selects nothing.
    """
    found = [each for each in CHECKS.values() if not expression or _matches(expression, each.name)]
    if not found:
        raise Usage(f"no check matches {expression!r}", fix="`bench list checks` shows them")
    return found


def _matches(expression: str, name: str) -> bool:
    import ast
    import re

    def value(node: ast.expr) -> bool:
        if isinstance(node, ast.BoolOp):
            return (all if isinstance(node.op, ast.And) else any)(map(value, node.values))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return not value(node.operand)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value in name
        raise SyntaxError("only words, and, or, not and parentheses")

    quoted = re.sub(r"[\w.-]+", lambda word: word[0] if word[0] in ("and", "or", "not") else repr(word[0]), expression)
    try:
        return value(ast.parse(quoted, mode="eval").body)
    except SyntaxError as error:
        raise Usage(f"cannot read -k {expression!r}", why=error.msg) from error


def scenarios(checks: Iterable[Check]) -> list[str]:
    """The scenarios they need, in order."""
    return list(dict.fromkeys(each.scenario for each in checks))


from scenarios.checks import balance, change, icmp, identity, idle, limits, reach, visible  # noqa: E402, F401
