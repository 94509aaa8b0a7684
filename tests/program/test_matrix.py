"""`bench matrix` as its user runs it, and what `bench compare` refuses."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.program.command import bench


def test_a_part_of_the_matrix_in_every_format(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("m.json", "m.md", "junit.xml")]
    written = ("-o", str(files[0]), "-o", str(files[1]), "--junit", str(files[2]))
    arguments = ("--dataplane", "nft-lb,ipvs-lb", "-k", "same-node or idle.tcp", "--kernel", "guest")
    done = bench("matrix", *arguments, *written)
    assert done.returncode == 0, done.stdout + done.stderr
    cells = {(each["dataplane"], each["check"]): each for each in json.loads(files[0].read_text("utf-8"))["cells"]}
    assert cells["nft-lb", "reach.same-node"]["outcome"] == "pass"
    assert cells["ipvs-lb", "identity.source-same-node"]["outcome"] == "fail"
    assert cells["ipvs-lb", "identity.source-same-node"]["reason"]
    assert "backend saw 10.0.0." in cells["ipvs-lb", "identity.source-same-node"]["detail"]
    assert cells["nft-lb", "idle.tcp-1000s"]["outcome"] == "pass"
    assert cells["ipvs-lb", "idle.tcp-1000s"]["outcome"] == "fail"  # after IPVS's 900 s, which pass in no time
    assert "| reach.same-node | ● | ● |" in files[1].read_text("utf-8")
    assert len(ET.parse(files[2]).getroot()) == 2
    assert "nft-lb reach.same-node: pass: answered by: lone.1" in done.stderr
    assert not (tmp_path / "m-failures").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--dataplane", "direct"), "it has no VIP"),
        (("--dataplane", "nft-lb", "-k", "no-such-check"), "no check matches"),
        (("--dataplane", "nft-lb", "-k", "and and"), "cannot read -k"),
        (("--dataplane", "nft-lb", "-o", "/nowhere/m.json"), "cannot write the output file"),
        (("--dataplane", "nft-lb", "--kernel", "debian-0.1"), "unknown kernel"),
    ],
)
def test_a_bad_request_is_refused_before_anything_runs(arguments: tuple[str, ...], says: str) -> None:
    done = bench("matrix", *arguments)
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr


def test_comparing_what_is_no_result_is_exit_2(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    done = bench("compare", str(tmp_path / "x.json"), str(tmp_path / "x.json"))
    assert (done.returncode, "neither a result nor a matrix" in done.stderr) == (2, True)
