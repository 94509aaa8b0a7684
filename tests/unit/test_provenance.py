"""A document says which program made it, and on which kernel."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import msgspec
import pytest

from bench import kernels
from bench.cli.main import main
from bench.documents.parts import Named, Need
from bench.outside import provenance
from dataplanes import catalog


def commit(directory: Path) -> str:
    git = ["git", "-C", str(directory), "-c", "user.name=n", "-c", "user.email=n@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_a_checkout_is_told_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    assert "revision" not in provenance.tool()
    program, results = tmp_path / "bench" / "cli.py", tmp_path / "results" / "run.json"
    for file in (program, results):
        file.parent.mkdir()
        file.write_text("as committed")
    head = commit(tmp_path)
    results.write_text("measured anew")
    assert provenance.tool()["revision"] == head[:12]
    program.write_text("changed since")
    assert provenance.tool()["revision"] == f"{head[:12]}+"


def test_a_document_tells_how_planes_are_programmed_and_what_they_need() -> None:
    told = msgspec.convert(provenance.planes(catalog.select("direct,ipvs-overlay@map,ebpf-tc")), list[Named])
    assert [each.mechanism for each in told] == ["", "ipvs", "ebpf"]
    assert [each.placement for each in told] == ["", "overlay", "tc"]
    assert told[0].needs == []
    assert Need("feature", "", "BRIDGE_NETFILTER", "br_netfilter") in [
        msgspec.structs.replace(need, purpose="") for need in told[1].needs
    ]
    assert [need.name for need in told[2].needs if need.kind == "compiled"] == ["tc"]


def test_within_somebody_elses_repository_no_commit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "venv"
    installed.mkdir()
    (installed / "file").touch()
    commit(tmp_path)
    monkeypatch.setattr(provenance, "_ROOT", installed)
    assert "revision" not in provenance.tool()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("matrix -d nft-lb -o /home/me/a.json --output /b.json -k reach", "matrix -d nft-lb -k reach"),
        ("matrix --output=/home/me/a.json -o/b.md --junit /c.xml -d nft-lb", "matrix -d nft-lb"),
        ("run -d all --benchmark-json=/home/me/a.json -r 3 -o -", "run -d all -r 3"),
        ("trace -d nft-lb --svg /home/me/a.svg -- curl -o /dev/null", "trace -d nft-lb -- curl -o /dev/null"),
    ],
)
def test_a_document_does_not_tell_where_it_was_written(monkeypatch: pytest.MonkeyPatch, given: str, told: str) -> None:
    """Documents that are published told of directories of the machine that had made them."""
    monkeypatch.setattr("sys.argv", ["/usr/bin/bench", *given.split()])
    assert provenance.command() == f"bench {told}"


@pytest.mark.parametrize("name", ["run", "matrix", "trace", "explore"])
def test_every_option_that_names_a_file_to_write_is_known(name: str) -> None:
    files = {option for each in main.commands[name].params if each.metavar == "FILE" for option in each.opts}
    read = {"--world", "--replay"}
    assert files - read <= {"-o", *provenance.WRITTEN}


def test_the_running_kernel_is_emulated_by_nothing() -> None:
    told = provenance.kernel(kernels.resolve("host", None), "asked for")
    assert (told["kernel_name"], told["kernel_reason"], told["emulator"]) == ("host", "asked for", "")


def test_a_run_goes_on_with_the_same_program_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials before a change and after it counted as one run, because the version was the same."""
    for package in ("bench", "dataplanes"):
        (tmp_path / package).mkdir()
    source, compiled = tmp_path / "dataplanes" / "tc.c", tmp_path / "tc.json"
    source.write_text("as committed")
    compiled.write_text("by one compiler")
    (tmp_path / "vipload").write_text("binary")
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    monkeypatch.setattr("bench.load.binary", lambda: tmp_path / "vipload")
    monkeypatch.setattr("dataplanes.ebpf_object.cached", lambda name: compiled)
    host, planes = kernels.resolve("host", None), catalog.select("direct,ebpf-tc")

    seen = [provenance.identity(host, planes)]
    assert provenance.identity(host, planes) == seen[0]
    for path in (source, compiled, tmp_path / "vipload"):
        path.write_text("changed")
        seen.append(provenance.identity(host, planes))
    (tmp_path / "bench" / "new.py").write_text("")
    seen.append(provenance.identity(host, planes))
    monkeypatch.setattr(type(host), "fingerprint", lambda _: "another kernel")
    seen.append(provenance.identity(host, planes))
    assert all(earlier != later for earlier, later in itertools.combinations(seen, 2))
