"""The semantics of a service VIP. Each is a function that observes it on a running lab.

A check returns what it saw if the semantic holds, and raises `Differs` with what it saw if it does not. expected.toml
says which outcome is expected on a plane. Names are theme.slug. A source is a statement about swarm's behaviour (D1 to
D46, docs/sources.md), or the thread in which a user met the behaviour.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from heapq import heappop, heappush
from types import ModuleType
from typing import get_args

from msgspec import Struct, structs

from dataplanes import extensions
from dataplanes.errors import BenchError, NotApplicable, Unsupported, Usage
from dataplanes.extensions import Extension
from dataplanes.model import Protocol
from scenarios.checks.world import Differs, World
from scenarios.outcomes import Expected, Outcome
from scenarios.stopwatch import Steadiness

Waiting = Generator[float, None, str]
"""A check that idles. It yields the seconds that it waits, and returns what it saw."""
Observe = Callable[[World], "str | Waiting"]
_NAME = re.compile(r"[a-z0-9-]+\.[a-z0-9-]+")


class Check(Struct, frozen=True):
    """A semantic, its scenario and the function that observes it. `skip` says why it is observed nowhere."""

    name: str
    statement: str
    source: str
    scenario: str
    observe: Observe
    skip: str = ""
    idles: bool = False  # it idles for minutes, so it is observed only where idle time is free
    machine: bool = False  # it changes a limit of the whole machine, so it is observed only where that is the run's own
    obstacle: Callable[[], str] | None = None  # returns why it cannot be observed on the running kernel, or ""
    package: str = ""  # the package that it comes from and its version; none for our own
    any_port: bool = False  # it is about ports that a service does not declare
    in_turn: bool = False  # it counts turns, which a plane that chooses at random has none of
    protocols: tuple[Protocol, ...] = ("tcp",)  # the transports that it cannot do without
    changes: tuple[str, ...] = ()  # methods of a testbed that it calls only after it has had a service created

    @property
    def theme(self) -> str:
        """The first part of the name."""
        return self.name.partition(".")[0]


class Cell(Struct):
    """The outcome of one check on one plane."""

    dataplane: str
    check: str
    outcome: Outcome
    detail: str
    seconds: float  # by the clock of the kernel under test
    expected: Expected = "pass"


CHECKS: dict[str, Check] = {}
"""The checks whose modules are imported: our own, and those of other packages after `known` or `named`."""


def check(
    name: str,
    source: str,
    *,
    scenario: str = "matrix",
    skip: str = "",
    idles: bool = False,
    machine: bool = False,
    obstacle: Callable[[], str] | None = None,
    any_port: bool = False,
    in_turn: bool = False,
    protocols: tuple[Protocol, ...] = ("tcp",),
    changes: tuple[str, ...] = (),
) -> Callable[[Observe], Observe]:
    """Enter a function as a check. Its docstring is the statement that holds or does not hold."""

    def enter(observe: Observe) -> Observe:
        if name in CHECKS:
            raise Usage(f"there is a check {name} already", where=observe.__module__)
        statement = " ".join((observe.__doc__ or "").split())
        CHECKS[name] = Check(
            name,
            statement,
            source,
            scenario,
            observe,
            skip,
            idles,
            machine,
            obstacle,
            any_port=any_port,
            in_turn=in_turn,
            protocols=protocols,
            changes=changes,
        )
        return observe

    return enter


def known() -> Mapping[str, Check]:
    """Return all checks by name. Raises Prerequisite if another package's checks cannot be used."""
    for each in extensions.group(extensions.CHECKS):
        _enter(each)
    return CHECKS


def named(names: Iterable[str]) -> list[Check]:
    """Return checks by their names. Other packages are imported only if a check is not one of our own."""
    names = list(names)
    found = CHECKS if all(name in CHECKS for name in names) else known()
    return [found[name] for name in names]


@cache
def _enter(extension: Extension) -> None:
    """Import a module of checks, which enters them. If it cannot be used, neither it nor a check of it stays."""
    before = dict(CHECKS)
    try:
        module = extension.load()
        if not isinstance(module, ModuleType):
            raise extension.refused(f"it is no module, but {type(module).__name__}")
        own = {name: each for name, each in CHECKS.items() if _of(each, module.__name__)}
        if not own:
            raise extension.refused("it enters no check")
        for name, each in own.items():
            if not _NAME.fullmatch(name) or not each.statement:
                raise extension.refused(f"{name!r} is not THEME.NAME, or its function has no docstring")
            CHECKS[name] = structs.replace(each, package=extension.package)
    except BenchError:
        CHECKS.clear()
        CHECKS.update(before)
        sys.modules.pop(extension.value, None)
        raise


def _of(each: Check, module: str) -> bool:
    return f"{each.observe.__module__}.".startswith(f"{module}.")


def skipped(
    each: Check,
    clock: str,
    any_port: bool = True,
    in_turn: bool = True,
    protocols: Collection[Protocol] = get_args(Protocol),
) -> str:
    """Return why a check is not observed on the running kernel, or for a plane that lacks what it needs, or ""."""
    if each.any_port and not any_port:
        return "not applicable: it needs any port, and the plane serves declared ports only"
    if each.in_turn and not in_turn:
        return "not applicable: it counts turns, and the plane chooses at random"
    if lacking := [needed for needed in each.protocols if needed not in protocols]:
        return f"not applicable: it needs {lacking[0]}, which the plane does not serve"
    if each.idles and clock != "instructions":
        return "it idles for minutes, which only the instruction clock makes free"
    if each.machine and clock != "instructions":  # only guests have that clock
        return "it changes a limit of the whole machine, which is done only in a guest under the instruction clock"
    return each.skip or (each.obstacle() if each.obstacle else "")


