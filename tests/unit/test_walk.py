"""The walk marks only what the plane has changed: no earlier lines, and none that change by themselves."""

from __future__ import annotations

import pytest

from scenarios.walk import _sections

UP = "2: br0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UP group default qlen 1000"


def marked(command: str, before: list[str], after: list[str]) -> list[str]:
    found = [section for section in _sections({command: before}, {command: after}) if section["command"] == command]
    return [f"{mark}{line}" for section in found for mark, line in section["lines"] if mark != " "]


@pytest.mark.parametrize(
    ("command", "before", "after"),
    [
        ("ip address", [UP.replace("state UP", "state UNKNOWN")], [UP]),
        ("ip address", [UP.replace("<BROADCAST", "<NO-CARRIER,BROADCAST").replace(",LOWER_UP", "")], [UP]),
        ("ip neighbour", ["10.0.0.1 dev eth0 lladdr 02:42:0a:00:00:01 STALE"], []),
        ("ip neighbour", [], ["10.0.0.1 dev eth0 lladdr 02:42:0a:00:00:01 REACHABLE"]),
        ("ip neighbour", [], ["10.0.0.1 dev eth0 FAILED"]),
        ("bridge fdb", ["aa dev veth1 permanent", "bb dev veth2"], ["bb dev veth2", "aa dev veth1 permanent"]),
        ("nft list ruleset", ["counter packets 3 bytes 120 accept"], ["counter packets 4 bytes 180 accept"]),
        (
            "ipvsadm -Ln",
            ["FWM  257 rr", "  -> 10.0.0.3:0    Masq    1      0          0"],
            ["FWM  257 rr", "  -> 10.0.0.3:0    Masq    1      2          17"],
        ),
    ],
)
def test_what_changes_by_itself_is_not_marked(command: str, before: list[str], after: list[str]) -> None:
    assert marked(command, before, after) == []


@pytest.mark.parametrize(
    ("command", "before", "after", "says"),
    [
        ("ip address", [UP], [UP, "    inet 10.0.0.2/32 scope global br0"], ["+    inet 10.0.0.2/32 scope global br0"]),
        ("ip address", [UP], [UP.replace("1450", "1400")], [f"-{UP}", f"+{UP.replace('1450', '1400')}"]),
        (
            "ip neighbour",
            ["10.0.0.1 dev vxlan0 lladdr 02 PERMANENT"],
            ["10.0.0.9 dev vxlan0 lladdr 09 PERMANENT"],
            ["+10.0.0.9 dev vxlan0 lladdr 09 PERMANENT", "-10.0.0.1 dev vxlan0 lladdr 02 PERMANENT"],
        ),
        ("sysctl", ["a = 0", "b = 1"], ["b = 1", "a = 1"], ["+a = 1", "-a = 0"]),
        (
            "ipvsadm -Ln",
            ["FWM  257 rr"],
            ["FWM  257 rr", "  -> 10.0.0.3:0    Masq    1      0          0"],
            ["+  -> 10.0.0.3:0    Masq    1      0          0"],
        ),
        (
            "ipvsadm -Ln",
            ["  -> 10.0.0.3:0    Masq    1      0          0"],
            ["  -> 10.0.0.4:0    Masq    1      0          0"],
            [
                "-  -> 10.0.0.3:0    Masq    1      0          0",
                "+  -> 10.0.0.4:0    Masq    1      0          0",
            ],
        ),
    ],
)
def test_what_the_plane_changed_is(command: str, before: list[str], after: list[str], says: list[str]) -> None:
    assert marked(command, before, after) == says
