"""Packages of planes: apt finds them, they are unpacked into the cache under a seal, and every document tells them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bench.documents.parts import Named, ToldPackage
from bench.kernels import Kernel, apt, suites
from bench.outside import provenance
from bench.outside.choose import choose
from bench.prepare import preflight, unpacked
from bench.report import model
from dataplanes import catalog, packages, paths
from dataplanes.errors import Prerequisite
from dataplanes.requirements import Tool, Unpacked
from dataplanes.selection import Selection

_APT_GET = """#!/bin/sh
echo "$@" >>"$(dirname "$0")/asked"
case "$1" in
update)
    for each; do case "$each" in
        Dir::State::Lists=*) [ -e "$(dirname "$0")/offline" ] || : >"${each#*=}/deb_dists_newer_main_Packages" ;;
    esac; done ;;
install)
    case "$*" in *gone*) echo 'E: Unable to locate package gone' >&2; exit 100 ;; esac
    cat "$(dirname "$0")/offered" ;;
download)
    shift 2
    while [ "$1" = -o ]; do shift 2; done
    for each; do cp "$(dirname "$0")/${each%%=*}.deb" "${each%%=*}_${each#*=}_amd64.deb" || exit 100; done ;;
esac
"""
_OFFERED = """Reading package lists...
NOTE: This is only a simulation!
Inst libpeer2 (2.0-1 Debian:12.12/oldstable [amd64])
Inst peer [1.0-1] (1.1-2+deb12u1 Debian:12.12/oldstable, Debian-Security:12/oldstable-security [amd64])
Conf libpeer2 (2.0-1 Debian:12.12/oldstable [amd64])
Conf peer (1.1-2+deb12u1 Debian:12.12/oldstable, Debian-Security:12/oldstable-security [amd64])
"""
_PLANE = """name = "mine"
summary = "a plane of my own"
placement = "lb"
command = "peer-for-bench"

[needs]
packages = ["peer"]
"""


def _deb(directory: Path, name: str, files: dict[str, str]) -> None:
    """Make a package, as dpkg-deb does for a distribution."""
    root = directory / f"{name}.d"
    control = f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: n <n@example.org>\nDescription: a peer\n"
    for path, content in {"DEBIAN/control": control, **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content, "utf-8")
        (root / path).chmod(0o755 if "bin/" in path else 0o644)
    (root / "usr" / "share").mkdir(parents=True, exist_ok=True)
    (root / "usr" / "share" / "nowhere").symlink_to("/dev/null")
    (root / "usr" / "share" / "doc").mkdir()
    subprocess.run(("dpkg-deb", "-b", root, directory / f"{name}.deb"), check=True, capture_output=True)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution whose apt offers a peer with a library."""
    made = tmp_path / "archive"
    made.mkdir()
    (made / "apt-get").write_text(_APT_GET)
    (made / "apt-get").chmod(0o755)
    (made / "apt-cache").write_text(
        "#!/bin/sh\necho '     release v=12.12,o=Debian,a=oldstable,n=own,l=Debian,c=main'\n"
    )
    (made / "apt-cache").chmod(0o755)
    (made / "offered").write_text(_OFFERED)
    _deb(made, "peer", {"usr/sbin/peer-for-bench": "#!/bin/sh\necho it is $0\n"})
    _deb(made, "libpeer2", {"usr/lib/x86_64-linux-gnu/libpeer.so.2": "", "lib/libold.so": ""})
    monkeypatch.setenv("PATH", f"{made}:/usr/sbin:/usr/bin:/sbin:/bin")
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    unpacked._resolved.cache_clear()
    return made


@pytest.fixture
def mine(archive: Path, tmp_path: Path) -> Selection:
    (tmp_path / "mine.toml").write_text(_PLANE, "utf-8")
    return catalog.select(f"{tmp_path}/mine.toml")[0]


