"""`bench trace` as its user runs it: the way of a request and of its answer."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from tests.program.command import bench


def test_trace_tells_where_a_request_and_its_answer_are_rewritten(tmp_path: Path) -> None:
    asked = ("--dataplane", "nft-lb", "--kernel", "guest", "--from", "my-web.3", "--protocol", "udp")
    done = bench("trace", *asked, "--svg", str(tmp_path / "way.svg"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("nft-lb: my-web.3 (10.0.0.5:40001) asks my-web (10.0.0.2:80) by UDP\n")
    assert "lb.worker1.my-network eth0 PREROUTING         to 10.0.0.2:80 -> 10.0.0." in done.stdout
    assert [done.stdout.count(f"  arrived  [ct {state}]\n") for state in ("new", "established reply")] == [1, 1]
    drawing = ET.parse(tmp_path / "way.svg").getroot()
    texts = [text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert {"node worker1", "load balancer", "my-web.3", "eth0 PREROUTING", "eth0 POSTROUTING"} <= {*texts}


def test_packets_that_two_processors_handle_are_followed() -> None:
    steered = "awk 'NR == 2 { print $10 }' /proc/net/softnet_stat"  # what others have left to the second processor
    command = (
        f"before=$({steered}); echo 2 >/sys/class/net/eth0/queues/rx-0/rps_cpus; "
        "taskset -c 0 bash -c 'exec 3<>/dev/tcp/lone/80 && printf w >&3 && head -c 1 <&3' && "
        f"test $({steered}) != $before"
    )
    asked = ("--dataplane", "nft-lb", "--kernel", "guest", "--scenario", "matrix", "--to", "lone")
    done = bench("trace", *asked, "--", "bash", "-c", command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "my-busybox.1 eth0                             arrived  [ct established reply]" in done.stdout
    assert "lost" not in done.stdout
