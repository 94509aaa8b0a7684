"""resync() restores what others have done to a plane's state, and after a flush the next change restores it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from dataplanes.ebpf import Ebpf
from dataplanes.kernel import bpf, nft, process, sysctl
from dataplanes.kernel.netlink import Request
from dataplanes.kernel.rtnl import Rtnl
from dataplanes.placed import PlacedPlane
from scenarios.checks.backends import reached
from scenarios.flush import flush_one
from scenarios.lab import Lab
from tests.lab.conftest import View, running
from tests.lab.facts import facts
from tests.lab.test_seed import AT_RANDOM, PROGRAMMED, SERVING

Damage = Callable[[Lab], None]


def flush(lab: Lab) -> None:
    """Flush packet filters, IPVS, classifiers and the programs of cgroups."""
    for _, _, name in lab.namespaces():
        list(flush_one(name))
    for container in lab.containers.values():
        if container.cgroup:
            assert bpf.detach_all(container.cgroup)


def replace_rules(lab: Lab) -> None:
    """Replace elements of the planes' nftables tables by as many others."""
    for _, _, name in lab.namespaces():
        for family, table in _tables(name):
            listed = json.loads(process.run(name, ("nft", "-j", "-a", "list", "table", family, table)))["nftables"]
            rules = [each["rule"] for each in listed if "rule" in each]
            commands = [
                f"replace rule {family} {table} {each['chain']} handle {each['handle']} ip daddr 192.0.2.1 counter drop"
                for each in rules
            ]
            process.run(name, ("nft", "; ".join(commands)))


def replace_elements(lab: Lab) -> None:
    """Replace a backend in the planes' nftables maps by an unused address."""
    for _, _, name in lab.namespaces():
        for family, table in _tables(name)[-1:]:
            vip = lab.service("my-web").vip
            process.run(name, ("nft", f"delete element {family} {table} backends {{ {vip} . 1 }}"))
            process.run(name, ("nft", f"add element {family} {table} backends {{ {vip} . 1 : 10.0.0.99 }}"))


def _tables(name: str) -> list[tuple[str, str]]:
    """Return family and name of the planes' tables. The last one has the backends."""
    found = re.findall(r"table (\w+) (\S+)", process.run(name, ("nft", "list", "tables")))
    return sorted(((family, table) for family, table in found if table.startswith(nft.OURS)), reverse=True)


def disown(lab: Lab) -> None:
    """Remove the VIPs, both as addresses and as routes."""
    vips = [service.vip for service in lab.services()]
    for _, _, name in lab.namespaces():
        with Rtnl(name) as rtnl:
            names = {link.index: link.name for link in rtnl.links()}
            gone: list[Request] = [
                rtnl.address_del(names[each["index"]], f"{each.get_attr('IFA_LOCAL')}/32")
                for each in rtnl.addresses()
                if each.get_attr("IFA_LOCAL") in vips
            ]
            gone += [
                rtnl.local_del(names[each.get_attr("RTA_OIF")], each.get_attr("RTA_DST"))
                if each["type"] == 2  # RTN_LOCAL
                else rtnl.route_del(f"{each.get_attr('RTA_DST')}/32", interface=names[each.get_attr("RTA_OIF")])
                for each in rtnl.routes()
                if each.get_attr("RTA_DST") in vips and each["proto"] == 4  # RTPROT_STATIC: no address has it
            ]
            rtnl.send(gone)


def unset(lab: Lab) -> None:
    """Set the sysctls to their values from before the plane."""
    assert isinstance(lab.plane, PlacedPlane)
    users = [lab.plane._placement, *(post.director for post in lab.plane._all_posts())]
    users += [user._shared for user in users if hasattr(user, "_shared")]
    for settings in [user._settings for user in users if hasattr(user, "_settings")]:
        for name, before in settings._before.values():
            sysctl.write(name, before)


def empty(lab: Lab) -> None:
    """Empty the BPF maps, as root can."""
    assert isinstance(lab.plane, PlacedPlane)
    assert isinstance(lab.plane._mechanism, Ebpf)
    for table in lab.plane._mechanism._tables.values():
        for name in {"services", "turns", "stations"} & table.loaded.maps.keys():
            each = table.loaded.maps[name]
            each.delete([key for key, _ in each.items()])


def damages(dataplane: str) -> dict[Damage, bool]:
    """What is done to a plane, and whether the next change notices it."""
    if dataplane.startswith("ebpf"):
        return {flush: True, empty: False}
    found: dict[Damage, bool] = {flush: True}
    if dataplane.startswith("nft"):
        found |= {replace_rules: True, replace_elements: True}
    if dataplane.startswith(("kube-nftables", "moby-nftables")):
        found |= {replace_rules: True}
    return found if dataplane == "nft-container" else found | {unset: False, disown: False}


@pytest.mark.parametrize("dataplane", [*SERVING, *AT_RANDOM, "ipvs-lb-dsr", *PROGRAMMED])
def test_what_others_undo_is_restored(dataplane: str) -> None:
    with running(dataplane) as lab:
        assert lab.plane
        web = lab.service("my-web")
        before = facts(lab)
        for damage, noticed in damages(dataplane).items():
            damage(lab)
            lab.plane.resync()
            assert facts(lab) == before, damage.__doc__
            assert set(reached([*"123"], lambda: View(lab).who()[0])) == {*"123"}
            if noticed:
                damage(lab)
                lab.plane.apply([replace(web, backends=web.backends[:2])])
                assert set(reached([*"12"], lambda: View(lab).who()[0])) == {*"12"}
                lab.plane.apply([web])
                assert facts(lab) == before, damage.__doc__
