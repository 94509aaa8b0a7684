"""Which tests in namespaces run on this machine's own kernel: those whose planes that kernel can run.

A test names planes as parameters, or by the marker `planes`. A guest is emulated, so its processor takes twenty times
as long. Tests of a plane that the machine's own kernel has run there, and the guests, whose kernel has everything, run
the others. The process that deals the tests out knows the machine; its workers, which may be in guests, are told the
names of the planes.
"""

from __future__ import annotations

from typing import Any

import pytest

from bench import api
from dataplanes import catalog, selection

OPTION = "--on"
_PLANES = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        OPTION,
        choices=("machine", "guests"),
        help="run only the tests of planes that this machine's own kernel can run, "
        "or only the other tests; without it, all of them",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption(OPTION):
        told = getattr(config, "workerinput", None)
        config.stash[_PLANES] = told["native"] if told else api.runnable("all")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker which planes the machine can run (pytest-xdist calls this for each worker)."""
    node.workerinput["native"] = node.config.stash.get(_PLANES, [])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    where = config.getoption(OPTION)
    if not where:
        return
    native = config.stash[_PLANES]
    chosen: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        chosen[_runs_natively(item, native) == (where == "machine")].append(item)
    items[:] = chosen[True]
    config.hook.pytest_deselected(items=chosen[False])


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Those that were asked for (-k) may all run in the other place, and so may all if the machine can run no plane."""
    if session.config.getoption(OPTION) and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK


def _runs_natively(item: pytest.Item, native: list[str]) -> bool:
    """Return True if a test names planes, the machine can run them, and no limit of it is changed."""
    if item.get_closest_marker("machine"):
        return False
    marker = item.get_closest_marker("planes")
    named = item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
    planes = [selection.split(each)[0] for each in named if isinstance(each, str)]
    planes = [each for each in planes if each in catalog.names()] + list(marker.args if marker else ())
    return bool(planes) and all(each in native for each in planes)
