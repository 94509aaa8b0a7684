"""The program as its user runs it: what it refuses before anything exists, what it prints, and what it returns."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from bench import kernels
from tests.conftest import ROOT
from tests.storm import is_ours

BENCH = [str(Path(sys.executable).with_name("bench"))]
SEED = (ROOT / "scenarios" / "files" / "seed.toml").read_text("utf-8")


def bench(*arguments: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BENCH, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("run", "--dataplane", "ipvs-contaner"), 2, "did you mean ipvs-container?"),
        (("run",), 2, "Missing option '--dataplane'"),
        (("run", "--dataplane", "direct", "--repeat", "0"), 2, "0 is not in the range"),
        (("run", "--dataplane", "direct", "--scenario", "sed"), 2, "did you mean seed?"),
        (("run", "--dataplane", "direct", "--scenario", "/no/such.toml"), 2, "No such file"),
        (("run", "--dataplane", "direct", "--output", "/no/such/file.json"), 2, "cannot write the output file"),
        (("run", "--dataplane", "direct", "--kernel", "debian-6.2"), 2, "unknown kernel 'debian-6.2'"),
        (("run", "--dataplane", "direct", "--kernel", "/etc/passwd"), 2, "not a Linux kernel image"),
        (("run", "--dataplane", "direct", "--kernel", "host", "--clock", "instructions"), 2, "no instruction clock"),
        (
            ("run", "--dataplane", "nft-lb", "--kernel", "guest", "--ports", "64"),
            2,
            "crr: 64 client ports are too few for 2,000 connections",
        ),
        (("run", "-d", "nft-lb", "--kernel", "guest", "-n", "40000"), 2, "too few for 40,000 connections"),
        (("lab", "--dataplane", "direct,ipvs-lb", "--", "true"), 2, "takes one data plane"),
        (("lab", "-d", "direct", "-d", "ipvs-lb", "--", "true"), 2, "takes one data plane"),
        (("inspect", "--dataplane", "ipvs-container@9.9"), 2, "it has: 1.12.0, 1.12.6, 1.12.6-tweaked, 1.13"),
        (("run", "--dataplane", "nft-lb+speed=9"), 2, "unknown knob 'speed' (knobs, as knob=value: scheduler)"),
        (("run", "--dataplane", "direct", "--jobs", "0"), 2, "0 is not in the range"),
        (("run", "--dataplane", "direct", "--kernel", "/no/such.deb"), 2, "no such package"),
    ],
)
def test_a_mistake_gets_one_line_and_exit_2(arguments: tuple[str, ...], code: int, says: str, tmp_path: Path) -> None:
    done = bench(*arguments, BENCH_STATE=str(tmp_path / "state"))
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "my-web"', 'nam = "my-web"', ":10: services[0]: Object contains unknown field `nam`"),
        ("10.0.0.2", "10.0.1.2", ":12: services[0].vip: 10.0.1.2 is outside 10.0.0.0/24"),
        ('node = "worker1"', 'node = "worker9"', ":16: services[0].tasks[2].node: no node 'worker9'"),
        ("10.0.0.4", "10.0.0.3", ":15: services[0].tasks[1].address: 10.0.0.3 is taken"),
        ("port = 80", 'port = "http"', ":28: traffic.port: Expected `int`, got `str`"),
        ('client = "my-busybox.1"', 'client = "nobody"', ":26: traffic.client: no task 'nobody'"),
        ("[traffic]", "[traffic", ":25: not TOML"),
    ],
)
def test_a_bad_scenario_is_refused_with_line_and_field(old: str, new: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(SEED.replace(old, new, 1), "utf-8")
    done = bench("run", "--dataplane", "direct", "--scenario", str(file), BENCH_STATE=str(tmp_path / "state"))
    assert done.returncode == 2
    assert f"{file}{says}" in done.stderr
    assert not (tmp_path / "state").exists()


def test_what_the_machine_lacks_is_exit_3(tmp_path: Path) -> None:
    kernels.resolve("guest", "wall")  # downloads the kernel if it is missing; with a bare PATH it could not
    empty = tmp_path / "bin"
    empty.mkdir()
    no_qemu = bench("lab", "--dataplane", "ipvs-container", "--kernel", "guest", "--", "true", PATH=str(empty))
    assert (no_qemu.returncode, "qemu-system-x86_64" in no_qemu.stderr) == (3, True), no_qemu.stderr
    no_apt = bench(
        "lab", "--dataplane", "direct", "--kernel", "guest", "--", "true", PATH=str(empty), BENCH_CACHE=str(empty)
    )
    assert (no_apt.returncode, "no apt" in no_apt.stderr) == (3, True), no_apt.stderr
    blocked = tmp_path / "file"
    blocked.touch()
    no_cache = bench("lab", "--dataplane", "direct", "--kernel", "guest", "--", "true", BENCH_CACHE=str(blocked))
    assert (no_cache.returncode, "cannot write to the cache" in no_cache.stderr) == (3, True), no_cache.stderr


def test_a_kernel_without_ipvs_is_told_before_anything_is_created(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("CONFIG_NET_NS=y\n", "ascii")
    release = "1.2.3-none"
    (tmp_path / "lib" / "modules" / release).mkdir(parents=True)
    (tmp_path / "lib" / "modules" / release / "modules.dep").touch()
    (tmp_path / "lib" / "modules" / release / "modules.builtin").write_text("kernel/9pnet_virtio.ko\nkernel/9p.ko\n")
    image = bytearray(0x1000)
    image[0x202:0x206] = b"HdrS"
    image[0x20E:0x210] = (0x300).to_bytes(2, "little")
    image[0x500 : 0x500 + 30] = (release + " (x)\0").encode().ljust(30, b"\0")
    (tmp_path / "vmlinuz").write_bytes(image)
    done = bench("lab", "--dataplane", "ipvs-container", "--kernel", str(tmp_path / "vmlinuz"), "--", "true")
    assert done.returncode == 3
    assert "no module ip_vs" in done.stderr


DOCUMENTS = (str(ROOT / "results" / "connections.json"), str(ROOT / "results" / "matrix.json"))


@pytest.mark.parametrize(
    "command",
    [
        ("--help",),
        ("--version",),
        ("run", "--help"),
        ("list", "checks"),
        ("list", "dataplanes", "--json"),
        ("completion", "bash"),
        ("compare", DOCUMENTS[0], DOCUMENTS[0]),
        ("compare", DOCUMENTS[1], DOCUMENTS[1]),
        ("report", *DOCUMENTS),
        ("answer", *DOCUMENTS),
        ("run", "--dataplane", "direct", "--kernel", "guest", "--dry-run"),
        ("lab", "--dataplane", "direct", "--kernel", "guest", "--", "head", "-c", "200000", "/dev/zero"),
    ],
    ids=" ".join,
)
def test_a_reader_that_has_gone_is_no_regression(command: tuple[str, ...]) -> None:
    """`bench compare ... | head` exited with 1, which means a regression. Now it ends by SIGPIPE."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*BENCH, *command], stdout=writing, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=120
        )
    finally:
        os.close(writing)
    assert done.returncode == -signal.SIGPIPE, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


