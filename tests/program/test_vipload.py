"""The load generator alone, over loopback: it counts what has happened."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import load
from bench.documents.metrics import LATENCIES, METRICS
from scenarios.axes import AXES

pytestmark = pytest.mark.program


@contextmanager
def serving(count: int = 1) -> Iterator[list[str]]:
    """Run servers with the ids 1 to `count`, each on its own port. Yield their targets."""
    processes = []
    ports = list(itertools.islice(filter(_free, range(20_000, 30_000)), count))
    try:
        for number, port in enumerate(ports):
            argv = load.serve_argv(number + 1, tcp=[port], udp=[port])
            processes.append(subprocess.Popen(argv, stdout=subprocess.PIPE))
            assert processes[-1].stdout
            assert processes[-1].stdout.readline() == b"ready\n"
        yield [f"127.0.0.1:{port}" for port in ports]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _free(port: int) -> bool:
    """Return a port below the ephemeral ones, of which clients leave some in TIME_WAIT."""
    with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            tcp.bind(("", port))
            udp.bind(("", port))
            return True
    return False


def run(command: str, targets: list[str], **options: Any) -> dict[str, Any]:
    done = subprocess.run(load.argv(command, targets, **options), capture_output=True, check=True, timeout=60)
    found: dict[str, Any] = msgspec.json.decode(done.stdout)
    return found


def test_there_may_be_as_many_targets_as_a_service_has_backends() -> None:
    """The reference has no VIP: its client knows every backend."""
    most = AXES["backends"][2]
    with serving() as targets:
        found = run("load", targets * most, connections=most, concurrency=5)
    assert (found["ok"], sum(found["errors"].values())) == (most, 0)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_connections_go_to_the_targets_in_turn_and_every_latency_is_kept(threads: int, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    sizes = {"connections": 300, "concurrency": 8, "warmup": 30, "threads": threads}
    with serving(3) as targets:
        found = msgspec.convert(run("load", targets, raw=raw, **sizes), load.LoadResult)
    assert (found.connections, found.concurrency, found.threads) == (300, 8, threads)
    assert (found.ok, found.requests, found.stalled, sum(found.errors.values())) == (300, 300, 0, 0)
    assert found.backends == {"1": 100, "2": 100, "3": 100}
    pairs = list(struct.iter_unpack("<II", raw.read_bytes()))
    connects = sorted(pair[0] for pair in pairs)
    assert len(pairs) == 300
    ranks = {"p50": 149, "p90": 269, "p99": 296, "p99.9": 299}  # the nearest
    assert {name: found.figures[f"connect_{name}_us"] for name in ranks} == {
        name: connects[rank] / 1e3 for name, rank in ranks.items()
    }


def test_a_connection_can_ask_more_than_once() -> None:
    with serving() as targets:
        found = run("load", targets, connections=5, concurrency=5, requests=100)
    assert (found["ok"], found["requests"], found["backends"]) == (5, 500, {"1": 500})


def test_connections_come_from_the_sources_in_turn() -> None:
    sources = [f"127.0.9.{number}" for number in (1, 2, 3)]
    seen: Counter[str] = Counter()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for _ in range(12):
                connection, (address, _) = server.accept()
                with connection:
                    seen[address] += 1
                    connection.recv(1)
                    connection.sendall(b"\x01")

        thread = threading.Thread(target=answer)
        thread.start()
        target = f"127.0.0.1:{server.getsockname()[1]}"
        done = run("load", [target], connections=12, concurrency=1, sources=",".join(sources))
        thread.join()
    assert done["ok"] == 12
    assert seen == dict.fromkeys(sources, 4)


def test_closing_by_reset_is_no_error() -> None:
    with serving() as targets:
        found = run("load", targets, connections=50, concurrency=4, close="rst")
    assert (found["ok"], sum(found["errors"].values())) == (50, 0)


def test_there_is_a_thread_for_each_processor_but_no_more_than_connections_at_a_time() -> None:
    with serving() as targets:
        usual, alone = (run("load", targets, connections=50, concurrency=each)["threads"] for each in (64, 1))
    assert usual == min(len(os.sched_getaffinity(0)), 64)
    assert alone == 1


@pytest.mark.parametrize(("connections", "threads"), [(7, 3), (2, 4), (1, 2)])
def test_threads_share_what_there_is(connections: int, threads: int) -> None:
    with serving(2) as targets:
        found = run("load", targets, connections=connections, concurrency=4, requests=3, threads=threads)
    assert (found["ok"], found["requests"]) == (connections, 3 * connections)
    assert found["backends"].get("1") == 3 * (connections - connections // 2)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_open_loop_keeps_its_rate(threads: int) -> None:
    with serving() as targets:
        found = run("load", targets, connections=200, concurrency=64, rate=1000, threads=threads)
    assert found["ok"] == 200
    assert found["elapsed_ns"] >= 199_000_000


def test_an_open_loop_counts_from_when_a_connection_was_due() -> None:
    """The server takes half a second for the first connection.

    Those that were due meanwhile waited, and the figures show it.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        held = threading.Event()

        def slow() -> None:
            for number in range(20):
                peer, _ = server.accept()
                with peer:
                    peer.recv(1)
                    if number == 0:
                        held.wait(0.5)
                    peer.sendall(b"\x07")

        thread = threading.Thread(target=slow)
        thread.start()
        target = [f"127.0.0.1:{server.getsockname()[1]}"]
        found = run("load", target, connections=20, concurrency=1, rate=1000)
        thread.join()
    assert found["ok"] == 20
    assert found["figures"]["connect_p50_us"] > 400e3


