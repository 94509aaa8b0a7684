"""A world that is built by hand, as an administrator would: `ip`, `bridge` and `nft`, and nothing of this program.

Three nodes are on an underlay. Each has a bridge and a VXLAN for the network 10.9.0.0/24. Every container balances the
VIPs for itself: nft rewrites the destination of what it sends, in turn.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NODES = ("one", "two", "three")
CONTAINERS = {
    "shell": ("one", "10.9.0.2"),
    "shop.a": ("two", "10.9.0.3"),
    "shop.b": ("one", "10.9.0.4"),
    "shop.c": ("one", "10.9.0.5"),
    "api.a": ("two", "10.9.0.6"),
    "guest": ("three", "10.9.0.7"),
}
"""A container -> its node and its address."""
VERBS = ("create", "scale", "drain", "remove")
VIPS = {"10.9.0.100": ("shop.a", "shop.b", "shop.c"), "10.9.0.101": ("api.a",)}


def run(*argv: str, stdin: str = "") -> str:
    """Run a program, and return what it prints."""
    return subprocess.run(argv, input=stdin, check=True, capture_output=True, text=True).stdout


@contextmanager
def world(run_name: str) -> Iterator[str]:
    """Build the world. Yield the prefix of its namespaces."""
    prefix = f"hand-{run_name}-"
    spaces = [prefix + name for name in ("wire", *NODES, *CONTAINERS)]
    try:
        for name in spaces:
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        _underlay(prefix)
        for name, (node, address) in CONTAINERS.items():
            _container(prefix, name, node, address)
        yield prefix
    finally:
        made = [line.split()[0] for line in run("ip", "netns", "list").splitlines() if line.startswith(prefix)]
        for name in made:
            subprocess.run(("ip", "netns", "delete", name), check=False, capture_output=True)


def _ip(namespace: str, *lines: str) -> None:
    run("ip", "-n", namespace, "-batch", "-", stdin="\n".join(lines))


def _underlay(prefix: str) -> None:
    wire = f"{prefix}wire"
    _ip(wire, "link add sw0 type bridge", "link set sw0 up")
    for number, node in enumerate(NODES, 1):
        name = prefix + node
        _ip(wire, f"link add p{number} type veth peer name eth0 netns {name}", f"link set p{number} up master sw0")
        _ip(
            name,
            "link set eth0 up",
            f"address add 192.168.77.{number}/24 dev eth0",
            "link add br0 mtu 1450 type bridge",
            f"link add vx0 mtu 1450 type vxlan id 77 dstport 4789 local 192.168.77.{number} dev eth0",
            "link set vx0 up master br0",
            "link set br0 up",
        )
        for other in range(1, len(NODES) + 1):
            if other != number:
                run(
                    "bridge",
                    "-n",
                    name,
                    "fdb",
                    "append",
                    "00:00:00:00:00:00",
                    "dev",
                    "vx0",
                    "dst",
                    f"192.168.77.{other}",
                )


def _container(prefix: str, name: str, node: str, address: str) -> None:
    own, number = prefix + name, int(address.rpartition(".")[2])
    port, mac = f"c{number}", f"02:42:0a:09:00:{number:02x}"  # a MAC by address, which neighbours may remember
    _ip(prefix + node, f"link add {port} mtu 1450 type veth peer name eth0 address {mac} mtu 1450 netns {own}")
    _ip(prefix + node, f"link set {port} up master br0")
    _ip(own, "link set eth0 up", f"address add {address}/24 dev eth0")
    balance(own)


def balance(container: str, vips: Mapping[str, Sequence[str]] | None = None) -> None:
    """Have a container's namespace balance every VIP, which is given with the addresses of its backends."""
    vips = {vip: [CONTAINERS[task][1] for task in tasks] for vip, tasks in VIPS.items()} if vips is None else vips
    rules = [f"ip daddr {vip} {_dnat(addresses)}" for vip, addresses in vips.items()]
    chain = "\n".join(["type nat hook output priority -100", *rules])
    table = f"table ip balance\ndelete table ip balance\ntable ip balance {{\nchain out {{\n{chain}\n}}\n}}\n"
    run("ip", "netns", "exec", container, "nft", "-f", "-", stdin=table)


