"""Planes and checks of other packages: found by their entry points, imported when used, refused when they cannot be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.documents import Matrix, MatrixCell
from bench.report.model import Report
from dataplanes import catalog, extensions
from dataplanes.errors import Prerequisite
from dataplanes.extensions import CHECKS, EXPECTED, PLANES, Extension
from scenarios import checks, expectations
from tests.conftest import ROOT
from tests.unit.test_completion import completed

GOOD = """
from msgspec import Struct
from dataplanes.nft import Nft
from dataplanes.placements import ContainerPlacement
from dataplanes.recipe import Part, Recipe
PLANE = Recipe("theirs", "a plane of theirs", lambda knobs: (Part(ContainerPlacement), Part(Nft)), {"": Struct()})
"""
CHECK = """
from scenarios.checks import check
@check("theirs.holds", "this test")
def holds(world):
    "It holds."
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a module where python finds it, and make its entry points known."""
    known: list[Extension] = []
    before = dict(checks.CHECKS), set(sys.modules)

    def put(source: str, *points: tuple[str, str, str], package: str = "theirs 2.1", expected: str = "") -> None:
        module = f"theirs{len(known)}"
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").write_text(source)
        (tmp_path / module / "expected.toml").write_text(expected)
        known.extend(Extension(group, name, value.format(module), package) for group, name, value in points)

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(extensions, "_told", known)
    expectations.load.cache_clear()
    checks._enter.cache_clear()
    yield put
    expectations.load.cache_clear()
    checks._enter.cache_clear()
    checks.CHECKS.clear()
    checks.CHECKS.update(before[0])
    for name in set(sys.modules) - before[1]:
        if name.startswith("theirs"):
            del sys.modules[name]


def test_a_plane_of_another_package_is_one_like_ours(install: Install) -> None:
    install(GOOD, (PLANES, "theirs", "{}:PLANE"))
    assert catalog.names()[-1] == "theirs"
    assert "theirs0" not in sys.modules  # its name is known, and it is not imported for that
    (selection,) = catalog.select("theirs")
    assert (selection.package, selection.placement) == ("theirs 2.1", "container")
    assert catalog.requires(selection)
    assert catalog.select("all")[-1] == selection
    assert [each.package for each in catalog.select("nft-lb,direct")] == ["", ""]


PLANE = {
    "is not installed": ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
    "ends python": ("raise SystemExit(5)", "SystemExit: 5"),
    "is no python": ("def", "SyntaxError: "),
    "is not there": ("", "AttributeError: module 'theirs0' has no attribute 'PLANE'"),
    "is no recipe": ("PLANE = 3", "it is no Recipe, but int"),
    "has another name": (GOOD.replace('"theirs"', '"ours"'), "its recipe is called 'ours'"),
    "has no default": (GOOD.replace('{"": Struct()}', "{}"), "its default variant '' is none of its variants"),
    "has knobs of no kind": (GOOD.replace('{"": Struct()}', '{"": 1}'), "variant '': its knobs are no msgspec.Struct"),
    "has one part": (GOOD.replace(", Part(Nft)", ","), "variant '': TypeError: "),
    "has parts the wrong way": (GOOD.replace("Part(Nft)", "Part(ContainerPlacement)"), "its parts are no Part of a"),
    "has a made part": (GOOD.replace("Part(Nft)", "Nft()"), "its parts are no Part of a Placement and Part of a Mecha"),
    "takes no such argument": (GOOD.replace("Part(Nft)", "Part(Nft, 1, 2)"), "variant '': TypeError: "),
    "is not whole": (
        GOOD + "class Half(Nft.__mro__[1]): name = 'half'\nPLANE = Recipe('theirs', '', lambda knobs: "
        "(Part(ContainerPlacement), Part(Half)), {'': Struct()})",
        "Half does not define open, requires",
    ),
    "requires what is no requirement": (
        GOOD + "class Odd(Nft):\n  @classmethod\n  def requires(cls): return ('iptables',)\nPLANE = Recipe("
        "'theirs', '', lambda knobs: (Part(ContainerPlacement), Part(Odd)), {'': Struct()})",
        "Odd requires 'iptables', which is no Requirement",
    ),
}


@pytest.mark.parametrize("name", PLANE)
def test_a_plane_that_cannot_be_used_is_refused_by_the_name_of_its_package(name: str, install: Install) -> None:
    source, why = PLANE[name]
    install(source, (PLANES, "theirs", "{}:PLANE"))
    for text in ("theirs", "all", "theirs+knob=1"):
        with pytest.raises(Prerequisite) as refused:
            catalog.select(text)
        assert str(refused.value).startswith("theirs 2.1 (entry point theirs = theirs0:PLANE in vip_bench.dataplanes)")
        assert why in refused.value.why
        assert refused.value.fix == "repair the package, or pip uninstall theirs"
    assert catalog.select("nft-lb")  # what does not need the package goes on


def test_names_are_completed_though_a_package_cannot_be_used(install: Install) -> None:
    install(GOOD, (PLANES, "theirs", "{}:PLANE"))
    install("import no_such_library", (PLANES, "broken", "{}:PLANE"), (CHECKS, "any", "{}"))
    assert completed("run", "-d", "the") == ["theirs"]
    assert completed("run", "-d", "bro") == ["broken"]
    assert completed("run", "-d", "broken+") == []
    assert "nft-lb@random" in completed("run", "-d", "nft-lb@r")
    assert completed("matrix", "-k", "reach") == []


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nft-lb", "there is a data plane nft-lb already"),
        ("direct", "there is a data plane direct already"),
        ("all", "there is a data plane all already"),
        ("a@b", "'a@b' is no name of a data plane"),
        ("A,b", "'A,b' is no name of a data plane"),
    ],
)
def test_a_name_that_is_taken_or_none_is_refused_whatever_is_selected(name: str, why: str, install: Install) -> None:
    """Whoever installed it would be given our plane for theirs."""
    install(GOOD, (PLANES, name, "{}:PLANE"))
    for text in ("nft-lb", "ipvs-lb"):
        with pytest.raises(Prerequisite, match=why):
            catalog.select(text)


def test_two_packages_cannot_have_one_name(install: Install) -> None:
    install(GOOD, (PLANES, "theirs", "{}:PLANE"))
    install(GOOD, (PLANES, "theirs", "{}:PLANE"), package="another 3")
    with pytest.raises(Prerequisite, match=r"theirs 2\.1 has a data plane theirs, too"):
        catalog.names()


def test_a_check_of_another_package_is_one_like_ours(install: Install) -> None:
    install(CHECK, (CHECKS, "any", "{}"))
    assert checks.named(["reach.any-port"])[0].package == ""
    assert "theirs0" not in sys.modules
    (found,) = checks.select("theirs")
    assert (found.name, found.statement, found.package) == ("theirs.holds", "It holds.", "theirs 2.1")
    assert checks.named(["theirs.holds"]) == [found]


CHECK_FAULTS = {
    "is not installed": ("import no_such_library", "ModuleNotFoundError"),
    "is taken": (CHECK + CHECK.replace("theirs.holds", "reach.any-port"), "there is a check reach.any-port already"),
    "is there twice": (CHECK + CHECK, "there is a check theirs.holds already"),
    "has no checks": ("", "it enters no check"),
    "has no statement": (CHECK.replace('"It holds."', "pass"), "its function has no docstring"),
    "has no theme": (CHECK.replace("theirs.holds", "holds"), "'holds' is not THEME.NAME"),
}


@pytest.mark.parametrize("name", CHECK_FAULTS)
def test_checks_that_cannot_be_used_are_refused_and_none_of_them_stays(name: str, install: Install) -> None:
    source, why = CHECK_FAULTS[name]
    install(source, (CHECKS, "any", "{}"))
    before = dict(checks.CHECKS)
    for _ in range(2):
        with pytest.raises(Prerequisite, match=r"theirs 2\.1") as refused:
            checks.select("")
        assert why in refused.value.why
        assert before == checks.CHECKS


def test_a_module_is_asked_for_and_nothing_in_it(install: Install) -> None:
    install(CHECK, (CHECKS, "any", "{}:holds"))
    with pytest.raises(Prerequisite, match="it is no module, but function"):
        checks.select("")


def difference(plane: str, check: str) -> str:
    return f'[[difference]]\nplanes = ["{plane}"]\nchecks = ["{check}"]\nreason = "of its nature"\n'


@pytest.mark.parametrize(
    ("plane", "check"), [("theirs", "reach.any-port"), ("theirs+x=1", "reach.any-port"), ("nft-lb", "theirs.holds")]
)
def test_a_package_says_what_is_expected_of_its_own(plane: str, check: str, install: Install) -> None:
    points = (PLANES, "theirs", "{}:PLANE"), (CHECKS, "any", "{}"), (EXPECTED, "any", "{}")
    install(GOOD + CHECK, *points, expected=difference(plane, check))
    found = expectations.load()[-1]
    assert (found.planes, found.checks, found.reason) == ([plane], [check], "of its nature")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (difference("nft-lb", "reach.any-port"), "neither its own planes nor its own checks: reach.any-port on nft-lb"),
        ("[[difference]]\n", "Object missing required field `checks`"),
        ("[[", "expected.toml: "),
    ],
)
def test_what_a_package_must_not_expect_is_refused(text: str, why: str, install: Install) -> None:
    install(GOOD, (PLANES, "theirs", "{}:PLANE"), (EXPECTED, "any", "{}"), expected=text)
    with pytest.raises(Prerequisite, match=r"theirs 2\.1") as refused:
        expectations.load()
    assert why in refused.value.why


def test_the_files_of_a_package_are_known_so_that_a_change_begins_a_run_anew(install: Install) -> None:
    install(GOOD, (PLANES, "theirs", "{}:PLANE"))
    (point,) = extensions.group(PLANES)
    assert [path.name for path in point.files()] == ["__init__.py"]
    assert [path.name for path in Extension(PLANES, "x", "shlex:split", "stdlib").files()] == ["shlex.py"]
    assert Extension(PLANES, "x", "no_such_module:x", "none").files() == []


def test_a_report_tells_the_placement_of_a_plane_whose_package_is_not_installed() -> None:
    cell = MatrixCell("guest", "theirs+x=1", "reach.any-port", "pass", "pass", "seen", 0.0)
    plane = {"name": "theirs+x=1", "dataplane": "theirs", "placement": "lb", "package": "theirs 2.1"}
    report = Report([], [("m.json", Matrix({}, {}, {"dataplanes": [plane], "checks": []}, [cell]))])
    assert report.placement("theirs+x=1") == "lb"
    assert report.placement("others@y") == "unknown"
    assert report.placement("nft-lb@random") == "lb"
    assert [each.summary for each in report.verdicts()] == [""]


def _python(*argv: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    paths = ":".join(str(each) for each in (path, ROOT) if each)
    env = {"PYTHONPATH": paths, "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, check=False, env=env, cwd="/")


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    """A directory with an installed package, as pip leaves it."""
    (tmp_path / "theirs.py").write_text("import no_such_library\n")
    info = tmp_path / "theirs-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 2.1\n")
    (info / "entry_points.txt").write_text("[vip_bench.dataplanes]\ntheirs = theirs:PLANE\n")
    return tmp_path


def test_the_program_tells_in_a_line_which_package_is_at_fault(metadata: Path) -> None:
    done = _python("-m", "bench", "list", "dataplanes", path=metadata)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "bench: theirs 2.1 (entry point theirs = theirs:PLANE in vip_bench.dataplanes): an installed package cannot be "
        "used: ModuleNotFoundError: No module named 'no_such_library' (repair the package, or pip uninstall theirs)\n"
    )
    done = _python("-m", "bench", "list", "workloads", path=metadata)  # which need nothing of it
    assert (done.returncode, done.stderr) == (0, "")


def test_metadata_are_read_when_a_plane_is_selected_and_not_at_the_start() -> None:
    for module in ("bench.api", "bench.inside.main", "bench.cli.main"):
        done = _python("-c", f"import sys, {module}; print('importlib.metadata' in sys.modules)")
        assert done.stdout == "False\n", module


def test_the_kernel_under_test_reads_no_metadata(metadata: Path) -> None:
    told = "import sys; from dataplanes import catalog, extensions; extensions.adopt([]); "
    done = _python(
        "-c", f"{told} print('theirs' in catalog.names(), 'importlib.metadata' in sys.modules)", path=metadata
    )
    assert done.stdout == "False False\n"