def test_compare_ends_with_a_line_that_says_what_failed(tmp_path: Path) -> None:
    same = bench("compare", DOCUMENTS[0], DOCUMENTS[0], "--fail-on", "connections_per_second:-2%")
    assert (same.returncode, same.stdout.splitlines()[-1][:4]) == (0, "ok: ")
    found = json.loads(Path(DOCUMENTS[0]).read_bytes())
    found["trials"] = [each for each in found["trials"] if each["dataplane"] != "nft-lb"]
    found["environment"]["kernel"] = "6.9.0"
    new = tmp_path / "new.json"
    new.write_text(json.dumps(found))
    refused = bench("compare", DOCUMENTS[0], str(new))
    assert (refused.returncode, "the kernels differ" in refused.stdout.splitlines()[-1]) == (1, True), refused.stdout
    lacking = bench("compare", DOCUMENTS[0], str(new), "--allow", "kernel")
    assert lacking.returncode == 1
    assert lacking.stdout.splitlines()[-1] == f"FAILED: nft-lb is not in {new}"
    assert "the kernels differ" in lacking.stdout.splitlines()[0]
    as_json = bench("compare", DOCUMENTS[0], str(new), "--allow", "kernel", "--json")
    assert (as_json.returncode, as_json.stderr) == (1, f"FAILED: nft-lb is not in {new}\n")
    document = json.loads(as_json.stdout)
    assert (document["kind"], document["schema"], document["verdict"]) == ("comparison", 2, as_json.stderr.strip())
    assert {each["dataplane"] for each in document["comparisons"][0]["differences"]} >= {"direct", "ipvs-lb"}
    assert bench("compare", DOCUMENTS[1], DOCUMENTS[1]).returncode == 0
    assert bench("compare", *DOCUMENTS).returncode == 2


