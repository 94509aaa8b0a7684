"""A plane file is a data plane like any row of the catalog, and each of its faults is told with line and field."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from dataplanes import catalog, plane_file
from dataplanes.errors import Usage
from dataplanes.program import ProgramMechanism
from dataplanes.requirements import Executable, Feature, Tool, Unpacked

GOOD = """name = "mine"
summary = "a plane of my own"
placement = "lb"
command = ["./mine", "--quick"]
ports = "declared"
protocols = ["tcp"]
scheduler = "random"
serve = true
timeout = 5
expected = "differences.toml"

[needs]
packages = ["peer", "peer-tools"]

[needs.tools]
nft = "nftables"

[needs.features]
NF_TABLES = "nf_tables"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "mine.toml").write_text(GOOD, "utf-8")
    (tmp_path / "mine").write_text("#!/bin/sh\n", "utf-8")
    (tmp_path / "mine").chmod(0o755)
    (tmp_path / "differences.toml").write_text("difference = []\n", "utf-8")
    return tmp_path


def test_a_plane_file_is_a_selection_like_any_other(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    (found,) = catalog.select("./mine.toml")
    assert (found.name, found.dataplane, found.placement, found.package) == ("mine", "mine", "lb", "")
    assert found == catalog.select("mine.toml")[0] == catalog.select(f"{place}/mine.toml")[0]
    assert found.program
    assert found.program.argv == (f"{place}/mine", "--quick")
    assert found.program.expected == f"{place}/differences.toml"
    assert catalog.mechanism(found) == "mine"
    assert (catalog.any_port(found), catalog.in_turn(found), catalog.needs_cgroups(found)) == (False, False, False)
    needs = catalog.requires(found)
    assert Executable(f"{place}/mine", "the program of the data plane") in needs
    assert {each.name for each in needs if isinstance(each, Tool)} == {"nft"}
    assert [each.packages() for each in needs if isinstance(each, Unpacked)] == [("peer", "peer-tools")]
    assert {each.config for each in needs if isinstance(each, Feature)} == {"NF_TABLES"}
    assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found, "the kernel under test gets it"


def test_it_stands_beside_the_planes_of_the_catalog(place: Path) -> None:
    assert [each.name for each in catalog.select(f"nft-lb,{place}/mine.toml,direct")] == ["nft-lb", "mine", "direct"]


@pytest.mark.parametrize("placement", ["container", "lb", "overlay", "host", "tc"])
def test_the_short_form_puts_a_program_or_a_plane_file_at_a_placement(place: Path, placement: str) -> None:
    of_program, of_file = catalog.select(f"{placement}:{place}/mine"), catalog.select(f"{placement}:{place}/mine.toml")
    for (found,) in (of_program, of_file):
        assert (found.name, found.placement) == (f"mine-{placement}", placement)
        assert catalog.mechanism(found) == "mine", "planes of one mechanism are compared by their places"
        assert isinstance(catalog._parts(found)[1].make(), ProgramMechanism)
        assert catalog._parts(found)[0].make().name == placement
    assert (catalog.any_port(of_program[0]), catalog.any_port(of_file[0])) == (True, False)


def test_another_content_is_another_digest(place: Path) -> None:
    def digest() -> str:
        program = catalog.select(f"{place}/mine.toml")[0].program
        assert program
        return program.digest

    before = digest()
    assert len(before) == 12
    for name in ("mine", "mine.toml", "differences.toml"):
        (place / name).write_text((place / name).read_text() + "# more\n")
        after = digest()
        assert after != before, name
        before = after


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "mine"\n', "", "mine.toml:1: top level: Object missing required field `name`"),
        ('"mine"', '"Mine"', "mine.toml:1: name: 'Mine' is no name of a data plane"),
        ('"mine"', '"-"', "mine.toml:1: name"),
        ('"mine"', '"nft-lb"', "there is a data plane nft-lb already"),
        ('"mine"', '"all"', "there is a data plane all already"),
        ("a plane of", "a plane\\nof", "mine.toml:2: summary: it is not one line of text"),
        ("a plane of my own", "", "mine.toml:2: summary: Expected `str` of length >= 1"),
        ('"lb"', '"moon"', "mine.toml:3: placement: Invalid enum value 'moon'"),
        ('["./mine", "--quick"]', "[]", "mine.toml:4: command: it names no program"),
        ('["./mine", "--quick"]', '"./mine \'"', "mine.toml:4: command: No closing quotation"),
        ('["./mine", "--quick"]', '"mine"', "is searched for in PATH, not beside the plane file (write ./mine)"),
        ('["./mine", "--quick"]', '"./yours"', "mine.toml:4: command: "),
        ('["./mine", "--quick"]', '"./differences.toml"', "it is not executable (chmod +x"),
        ('["./mine", "--quick"]', '"./"', "it is no file"),
        ('["./mine", "--quick"]', '["./mine", "a\\u0000"]', "mine.toml:4: command: a word has a NUL byte"),
        ('["./mine", "--quick"]', "7", "mine.toml:4: command: Expected `str | array`, got `int`"),
        ('"declared"', '"some"', "mine.toml:5: ports: Invalid enum value 'some'"),
        ('["tcp"]', "[]", "mine.toml:6: protocols: Expected `array` of length >= 1"),
        ('["tcp"]', '["tcp", "icmp"]', "mine.toml:6: protocols[1]: Invalid enum value 'icmp'"),
        ('["tcp"]', '["tcp", "tcp"]', "mine.toml:6: protocols: a protocol is named twice"),
        ('"random"', '"wrr"', "mine.toml:7: scheduler: Invalid enum value 'wrr'"),
        ("serve = true", "serve = 1", "mine.toml:8: serve: Expected `bool`, got `int`"),
        ("timeout = 5", "timeout = 0", "mine.toml:9: timeout: Expected `float` > 0"),
        ("timeout = 5", "timeout = nan", "mine.toml:9: timeout"),
        ("timeout = 5", "time = 5", "mine.toml:9: top level: Object contains unknown field `time`"),
        ("differences.toml", "other.toml", "mine.toml:10: expected: there is no file"),
        ('"peer-tools"', '"peer tools"', "mine.toml:13: needs.packages: 'peer tools' is no name of a Debian package"),
        (
            '"peer-tools"',
            '"peer-tools/a b"',
            "mine.toml:13: needs.packages: 'peer-tools/a b' is no name of a Debian package",
        ),
        ('"peer-tools"', '"peer/trixie"', "mine.toml:13: needs.packages: a package is named twice"),
        ('"peer-tools"', '"peer"', "mine.toml:13: needs.packages: a package is named twice"),
        ('"peer-tools"', ", ".join(f'"{each * 60}"' for each in "abcd"), "too long for one directory"),
        ('["peer", "peer-tools"]', '"peer"', "mine.toml:13: needs.packages: Expected `array`, got `str`"),
        ("nft =", '"a b" =', "mine.toml:15: needs.tools: 'a b' is no name of a program"),
        ('"nftables"', '"nf tables"', "mine.toml:15: needs.tools: 'nf tables' is no name of a package"),
        ("NF_TABLES =", "CONFIG_NF_TABLES =", "mine.toml:18: needs.features: 'CONFIG_NF_TABLES' is no Kconfig symbol"),
        ('"nf_tables"', '"nf/tables"', "mine.toml:18: needs.features: 'nf/tables' is no name of a kernel module"),
        ("[needs.tools]", "[needs.tools", "mine.toml:15: not TOML"),
    ],
)
def test_a_fault_is_told_with_its_line_and_field(old: str, new: str, says: str, place: Path) -> None:
    assert GOOD.count(old) >= 1
    (place / "mine.toml").write_text(GOOD.replace(old, new, 1), "utf-8")
    with pytest.raises(Usage) as caught:
        catalog.select(f"{place}/mine.toml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("./mine", "a program has no placement of its own"),
        ("contaner:./mine", "did you mean container?"),
        ("bridge:./mine", "one of container, lb, overlay, host, tc"),
        ("lb:./yours", "there is no such file"),
        ("lb:./differences.toml", "unknown field `difference`"),
        ("lb:./plain", "it is not executable (chmod +x"),
        ("./no.toml", "No such file"),
        ("./\x1b.toml", "control characters"),
        ("./mine.toml,./copy.toml", "two data planes are called mine"),
        ("lb:./mine,lb:./mine.toml", "two data planes are called mine-lb"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(
    text: str, says: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (place / "plain").touch()
    (place / "copy.toml").write_text(GOOD, "utf-8")
    with pytest.raises(Usage) as caught:
        catalog.select(text)
    assert says in str(caught.value)


def test_the_same_file_twice_is_one_plane(place: Path) -> None:
    assert len(catalog.select(f"{place}/mine.toml,{place}/mine.toml")) == 1


def test_a_file_of_gigabytes_is_no_plane_file(place: Path) -> None:
    (place / "mine.toml").write_text("#" * 2000 + "\n" + GOOD * 1000, "utf-8")
    with pytest.raises(Usage, match="too large"):
        catalog.select(f"{place}/mine.toml")


def test_every_placement_of_a_program_is_one_of_the_catalogs() -> None:
    used = {catalog.placement(name) for name in catalog.names()}
    assert set(plane_file.At.__args__) <= used  # type: ignore[attr-defined]
