"""The picture of the walk shows everything, and marks what the plane added."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

from bench.report.drawing import draw


def namespace(name: str, kind: str, node: str, *sections: tuple[str, list[list[str]]]) -> dict[str, Any]:
    told = [{"command": command, "lines": lines} for command, lines in sections]
    return {"name": f"b1-{name}", "kind": kind, "node": node, "sections": told}


WALK = {
    "namespaces": [
        namespace("w1", "host", "w1", ("ip address", [[" ", "2: eth0: <UP>"], [" ", "    inet 192.168.99.1/20 eth0"]])),
        namespace(
            "w1.net",
            "overlay",
            "w1",
            (
                "ip address",
                [
                    ["-", "2: br0: <NO-CARRIER>"],
                    ["+", "2: br0: <UP>"],
                    [" ", "    inet 10.0.0.1/24 br0"],
                    ["+", "    inet 10.0.0.2/32 br0"],
                ],
            ),
            ("iptables -t mangle -S", [[" ", "-P INPUT ACCEPT"], ["+", "-A INPUT -d 10.0.0.2/32 -j MARK"]]),
            ("nft list ruleset", [["+", f"line {n}"] for n in range(20)]),
        ),
        namespace(
            "web.1", "container", "w1", ("ip address", [[" ", "3: eth0@if4: <UP>"], [" ", "  inet 10.0.0.3/24"]])
        ),
        namespace("plane", "plane", "all"),
    ]
}


def test_namespaces_addresses_and_what_was_added_are_drawn() -> None:
    drawing = draw(WALK, "x on <seed>")
    ET.fromstring(drawing)
    lines = re.findall(r"<text[^>]*>([^<]*)</text>", drawing)
    assert {"x on &lt;seed&gt;", "web.1", "w1.net", "w1", "underlay"} <= set(lines)
    assert "+ br0 10.0.0.2/32" in lines
    assert "  br0 10.0.0.1/24" in lines  # the link came up, and is not new
    assert "+ -A INPUT -d 10.0.0.2/32 -j MARK" in lines
    assert "+ 20 nft lines" in lines
    assert "plane" not in lines


def test_what_was_added_is_bold() -> None:
    assert re.search(r'font-weight="bold">\+ br0 10.0.0.2/32<', draw(WALK, "x"))