def _dnat(addresses: Sequence[str]) -> str:
    if len(addresses) < 2:
        return f"dnat to {addresses[0]}" if addresses else "reject"
    turns = ", ".join(f"{number} : {address}" for number, address in enumerate(addresses))
    return f"dnat to numgen inc mod {len(addresses)} map {{ {turns} }}"


def described(prefix: str, *, operated: str = "") -> str:
    """Return the world file. With commands, these keep what they have made in the file `operated`."""
    parts = ['name = "by-hand"']
    command = json.dumps([sys.executable, str(Path(__file__).resolve()), prefix, operated])
    if operated:
        parts.append("\n".join(["[commands]", *(f"{verb} = {command}" for verb in VERBS)]))
    parts += [f'[[nodes]]\nname = "{node}"\nnetns = "{prefix}{node}"' for node in NODES]
    parts.append('[[networks]]\nname = "front"\nsubnet = "10.9.0.0/24"')
    for name, role, vip in (("shop", "my-web", "10.9.0.100"), ("api", "lone", "10.9.0.101")):
        parts.append(f'[[services]]\nname = "{name}"\nnetwork = "front"\nvip = "{vip}"\nstands_for = "{role}"')
    for name, (node, address) in CONTAINERS.items():
        lines = [f'name = "{name}"', f'node = "{node}"', f'netns = "{prefix}{name}"']
        lines.append(f'addresses = {{ front = "{address}" }}')
        if "." in name:
            lines.append(f'service = "{name.partition(".")[0]}"')
        else:
            lines.append(f'stands_for = "{"my-busybox.1" if name == "shell" else "visitor.1"}"')
        parts.append("\n".join(["[[containers]]", *lines]))
    return "\n\n".join(parts) + "\n"


class Operator:
    """The owner's commands. What they have made is in a file."""

    def __init__(self, prefix: str, path: Path) -> None:
        self._prefix, self._path = prefix, path
        self._made: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"services": {}, "last": 120}

    def do(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Make a change, and return the answer."""
        services = self._made["services"]
        if asked["verb"] == "create":
            services[asked["service"]] = {"vip": asked.get("vip") or self._address(), "containers": {}, "drained": []}
        service = services[asked["service"]]
        if asked["verb"] == "drain":
            service["drained"].append(asked["container"])
        else:
            self._make_exactly(service, asked.get("containers", []))
        if asked["verb"] == "remove":
            del services[asked["service"]]
        self._balance()
        self._path.write_text(json.dumps(self._made))
        made = [
            {"name": name, "netns": self._prefix + name, "address": at} for name, at in service["containers"].items()
        ]
        return {"vip": service["vip"], "containers": made} if asked["verb"] in ("create", "scale") else {}

    def _address(self) -> str:
        services = self._made["services"].values()
        used = {each["vip"] for each in services} | {at for each in services for at in each["containers"].values()}
        while True:
            self._made["last"] = self._made["last"] + 1 if self._made["last"] < 250 else 120
            if (found := f"10.9.0.{self._made['last']}") not in used:
                return found

    def _make_exactly(self, service: dict[str, Any], wanted: list[dict[str, str]]) -> None:
        there, names = service["containers"], [each["name"] for each in wanted]
        for name in [each for each in there if each not in names]:
            run("ip", "netns", "delete", self._prefix + name)
            del there[name]
        for each in [each for each in wanted if each["name"] not in there]:
            there[each["name"]] = each.get("address") or self._address()
            own = self._prefix + each["name"]
            run("ip", "netns", "add", own)
            run("ip", "-n", own, "link", "set", "lo", "up")
            _container(self._prefix, each["name"], each["node"], there[each["name"]])

    def _balance(self) -> None:
        vips = {vip: [CONTAINERS[task][1] for task in tasks] for vip, tasks in VIPS.items()}
        made: list[str] = []
        for service in self._made["services"].values():
            made += service["containers"]
            vips[service["vip"]] = [at for name, at in service["containers"].items() if name not in service["drained"]]
        for name in (*CONTAINERS, *made):
            balance(self._prefix + name, vips)


if __name__ == "__main__":
    json.dump(Operator(sys.argv[1], Path(sys.argv[2])).do(json.load(sys.stdin)), sys.stdout)