def asked(archive: Path) -> list[str]:
    path = archive / "asked"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def test_apt_tells_exact_versions_and_suites(archive: Path) -> None:
    assert apt.resolve(["peer"]) == [
        apt.DebianPackage("libpeer2", "2.0-1", "Debian:12.12/oldstable"),
        apt.DebianPackage("peer", "1.1-2+deb12u1", "Debian:12.12/oldstable, Debian-Security:12/oldstable-security"),
    ]
    assert "--simulate" in (archive / "asked").read_text(), "nothing is installed"


def test_they_are_unpacked_once_and_not_installed(archive: Path, mine: Selection) -> None:
    needs = catalog.requires(mine)
    assert needs[-1] == Unpacked("peer", "the plane file of mine names it") or Unpacked in map(type, needs)
    assert not [need for need in needs if isinstance(need, Tool)], "the program comes with its package"
    unpacked.fetch(needs)
    root = paths.unpacked(["peer"]) / "root"
    assert (root / "usr/sbin/peer-for-bench").exists()
    assert os.readlink(root / "usr/share/nowhere") == "/dev/null"
    assert not (root / "usr/share/doc").exists()
    assert asked(archive) == ["install", "download"]
    unpacked.fetch(needs)
    assert asked(archive) == ["install", "download"], "a sealed directory is used as it is"
    assert unpacked.obstacle(["peer"]) == ("", "")
    assert asked(archive) == ["install", "download"]


def test_a_suite_that_the_machine_lacks_has_a_folder_of_sources_of_its_own(archive: Path) -> None:
    assert suites.options(["peer", "tool"]) == [], "no suite is named"
    assert suites.options(["peer/own", "tool/oldstable"]) == [], "the machine's own apt knows it"
    unpacked.fetch([Unpacked("peer/newer libpeer2", "a test")])
    folder = paths.cache() / "apt" / "newer"
    assert "/debian newer main" in (folder / "sources" / "bench-suites.list").read_text()
    assert "Pin: release n=newer\nPin-Priority: 100" in (folder / "preferences").read_text()
    assert (paths.cache() / "packages" / "libpeer2_peer@newer" / "root/usr/sbin/peer-for-bench").exists()
    told = [
        line for line in (archive / "asked").read_text().splitlines() if f"Dir::State::Lists={folder}/lists" in line
    ]
    assert [line.split()[0] for line in told] == ["update", "install", "download"], "each with the folder's options"