def test_errors_have_a_class() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        target = [f"127.0.0.1:{closed.getsockname()[1]}"]
        assert run("load", target, connections=10, concurrency=2)["errors"]["refused"] == 10
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = [f"127.0.0.1:{silent.getsockname()[1]}"]
        found = run("load", target, connections=2, concurrency=2, timeout=200)
    assert (found["ok"], found["errors"]["timeout_reply"]) == (0, 2)


def test_datagrams_are_answered_counted_and_missed() -> None:
    with serving(2) as targets:
        found = msgspec.convert(run("udp", targets, exchanges=200, concurrency=4, warmup=20), load.DatagramResult)
        fresh = msgspec.convert(run("udp", targets, exchanges=100, concurrency=4, fresh=1), load.DatagramResult)
    assert (found.ok, found.lost, found.late, found.refused) == (200, 0, 0, 0)
    assert sum(found.backends.values()) == 200
    assert found.figures["next_p50_us"] > 0
    assert "first_p50_us" not in found.figures  # there was none: a figure of 0 would be taken for a measurement
    assert (fresh.ok, sum(fresh.backends.values())) == (100, 200)
    assert fresh.figures["first_p50_us"] > 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        target = [f"127.0.0.1:{deaf.getsockname()[1]}"]
        missed = run("udp", target, exchanges=4, concurrency=2, timeout=100)
    assert (missed["ok"], missed["lost"]) == (0, 4)
    refused = run("udp", target, exchanges=4, concurrency=2, timeout=100)
    assert refused["refused"] >= 2


def test_a_flow_whose_reply_is_there_at_once_does_not_hold_up_the_others() -> None:
    """On one processor a server often answers before send() returns.

    A flow that is served until it pauses starves the others.
    """
    flows, each = 4, 20
    asked: list[int] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        targets = [f"127.0.0.1:{server.getsockname()[1]}"]
        argv = load.argv("udp", targets, exchanges=flows * each, concurrency=flows, warmup=0)
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as client:
            clients = [server.recvfrom(64)[1] for _ in range(flows)]
            client.send_signal(signal.SIGSTOP)
            for number in range(1, each + 1):
                for address in clients:
                    server.sendto(struct.pack("=BxxxI", 1, number), address)
            client.send_signal(signal.SIGCONT)
            asked += [server.recvfrom(64)[1][1] for _ in range(flows * (each - 1))]
            assert client.wait(10) == 0
    order = [address[1] for address in clients]
    for end in range(len(asked)):
        turns = [asked[:end].count(port) for port in order]
        assert max(turns) - min(turns) <= 1, turns


