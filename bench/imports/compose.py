"""A compose or stack file, merged of several: services, networks, replicas and where they may run."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec.structs import replace

from bench.imports.found import Discovery, FoundNetwork, FoundService
from bench.imports.marked import Value

_MOST = 1000
"""The largest number of replicas of a service: that of a scenario."""
_MOST_PORTS = 64
_TOO_MANY = f"a scenario's service declares at most {_MOST_PORTS}"
_MTU = "com.docker.network.driver.mtu"
_VARIABLE = re.compile(r"\$(?:\{(?P<braced>\w+)(?::?(?P<kind>[-?+])(?P<rest>[^{}]*))?\}|(?P<plain>\w+)|\$)")
_CONSTRAINT = re.compile(r"\s*([\w.-]+)\s*(==|!=)\s*(\S.*?)\s*\Z")
_PORT = re.compile(r"(?:.*:)?(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?\Z", re.ASCII | re.IGNORECASE)
_TOP = ("version", "name", "services", "networks", "volumes", "secrets", "configs", "include", "models")
"""The keys of a compose file."""
_NOT_CARRIED = {
    "links": "a container of a scenario reaches every service of its network by name",
    "external_links": "a scenario has no containers of other projects",
    "extra_hosts": "a scenario's names are those of its services",
    "dns": "a container of a scenario asks its embedded DNS only",
    "mac_address": "a container's MAC is made of its address",
    "extends": "other services and files are not read",
    "sysctls": "containers of a scenario have the kernel's own settings",
}
"""Keys of a service that matter to the network and have no counterpart. Keys of the container itself are not noted."""


def is_compose(document: Value) -> bool:
    """Report whether a document is a compose file: it has services or networks, or it is of version 1."""
    top = document.data
    if not isinstance(top, dict) or "apiVersion" in top:
        return False
    if "services" in top or ("networks" in top and all(key in _TOP or key.startswith("x-") for key in top)):
        return True
    return bool(top) and all(
        isinstance(each.data, dict) and {"image", "build"} & set(each.data) for each in top.values()
    )


def of_version_2(document: Value) -> Value:
    """Return a compose file whose services are below `services`. In version 1 they are the file itself."""
    top = document.fields()
    return document if {"services", "networks"} & set(top) else replace(document, data={"services": document})


def discover(document: Value, found: Discovery) -> None:
    """Add the networks and the services of a compose file."""
    top = document.fields()
    if "include" in top:
        found.note(top["include"].where, "include", "other files are not read; give them as well")
    for name, network in document.at("networks").fields().items():
        _network(name, network, found)
    for name, service in document.at("services").fields().items():
        _service(name, service, found)


def _network(name: str, value: Value, found: Discovery) -> None:
    made = found.network(name, value.where)
    if _given(value.at("external")):
        found.note(value.where, f"external network {name}", "its subnet is not in this file; it gets one")
    driver = value.at("driver").text()
    if driver not in ("", "overlay"):
        found.note(value.at("driver").where, f"driver {driver}", "a scenario's networks are overlays")
    for key in ("internal", "enable_ipv6"):
        if _given(value.at(key)):
            found.note(value.at(key).where, f"{key} of the network {name}", "a scenario has no such networks")
    options = value.at("driver_opts")
    for key, option in options.fields().items() if isinstance(options.data, dict) else ():
        if key == _MTU:
            _mtu(option, made, found)
        else:
            found.note(option.where, f"driver option {key}", "a scenario has no such option")
    for item in value.at("ipam", "config").items():
        subnet = item.at("subnet")
        if ":" in subnet.text() or (subnet.text() and made.subnet):
            found.note(subnet.where, f"subnet {subnet.text()}", "a scenario's network has one subnet, of IPv4")
        elif subnet.text():
            made.subnet = _resolved(subnet, found) or ""


def _given(value: Value) -> bool:
    """Report whether a field is there and is not false. `external` may be a mapping with a name."""
    return value.data.lower() not in ("", "false") if isinstance(value.data, str) else value.data is not None


def _mtu(option: Value, made: FoundNetwork, found: Discovery) -> None:
    text = _resolved(option, found) or ""
    if text.isascii() and text.isdigit() and 576 <= int(text[:9]) <= 1450:
        made.mtu = int(text)
    else:
        found.note(option.where, f"MTU {text}", "that of a scenario's network is 576 to 1450; it gets 1450")


def _service(name: str, value: Value, found: Discovery) -> None:
    fields = value.fields()
    deploy = value.at("deploy")
    mode = deploy.at("mode").text()
    why = ""
    if fields.get("network_mode") and fields["network_mode"].text() not in ("", "bridge", "default"):
        why = f"network_mode {fields['network_mode'].text()}: its containers are on no network of their own"
    elif mode.endswith("-job"):
        why = "a job serves nobody"
    elif deploy.at("endpoint_mode").text() == "dnsrr":
        why = "endpoint_mode dnsrr: it has no VIP"
    if why:
        found.note(value.where, f"service {name}", f"{why}; it is left out")
        return
    networks = _networks(value, found)
    made = FoundService(name, value.where, networks[0], joins=networks[1:], everywhere=mode == "global")
    if made.joins:
        found.note(
            value.where,
            f"VIPs of {name} on {', '.join(made.joins)}",
            f"a scenario's service has one VIP, on {networks[0]}",
        )
    made.replicas = _replicas(value, found)
    _placement(deploy.at("placement"), made, found)
    made.ports = _ports(value, found)
    for key, why in _NOT_CARRIED.items():
        if key in fields:
            found.note(fields[key].where, f"{key} of {name}", why)
    found.services.append(made)


def _networks(value: Value, found: Discovery) -> list[str]:
    """Return the names of a service's networks. One that the file does not declare is added."""
    given = value.at("networks")
    named: list[tuple[str, Value]] = []
    if isinstance(given.data, dict):
        for name, options in given.data.items():
            named.append((name, options))
            for key, option in options.fields().items():
                if key in ("ipv4_address", "ipv6_address", "aliases", "link_local_ips", "mac_address"):
                    why = "a service's tasks have addresses of the network's pool, and its own name"
                    found.note(option.where, f"{key} on {name}", why)
    else:
        named = [(each.text(), each) for each in given.items()]
    for name, each in named:
        if not name:
            raise each.wrong("a network needs a name")
        found.network(name, each.where)
    if not named:
        found.network("default", value.where)
    return list(dict.fromkeys(name for name, _ in named)) or ["default"]