def observe(wanted: Sequence[Check], world: World, dataplane: str) -> Iterator[Cell]:
    """Yield a cell for each check when it ends.

    Checks that idle do so side by side: an hour for all of them is one hour.
    """
    with world.at_rest() if any(each.idles for each in wanted) else nullcontext():
        yield from _side_by_side(wanted, world, dataplane)


def _side_by_side(wanted: Sequence[Check], world: World, dataplane: str) -> Iterator[Cell]:
    begun, clock = time.monotonic(), Steadiness()
    queue: list[tuple[float, int, _Observation]] = []
    for number, each in enumerate(wanted):
        heappush(queue, (0.0, number, _Observation(each, world.sibling())))
    while queue:
        due, number, run = heappop(queue)
        time.sleep(max(begun + due - time.monotonic(), 0))
        outcome, found = run.go_on()
        if isinstance(found, float):
            heappush(queue, (due + found, number, run))
        else:
            run.world.close()
            if broken := clock.broken():
                outcome, found = "error", f"{broken}; seen was: {outcome}: {found}"
            yield Cell(dataplane, run.check.name, outcome, found, time.monotonic() - begun)


class _Observation:
    """One check that is under way."""

    def __init__(self, check: Check, world: World) -> None:
        self.check = check
        self.world = world
        self._waiting: Waiting | None = None

    def go_on(self) -> tuple[Outcome, str | float]:
        """Run the check until it ends or waits. Return the outcome and what was seen, or the seconds that it waits.

        An error of the testbed or of the plane is an error. An error of the connection under test is a difference, and
        so is a plane that by its nature cannot do it. What the testbed does not have is not applicable.
        """
        world = self.world
        try:
            return "pass", self._step()
        except Differs as differs:
            return "fail", str(differs)
        except (FileExistsError, FileNotFoundError) as error:  # files of the lab, not the network under test
            return "error", f"{error}; last: {world.doing}"
        except OSError as error:
            return "fail", f"{type(error).__name__}: {error}; last: {world.doing}"
        except NotApplicable as error:
            return "skip", f"not applicable: {error}"
        except Unsupported as error:
            return "fail", f"{error}; last: {world.doing}"
        except BenchError as error:
            return "error", f"{error}; last: {world.doing}"
        except Exception as error:  # a fault of the check itself must not end the other cells
            return "error", f"{type(error).__name__}: {error}; last: {world.doing}"

    def _step(self) -> str | float:
        if self._waiting is None:
            self.world.demand_changes(*self.check.changes)
            found = self.check.observe(self.world)
            if isinstance(found, str):
                return found
            self._waiting = found
        try:
            return float(next(self._waiting))
        except StopIteration as end:
            return str(end.value)


def select(expression: str) -> list[Check]:
    """Return the checks whose names match an expression like pytest's -k: words, and, or, not, parentheses.

    Raises Usage if the expression cannot be read or selects nothing.
    """
    found = [each for each in known().values() if not expression or _matches(expression, each.name)]
    if not found:
        raise Usage(f"no check matches {expression!r}", fix="`bench list checks` shows them")
    return found


_LONGEST = 1000
"""The largest number of characters in an expression. All names of checks together are not much longer."""


def _matches(expression: str, name: str) -> bool:
    import ast

    def value(node: ast.expr) -> bool:
        if isinstance(node, ast.BoolOp):
            return (all if isinstance(node.op, ast.And) else any)(map(value, node.values))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return not value(node.operand)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value in name
        raise SyntaxError("only words, and, or, not and parentheses")

    if len(expression) > _LONGEST:
        raise Usage(f"cannot read -k {expression[:20]!r}...", why=f"it is longer than {_LONGEST} characters")
    quoted = re.sub(r"[\w.-]+", lambda word: word[0] if word[0] in ("and", "or", "not") else repr(word[0]), expression)
    try:
        if not re.fullmatch(r"[\w.\-() ]*", expression):
            raise SyntaxError("only words, and, or, not and parentheses")
        return value(ast.parse(quoted, mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError) as error:  # MemoryError: the stack of the parser is full
        raise Usage(f"cannot read -k {expression!r}", why=getattr(error, "msg", "it is nested too deeply")) from error


def scenarios(checks: Iterable[Check]) -> list[str]:
    """Return the scenarios that the checks need, in order."""
    return list(dict.fromkeys(each.scenario for each in checks))


from scenarios.checks import (  # noqa: E402
    balance,  # noqa: F401
    change,  # noqa: F401
    client,  # noqa: F401
    disturb,  # noqa: F401
    icmp,  # noqa: F401
    identity,  # noqa: F401
    idle,  # noqa: F401
    leavings,  # noqa: F401
    limits,  # noqa: F401
    nodes,  # noqa: F401
    order,  # noqa: F401
    reach,  # noqa: F401
    removal,  # noqa: F401
    server,  # noqa: F401
    tcp,  # noqa: F401
    visible,  # noqa: F401
)