def test_the_folder_of_a_suite_is_not_taken_from_an_apt_that_reads_it(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sources follow the machine's, and what is the same stays."""
    own = tmp_path / "own"
    (own / "sources.list.d").mkdir(parents=True)
    for name in ("one.list", "two.sources", "no.save"):
        (own / "sources.list.d" / name).touch()
    monkeypatch.setattr(suites, "_OWN", own)
    folder = paths.cache() / "apt" / "newer" / "sources"
    suites.options(["peer/newer"])
    assert sorted(each.name for each in folder.iterdir()) == ["bench-suites.list", "one.list", "two.sources"]
    before = (folder / "one.list").lstat().st_ino
    (own / "sources.list.d" / "two.sources").unlink()
    (own / "sources.list").touch()
    suites.options(["peer/newer"])
    assert sorted(each.name for each in folder.iterdir()) == ["bench-suites.list", "one.list", "sources.list"]
    assert (folder / "one.list").lstat().st_ino == before


def test_a_suite_that_is_out_of_reach_is_told(archive: Path) -> None:
    (archive / "offline").touch()
    with pytest.raises(Prerequisite, match="packages of newer not to be had here"):
        unpacked.fetch([Unpacked("peer/newer", "a test")])
    assert unpacked.obstacle(["peer/newer"])[1].startswith("connect this machine")


def test_a_damaged_one_is_made_anew(archive: Path, mine: Selection) -> None:
    unpacked.fetch(catalog.requires(mine))
    root = paths.unpacked(["peer"]) / "root"

    def elsewhere() -> None:
        (root / "usr/share/nowhere").unlink()
        (root / "usr/share/nowhere").symlink_to("/dev/zero")

    for damage in (lambda: (root / "usr/sbin/peer-for-bench").write_text("#!/bin/sh\n"), elsewhere):
        damage()
        unpacked.fetch(catalog.requires(mine))
        assert "echo" in (root / "usr/sbin/peer-for-bench").read_text()
        assert os.readlink(root / "usr/share/nowhere") == "/dev/null"


def test_a_program_finds_what_was_unpacked_before_what_the_machine_has(archive: Path, mine: Selection) -> None:
    unpacked.fetch(catalog.requires(mine))
    root = paths.unpacked(["peer"]) / "root"
    given = {"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": ""}
    found = packages.environment(["peer"], given)
    assert found == {
        "PLANE_PACKAGES": str(root),
        "PATH": f"{root}/usr/sbin:/usr/bin:/bin",
        "LD_LIBRARY_PATH": f"{root}/usr/lib/x86_64-linux-gnu:{root}/usr/lib:{root}/lib",
    }
    said = subprocess.run(("sh", "-c", "peer-for-bench"), env=found, capture_output=True, text=True, check=True)
    assert said.stdout == f"it is {root}/usr/sbin/peer-for-bench\n"
    assert packages.environment([], given) == {}


def test_every_document_tells_their_versions_and_suites(
    archive: Path, mine: Selection, machine: dict[str, Kernel]
) -> None:
    before = provenance.identity(machine["debian-6.12"], [mine])
    unpacked.fetch(catalog.requires(mine))
    named = msgspec.convert(provenance.planes([mine])[0], Named)
    assert named.program
    assert ToldPackage("libpeer2", "2.0-1", "Debian:12.12/oldstable") in named.program.packages
    assert "(libpeer2 2.0-1, peer 1.1-2+deb12u1)" in model._summary("mine", named), "the report tells them"
    after = provenance.identity(machine["debian-6.12"], [mine])
    assert {name: told for name, told in after.items() if before.get(name) != told} == {
        "mine: packages": "libpeer2 2.0-1, peer 1.1-2+deb12u1"
    }, "another version is another run"


def _none(archive: Path) -> None:
    (archive / "apt-get").write_text("#!/bin/sh\necho 'E: Unable to locate package peer' >&2\nexit 100\n")


def _silent(archive: Path) -> None:
    (archive / "offered").write_text("peer is already the newest version\n")


def _newer(archive: Path) -> None:
    (archive / "offered").write_text(_OFFERED + "Inst libc6 [2.36-9] (2.41-2 Debian:13/stable [amd64])\n")


def _no_apt(archive: Path) -> None:
    (archive / "apt-get").unlink()
    os.environ["PATH"] = str(archive)


LACKING: dict[str, tuple[Callable[[Path], None], str]] = {
    "unknown": (_none, "Unable to locate package peer"),
    "not offered": (_silent, "apt does not offer peer"),
    "too new": (_newer, "they need a newer C library than this machine has"),
    "without apt": (_no_apt, "there is no apt"),
}


@pytest.mark.parametrize("name", LACKING)
def test_a_machine_that_cannot_have_them_says_so(
    name: str, archive: Path, mine: Selection, machine: dict[str, Kernel]
) -> None:
    spoil, says = LACKING[name]
    spoil(archive)
    with pytest.raises(Prerequisite, match=r"peer not to be had here") as caught:
        unpacked.fetch(catalog.requires(mine))
    assert says in str(caught.value)
    assert caught.value.fix
    (found,) = preflight.missing(catalog.requires(mine), machine["debian-6.12"])
    assert (found.what, says in found.why, bool(found.fix)) == ("peer", True, True)


def test_another_kernel_is_no_help(
    archive: Path, mine: Selection, machine: dict[str, Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    _none(archive)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    machine["host"] = machine["debian-6.12"]
    with pytest.raises(Prerequisite, match=r"Unable to locate package peer \(run apt-get update as root"):
        choose("host", None, [mine])


def test_a_download_that_does_not_come_leaves_nothing(archive: Path, mine: Selection) -> None:
    (archive / "libpeer2.deb").unlink()
    with pytest.raises(Prerequisite, match=r"cannot download libpeer2=2\.0-1"):
        unpacked.fetch(catalog.requires(mine))
    assert list(paths.unpacked(["peer"]).parent.iterdir()) == []