def test_lists() -> None:
    assert "ipvs-container" in bench("list", "dataplanes").stdout
    names = [each["name"] for each in json.loads(bench("list", "kernels", "--json").stdout)]
    assert names[0] == "host"
    scenarios = {each["name"] for each in json.loads(bench("list", "scenarios", "--json").stdout)}
    assert {path.stem for path in (ROOT / "scenarios" / "files").glob("*.toml")} == scenarios >= {"seed", "scale"}
    assert "scheduler=random|rr" in bench("list", "dataplanes").stdout
    (container,) = [each for each in json.loads(bench("list", "dataplanes", "--json").stdout) if each["default"]]
    assert (container["name"], container["default"]) == ("ipvs-container", "1.12.6-tweaked")
    assert "By default it is wall on every kernel" in " ".join(bench("lab", "--help").stdout.split())
    assert bench("list", "workloads").stdout.startswith("crr ")
    assert "_BENCH_COMPLETE" in bench("completion", "bash").stdout
    assert bench("--version").stdout.startswith("bench, version ")


def test_doctor_knows_every_plane_on_every_kernel() -> None:
    done = bench("doctor", "--json")
    found = json.loads(done.stdout)
    assert set(found["dataplanes"]) >= {"direct", "ipvs-container", "ipvs-lb", "ipvs-overlay"}
    guests = [name for name in found["dataplanes"]["ipvs-container"] if name != "host"]
    assert guests, found
    assert all(found["dataplanes"]["ipvs-container"][name] == [] for name in guests)
    assert done.returncode == 0