def _replicas(value: Value, found: Discovery) -> int:
    for given in (value.at("deploy", "replicas"), value.at("scale")):
        if given.data is not None:
            text = _resolved(given, found)
            if text is None:
                return 1
            return Value(given.file, given.line, given.field, text).number(0, _MOST)
    return 1


def _placement(value: Value, made: FoundService, found: Discovery) -> None:
    for key, each in value.fields().items():
        if key != "constraints":
            found.note(each.where, f"placement {key}", "replicas are spread over the nodes in turn")
    for each in value.at("constraints").items():
        text = _resolved(each, found) or ""
        match = _CONSTRAINT.match(text)
        key, equal, wanted = match.groups() if match else ("", "", "")
        if key == "node.hostname":
            if equal == "==":
                found.node(wanted)
            made.may_run.append(lambda node, _, equal=equal, wanted=wanted: (node == wanted) == (equal == "=="))  # type: ignore[misc]
        elif key == "node.role" and wanted in ("manager", "worker"):
            made.may_run.append(lambda _, role, equal=equal, wanted=wanted: (role == wanted) == (equal == "=="))  # type: ignore[misc]
        else:
            why = "a scenario's nodes have names and roles, and no other properties"
            found.note(each.where, f"constraint {text}", why if match else "it is not KEY==VALUE or KEY!=VALUE")


def _ports(value: Value, found: Discovery) -> list[str]:
    made: list[str] = []
    for each in _while_there_is_room(value.at("ports"), made, found):
        if isinstance(each.data, dict):
            target, protocol = each.at("target"), each.at("protocol").text() or "tcp"
            text = f"{_resolved(target, found) or ''}/{protocol}"
            published = each.at("published").text()
        else:
            text = _resolved(each, found) or ""
            published = text.rpartition(":")[0] if ":" in text else ""
        _add_ports(each, text, made, found)
        if published:
            found.note(
                each.where, f"published port {published}", "a scenario has no routing mesh; the VIP has the target port"
            )
    for each in _while_there_is_room(value.at("expose"), made, found):
        _add_ports(each, _resolved(each, found) or "", made, found)
    return made


def _while_there_is_room(listed: Value, made: list[str], found: Discovery) -> Iterator[Value]:
    """Yield the values of a list until a service has as many ports as it can have. The others are noted once."""
    for each in listed.items():
        if len(made) >= _MOST_PORTS:
            found.note(each.where, "further ports", _TOO_MANY)
            return
        yield each


def _add_ports(value: Value, text: str, made: list[str], found: Discovery) -> None:
    """Add a port, or a range of ports. One that cannot be known is noted."""
    match = _PORT.match(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not match or not 0 < first <= last < 65536:
        found.note(value.where, f"port {text}", "it is not [ADDRESS:][PUBLISHED:]PORT[/PROTOCOL]; it is left out")
        return
    ports = [f"{number}/{(match[3] or 'tcp').lower()}" for number in range(first, min(last, first + _MOST_PORTS) + 1)]
    new = [each for each in ports if each not in made]
    room = _MOST_PORTS - len(made)
    if len(new) > room:
        found.note(value.where, f"ports {text}", _TOO_MANY)
    made += new[:room]


def _resolved(value: Value, found: Discovery) -> str | None:
    """Return a text whose variables have their defaults, or None if one has none."""
    text, missing = value.text(), []

    def default(match: re.Match[str]) -> str:
        name = match["braced"] or match["plain"]
        if name and match["kind"] != "-":
            missing.append(name)
        return (match["rest"] or "") if name else "$"

    made = _VARIABLE.sub(default, text)
    if missing:
        found.note(value.where, value.field.rpartition(".")[2], f"the variable {missing[0]} has no default in the file")
        return None
    return made
