"""docs/replay.md, followed word by word, and every change that the tool `service` makes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import jsonschema
import pytest

from bench import kernels
from bench.prepare import preflight
from bench.prepare.ready import requirements
from dataplanes import catalog
from tests.conftest import ROOT
from tests.program.command import bench

PAGE = (ROOT / "docs" / "replay.md").read_text("utf-8")
(NAME, SCRIPT) = re.findall(r"^```sh file=(\S+)\n(.*?)^```$", PAGE, re.M | re.S)[0]
(CONSOLE,) = re.findall(r"^```console\n(.*?)^```$", PAGE, re.M | re.S)
RUNS = re.findall(r"^\$ bench (.+)\n((?:[^$].*\n)+)", CONSOLE, re.M)

CHANGES = """
step() { echo "== $*"; service "$@" 2>&1; echo "-> $?"; }
step create more replicas=2 ports=80,53/udp nodes=worker1 vip=10.0.0.77
container "$BENCH_CLIENT" busybox wget -qO- http://more/
step scale more 3
step drain more.1
cat "$BENCH_LAB" >drained.json
for each in 1 2 3 4; do container "$BENCH_CLIENT" busybox wget -qO- http://more/; done >after-drain
step crash more.2 process
step crash more.3
step crash more.3
cat "$BENCH_LAB" >crashed.json
container more.3 true 2>&1
step remove more.3
step remove more
step scale more 1
step create my-web
step create worker replicas=x
step create other vip=10.0.0.2
step drain nobody.1
step crash my-web.1 node
step
cat "$BENCH_LAB" >after.json
# Changes that are asked for at the same time are made one after another.
for each in a b c; do service create "$each" & done
wait
service scale a 0
cat "$BENCH_LAB" >many.json
"""


def _kernel(plane: str) -> str:
    lacking = preflight.missing(requirements(catalog.select(plane)), kernels.resolve("host", None))
    return "guest" if os.geteuid() or lacking else "host"


def test_the_page_has_two_runs_of_the_script_beside_it() -> None:
    assert (ROOT / "docs" / NAME).read_text("utf-8") == SCRIPT
    assert [arguments.split()[2] for arguments, _ in RUNS] == ["nft-lb", "moby-nftables"]


@pytest.mark.parametrize(("arguments", "printed"), RUNS)
def test_the_report_is_replayed_as_the_page_says(arguments: str, printed: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(SCRIPT, "utf-8")
    first, *rest = arguments.split()
    done = bench(first, "--kernel", _kernel(rest[1]), *rest, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told, expected = (_any_backend(text) for text in (done.stdout, printed))
    assert told == expected


def _any_backend(text: str) -> list[str]:
    """Which backend comes first is the plane's choice, and its tasks are listed without it."""
    first, *rest = re.findall(r"my-web\.\d|no answer|\n", text)
    return ["first" if each == first else "other" if each.startswith("my-web.") else each for each in (first, *rest)]


def test_services_change_and_the_lab_document_follows(tmp_path: Path) -> None:
    (tmp_path / "changes.sh").write_text(CHANGES, "utf-8")
    output = str(tmp_path)
    kernel = _kernel("nft-lb")
    done = bench(
        *("lab", "-d", "nft-lb", "--kernel", kernel, "--", "sh", "-c", 'cd "$BENCH_OUTPUT" && . ./changes.sh'),
        cwd=tmp_path,
        BENCH_OUTPUT=output,
    )
    assert done.returncode == 0, done.stderr
    steps = dict(re.findall(r"^== (.*)\n((?:(?!==).*\n)*)", done.stdout, re.M))
    assert steps["create more replicas=2 ports=80,53/udp nodes=worker1 vip=10.0.0.77"].startswith(
        "more (10.0.0.77): more.1 ("
    )
    assert re.search(r"^[12] 10\.0\.0\.\d+ \d+ 10\.0\.0\.\d+ 80 0$", done.stdout, re.M), "it answers"
    assert "more.1 (" in steps["drain more.1"]
    assert " on worker1, drained)" in steps["drain more.1"]
    codes = {step: int(text.split("-> ")[1].split()[0]) for step, text in steps.items()}
    refused = [step for step, code in codes.items() if code]
    assert refused == [
        *("crash more.3", "scale more 1", "create my-web", "create worker replicas=x", "create other vip=10.0.0.2"),
        *("drain nobody.1", "crash my-web.1 node", ""),
    ], steps
    assert {codes[step] for step in refused} == {2}
    assert "no service 'more' (there are: my-web, my-busybox)" in steps["scale more 1"]
    assert "10.0.0.2 is taken" in steps["create other vip=10.0.0.2"]
    assert "usage: container NAME" in steps["crash more.3"], "a container that crashed cannot be entered"
    backends = {line.split()[0] for line in (tmp_path / "after-drain").read_text().splitlines()}
    assert backends == {"2", "3"}
    _documents(tmp_path)


def _documents(directory: Path) -> None:
    schema = jsonschema.Draft202012Validator(
        json.loads((ROOT / "docs" / "schema" / "2" / "lab.schema.json").read_text("utf-8"))
    )
    found = {
        name: json.loads((directory / f"{name}.json").read_text()) for name in ("drained", "crashed", "after", "many")
    }
    for document in found.values():
        schema.validate(document)
    tasks = {name: {each["name"]: each for each in document["tasks"]} for name, document in found.items()}
    assert [tasks["drained"][f"more.{n}"]["weight"] for n in (1, 2, 3)] == [0, 1, 1]
    assert [tasks["crashed"][f"more.{n}"]["crashed"] for n in (1, 2, 3)] == [False, False, True]
    (more,) = [each for each in found["drained"]["services"] if each["name"] == "more"]
    assert (more["vip"], more["ports"], more["tasks"]) == ("10.0.0.77", [53, 80], ["more.1", "more.2", "more.3"])
    assert [each["name"] for each in found["after"]["services"]] == ["my-web", "my-busybox"]
    assert not [name for name in tasks["after"] if name.startswith("more.")]
    assert sorted(each["name"] for each in found["many"]["services"]) == ["a", "b", "c", "my-busybox", "my-web"]
    assert sorted(name for name in tasks["many"] if name[0] in "abc") == ["b.1", "c.1"]
