"""What a balancer has programmed, told by names: two walks of one world are alike, whatever was chosen anew."""

from __future__ import annotations

from typing import Any

from bench.report.programmed import compared, parsed, programmed, text


def _namespace(kind: str, name: str, **sections: list[str]) -> dict[str, Any]:
    commands = {"address": "ip address", "mangle": "iptables -t mangle -S", "ipvs": "ipvsadm -Ln", "fdb": "bridge fdb"}
    commands |= {"neighbour": "ip neighbour", "nat": "iptables -t nat -S", "sysctl": "sysctl"}
    told = [{"command": commands[each], "lines": [[" ", line] for line in lines]} for each, lines in sections.items()]
    return {"kind": kind, "name": f"b1-{name}", "node": "worker2", "sections": told}


def _walk(own: int, vip: int, web: int, client: int, mark: int, *, weight: int = 1) -> dict[str, Any]:
    """Return a walk through a balancer of one service, with addresses and a mark of one's choice."""
    return {
        "namespaces": [
            _namespace("host", "worker2", address=["    inet 192.168.99.102/20 brd 1.2.3.4 scope global eth0"]),
            _namespace(
                "overlay",
                "worker2.my-network",
                neighbour=[
                    f"10.0.0.{web} dev vxlan0 lladdr 02:42:0a:00:00:{web:02x} PERMANENT",
                    f"10.0.0.{client} dev br0 lladdr 02:42:0a:00:00:{client:02x} REACHABLE",
                ],
                fdb=[f"02:42:0a:00:00:{web:02x} dev vxlan0 dst 192.168.99.102 link-netnsid {own} self permanent"],
            ),
            _namespace("container", "my-web.1", address=[f"    inet 10.0.0.{web}/24 scope global eth0"]),
            _namespace(
                "container",
                "my-busybox.1",
                address=[f"    inet 10.0.0.{client}/24 scope global eth0", "    inet 172.17.0.5/16 scope global eth1"],
                nat=["-P OUTPUT ACCEPT", f"-A X -d 127.0.0.11/32 -j DNAT --to-destination 127.0.0.11:{40000 + own}"],
            ),
            _namespace(
                "lb",
                "lb.worker2.my-network",
                address=[
                    "    inet 127.0.0.1/8 scope host lo",
                    f"    inet 10.0.0.{own}/24 scope global eth0",
                    f"    inet 10.0.0.{vip}/32 scope global eth0",
                ],
                mangle=["-P INPUT DROP", f"-A INPUT -d 10.0.0.{vip}/32 -j MARK --set-xmark 0x{mark:x}/0xffffffff"],
                ipvs=[f"FWM  {mark} rr", f"  -> 10.0.0.{web}:0                   Masq    {weight}      3          7"],
                sysctl=["net.ipv4.ip_forward = 1"],
            ),
        ]
    }


def test_what_was_chosen_anew_stands_there_by_its_name() -> None:
    found = programmed(_walk(4, 2, 3, 9, 256))
    assert found["lb", "ip address"] == ["VIP(my-web)/32 on eth0", "lb.worker2/24 on eth0"]
    marked = "-A INPUT -d VIP(my-web)/32 -j MARK --set-xmark mark(my-web)/0xffffffff"
    assert found["lb", "iptables -t mangle -S"] == ["-P INPUT DROP", marked]
    assert found["lb", "ipvsadm -Ln"] == ["FWM mark(my-web) rr -> my-web.1 Masq 1"]
    assert found["overlay", "ip neighbour"] == ["my-web.1 dev vxlan0 lladdr mac(my-web.1) PERMANENT"]
    assert found["overlay", "bridge fdb"] == ["mac(my-web.1) dev vxlan0 dst worker2 self permanent"]
    assert found["container", "ip address"] == ["172.17.0.5/16 on eth1", "my-busybox.1/24 on eth0"]
    rule = "-A X -d 127.0.0.11/32 -j DNAT --to-destination 127.0.0.11:PORT"
    assert found["container", "iptables -t nat -S"] == [rule]


def test_the_same_world_is_alike_and_a_difference_is_told() -> None:
    one, again = programmed(_walk(4, 2, 3, 9, 256)), programmed(_walk(7, 12, 5, 6, 300))
    assert not [*compared(one, again)]
    assert parsed(text(one)) == one
    drained = programmed(_walk(4, 2, 3, 9, 256, weight=0))
    assert [*compared(one, drained)] == [
        "@@ lb: ipvsadm -Ln @@",
        "-FWM mark(my-web) rr -> my-web.1 Masq 1",
        "+FWM mark(my-web) rr -> my-web.1 Masq 0",
    ]


def test_what_the_plane_has_replaced_is_not_told() -> None:
    walk = _walk(4, 2, 3, 9, 256)
    balancer = walk["namespaces"][-1]
    balancer["sections"][-1]["lines"] = [["-", "net.ipv4.ip_forward = 0"], ["+", "net.ipv4.ip_forward = 1"]]
    assert programmed(walk)["lb", "sysctl"] == ["net.ipv4.ip_forward = 1"]