@pytest.mark.parametrize(("kind", "source"), [("udp", "127.0.0.1"), ("udp_as_asked", "127.0.9.9")])
def test_the_source_of_an_answer_is_the_kernels_choice_unless_told_otherwise(kind: str, source: str) -> None:
    port = next(filter(_free, range(20_000, 30_000)))
    with subprocess.Popen(load.serve_argv(1, **{kind: [port]}), stdout=subprocess.PIPE) as server:
        assert server.stdout
        assert server.stdout.readline() == b"ready\n"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.sendto(b"w", ("127.0.9.9", port))
            told, (answered, _) = client.recvfrom(256)
        server.kill()
    assert told.split()[3] == b"127.0.9.9"
    assert answered == source


def test_every_figure_it_prints_is_a_metric_with_that_name() -> None:
    """Nothing renames a figure on its way to the page."""
    with serving() as targets:
        found = run("load", targets, connections=20, concurrency=2)["figures"]
        found |= run("udp", targets, exchanges=20, concurrency=1, fresh=1)["figures"]
    assert found.keys() == {name for name, each in METRICS.items() if each.source == LATENCIES}


def test_a_stream_arrives_whole() -> None:
    with serving() as targets:
        assert run("stream", targets, bytes=50_000_001)["bytes"] == 50_000_001


def test_a_server_whose_starter_has_gone_goes_too() -> None:
    adopted = ["sh", "-c", '"$@"; :', "sh", *load.serve_argv(1, tcp=[65_000])]  # its parent is another process
    assert subprocess.run(adopted, stdout=subprocess.PIPE, check=True, timeout=60).stdout == b""


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["load"], "load needs --to"),
        (["load", "--to", "x:1"], "x:1: not IP:PORT"),
        (["load", "--to"], "--to: no value"),
        (["udp", "--bytes", "1"], "no such option"),
        (["stream", "--bytes", "0"], "not a number from 1"),
        (["load", "--sources", "10.0.0.300"], "10.0.0.300: not an IPv4 address"),
        (["fetch"], "serve, load, udp, stream or gap"),
    ],
)
def test_a_wrong_argument_is_named(argv: list[str], says: str) -> None:
    done = subprocess.run([str(load.binary()), *argv], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert says in done.stderr


@contextmanager
def exchanging() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run `gap` with a server. When it has begun, yield its process, and the id of the server's."""
    with serving() as targets:
        (server,) = map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()[-1:])
        with subprocess.Popen(load.argv("gap", targets), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
            assert client.stdout
            assert client.stdout.readline() == b"ready\n"
            yield client, server


def test_the_longest_gap_is_that_of_the_server() -> None:
    """The server stands still for 0.3 s, which is longer than the time after which the client sends again."""
    with exchanging() as (client, server):
        os.kill(server, signal.SIGSTOP)
        time.sleep(0.3)
        os.kill(server, signal.SIGCONT)
        time.sleep(0.1)  # it answers again
        out, _ = client.communicate()
    found = msgspec.json.decode(out, type=load.GapResult)
    assert found.longest_ns >= 300_000_000
    assert found.answers > 0
    assert found.lost >= 2
    assert found.elapsed_ns >= found.longest_ns


def test_a_gap_that_no_answer_ends_is_told_too() -> None:
    with exchanging() as (client, server):
        os.kill(server, signal.SIGSTOP)
        time.sleep(0.2)
        out, _ = client.communicate()
    assert msgspec.json.decode(out, type=load.GapResult).longest_ns >= 200_000_000


def test_a_server_that_is_not_there_has_no_gap() -> None:
    port = next(filter(_free, range(20_000, 30_000)))
    argv = load.argv("gap", [f"127.0.0.1:{port}"], timeout=1)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        assert client.stdout
        assert client.stdout.readline() == b""
        _, told = client.communicate()
    assert (client.returncode, told) == (1, b"vipload: no answer: Connection timed out\n")