def test_a_dry_run_shows_the_plan_and_touches_nothing(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    sizes = ("--kernel", "guest", "--repeat", "3", "--services", "1,100", "--output", str(file))
    done = bench("run", "--dataplane", "ipvs-lb,ebpf-tc", *sizes, "--dry-run", BENCH_STATE=str(tmp_path / "state"))
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    assert rows == [
        ["crr", "1 more services", "direct, ipvs-lb, ebpf-tc", "3", "12", "2,000"],
        ["crr", "100 more services", "direct, ipvs-lb, ebpf-tc", "3", "9", "2,000"],
    ]
    assert re.search(r"21 trials.*, about \d+ (s|min) at ", done.stdout)
    assert list(tmp_path.iterdir()) == []
    alone = bench("run", "--dataplane", "all", *sizes, "--clock", "instructions", "--jobs", "1", "--dry-run")
    assert (alone.returncode, " guests" in alone.stdout) == (0, False), alone.stdout


def test_run_prints_a_comparison_and_writes_the_document(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    arguments = ("--dataplane", "ipvs-container", "--kernel", "guest", "--repeat", "1", "--connections", "300")
    done = bench("run", *arguments, "--clock", "instructions", "--output", str(file))
    assert done.returncode == 0, done.stderr
    assert "ipvs-container" in done.stdout
    assert "instruction clock" in done.stdout
    result = json.loads(file.read_text("utf-8"))
    assert (result["kind"], result["schema"]) == ("result", 2)
    assert result["units"]["connect_p50_us"] == "µs"
    assert [(each["dataplane"], each["warmup"]) for each in result["trials"]] == [
        ("direct", True),
        ("ipvs-container", True),
        ("direct", False),
        ("ipvs-container", False),
    ]
    for trial in result["trials"][2:]:
        figures, work = trial["figures"], trial["work"]
        assert work["backends"] == {"1": 100, "2": 100, "3": 100}
        assert (work["errors"], work["operations"]) == ({}, 300)
        assert figures["connections_per_second"] > 100
        assert figures["instructions_per_connection"] > 10_000
        assert figures["connect_p50_us"] <= figures["connect_p99_us"]
    held = {(each["place"], each["namespace"], each["what"]): each for each in result["trials"][3]["held"]}
    connections = held["container", "my-busybox.1", "ipvs connections"]
    assert connections["objects"] >= 300
    assert connections["bytes"] / connections["objects"] > 200  # struct ip_vs_conn
    assert held["container", "my-web.1", "ipvs services"]["objects"] == 2
    assert held["container", "my-web.1", "conntrack entries"]["objects"] >= 100
    assert "tcp-segmentation-offload" in result["trials"][1]["settings"]["container"]["offload.eth"]
    assert result["environment"]["kernel"].startswith("6.")
    assert result["environment"]["emulator"].startswith("QEMU emulator version ")
    assert result["environment"]["config"]["IP_VS"] == "m"
    (variant,) = [each["variant"] for each in result["plan"]["dataplanes"]]
    assert variant == "1.12.6-tweaked"
    assert 0.3 < result["summary"][1]["ratio_to_direct"]["value"] < 1


def test_lab_runs_a_command_with_the_document_and_returns_its_code() -> None:
    script = 'cat "$BENCH_LAB"; echo problem >&2; exit 7'
    done = bench("lab", "--dataplane", "ipvs-container", "--kernel", "guest", "--", "sh", "-c", script)
    assert done.returncode == 7
    assert "problem" in done.stderr
    lab = json.loads(done.stdout)
    schema = json.loads((ROOT / "docs" / "schema" / "2" / "lab.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(lab)
    assert [node["name"] for node in lab["nodes"]] == ["manager1", "worker1", "worker2"]
    assert lab["networks"][0]["subnet"] == "10.0.0.0/24"
    tasks = {task["name"]: task["addresses"]["my-network"] for task in lab["tasks"]}
    assert tasks == {
        "my-web.1": "10.0.0.3",
        "my-web.2": "10.0.0.4",
        "my-web.3": "10.0.0.5",
        "my-busybox.1": "10.0.0.7",
    }


def test_inspect_shows_what_the_plane_added() -> None:
    done = bench("inspect", "--dataplane", "ipvs-container", "--kernel", "guest")
    assert done.returncode == 0, done.stderr
    added = [line for line in done.stdout.splitlines() if line.startswith("+")]
    assert "+ -A POSTROUTING -d 10.0.0.0/24 -m ipvs --ipvs -j SNAT --to-source 10.0.0.5" in added
    assert added.count("+ -A OUTPUT -d 10.0.0.2/32 -j MARK --set-xmark 0x101/0xffffffff") == 4
    assert added.count("+     inet 10.0.0.2/32 scope global eth0") == 3
    assert added.count("+ FWM  257 rr") == 4

    gone = [line for line in done.stdout.splitlines() if line.startswith("-")]
    assert gone
    assert all(line.startswith("- net.ipv4.vs.") for line in gone), gone  # has another value
    every = json.loads(bench("inspect", "--dataplane", "nft-lb", "--kernel", "guest", "--json").stdout)["namespaces"]
    marks = {
        (each["kind"], section["command"], mark)
        for each in every
        for section in each["sections"]
        for mark, line in section["lines"]
        if mark != " "
    }
    assert ("lb", "nft list ruleset", "+") in marks
    assert ("lb", "ip address", "+") in marks
    # The plane has no iptables rule. Listing a table would create it, and table nat switches connection tracking on.
    assert not [each for each in marks if each[1].startswith("iptables")]
    assert not [each for each in marks if each[0] == "container"]
    lb = next(each for each in every if each["kind"] == "lb")
    lines = {line.strip(): mark for section in lb["sections"] for mark, line in section["lines"]}
    assert (lines["inet 127.0.0.1/8 scope host lo"], lines["net.ipv4.ip_forward = 1"]) == (" ", " ")


def test_inspect_of_no_plane_marks_nothing() -> None:
    """Links that came up in the meantime were taken for the plane's."""
    done = bench("inspect", "--dataplane", "direct", "--kernel", "guest")
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stdout.splitlines() if line.startswith(("+", "-"))]


def test_inspect_shows_where_bpf_programs_are() -> None:
    done = bench("inspect", "--dataplane", "ebpf-tc", "--kernel", "guest")
    assert done.returncode == 0, done.stderr
    added = [line for line in done.stdout.splitlines() if line.startswith("+") and "_container" in line]
    assert sorted(added) == [
        "+ veth0 egress: bpf to_container",  # one node has one container, the other has three
        "+ veth0 egress: bpf to_container",
        "+ veth0 ingress: bpf from_container",
        "+ veth0 ingress: bpf from_container",
        *(f"+ veth{n} {way}" for n in (1, 2) for way in ("egress: bpf to_container", "ingress: bpf from_container")),
    ]


def test_sigint_ends_the_guest_and_is_passed_on() -> None:
    process = subprocess.Popen(
        [*BENCH, "lab", "--dataplane", "ipvs-container", "--kernel", "guest", "--", "sh", "-c", "echo here; sleep 600"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    assert process.stdout
    assert process.stdout.readline() == b"here\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == -signal.SIGINT
    process.stdout.close()
    assert not _guests_of(process.pid)


@pytest.mark.parametrize("seconds", [0, 2, 4, 6, 8])
def test_a_signal_while_the_guest_boots_or_its_command_starts_is_not_lost(seconds: float) -> None:
    process = subprocess.Popen(  # on one processor, where a command that is just starting does not lead its session yet
        [*BENCH, "lab", "-d", "ipvs-container", "--kernel", "guest", "--clock", "instructions", "--", "sleep", "600"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not _guests_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(30) == -signal.SIGINT
    finally:
        process.kill()
    assert not _guests_of(process.pid)


def test_kill_9_takes_the_guest_along() -> None:
    process = subprocess.Popen(
        [*BENCH, "lab", "--dataplane", "ipvs-container", "--kernel", "guest", "--", "sleep", "600"],
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not _guests_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    guests = _guests_of(process.pid)
    assert guests
    process.kill()
    process.wait()
    assert bench("clean").returncode == 0  # it may not know of a guest that was just started
    while any(Path(f"/proc/{pid}").exists() for pid in guests) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in guests)


def test_a_time_out_is_exit_124() -> None:
    done = bench("lab", "--dataplane", "direct", "--kernel", "guest", "--timeout", "10", "--", "sleep", "600")
    assert done.returncode == 124
    assert "time is up" in done.stderr


def test_a_frozen_guest_is_given_up_when_its_time_is_up() -> None:
    process = frozen("--timeout", "60")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 124
    assert "time is up" in err


def test_a_frozen_guest_does_not_keep_the_program_from_ending() -> None:
    process = frozen()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=30)
    assert process.returncode in (-signal.SIGTERM, -signal.SIGHUP)
    assert err.splitlines()[-1] == f"bench: ended by {signal.Signals(-process.returncode).name}"


def frozen(*options: str) -> subprocess.Popen[str]:
    """A lab whose guest was stopped while its command ran."""
    process = subprocess.Popen(
        [*BENCH, "lab", "--dataplane", "direct", "--kernel", "guest", *options, "--", "sh", "-c", "echo up; sleep 600"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    for guest in _guests_of(process.pid):
        os.kill(guest, signal.SIGSTOP)
    return process


def test_nohup_is_not_ended_by_a_hang_up() -> None:
    process = subprocess.Popen(
        ["nohup", *BENCH, "lab", "--dataplane", "direct", "--kernel", "guest", "--", "sh", "-c", "echo up; sleep 2"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0
    process.stdout.close()


def test_an_interrupt_in_the_first_second_is_no_traceback(tmp_path: Path) -> None:
    """The start of the interpreter itself, some 20 ms on an idle machine, does not count."""
    for moment in range(4, 60, 4):
        with subprocess.Popen(
            [*BENCH, "list", "checks"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as it:
            time.sleep(moment / 100)
            it.send_signal(signal.SIGINT)
            _, err = it.communicate(timeout=30)
        assert it.returncode in (0, -signal.SIGINT)
        assert not is_ours(err), moment


def _guests_of(parent: int) -> list[int]:
    """Return the QEMU processes that a process has started."""
    found = []
    for each in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = each.read_text("ascii", "replace").rpartition(")")
        except OSError:
            continue
        if "(qemu-system" in name and int(rest.split()[1]) == parent:
            found.append(int(each.parent.name))
    return found
