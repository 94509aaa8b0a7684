"""The output of `ipvsadm -S` or `ipvsadm -Sn`: virtual services, and their real servers with weights."""

from __future__ import annotations

import re
import shlex
import socket

from bench.imports.found import Discovery, FoundBackend, Virtual, is_address, take_virtuals
from dataplanes.errors import Usage

_FIRST = re.compile(r"\s*(?:\S*ipvsadm|-[AaEe]|--(?:add|edit)-(?:service|server))\s", re.ASCII)
_KINDS = {"-t": "tcp", "--tcp-service": "tcp", "-u": "udp", "--udp-service": "udp", "--sctp-service": "sctp"}
_SERVICE = ("-A", "-E", "--add-service", "--edit-service")
_SERVER = ("-a", "-e", "--add-server", "--edit-server")
_WITH_VALUE = {
    "-s": "scheduler", "--scheduler": "scheduler", "-r": "server", "--real-server": "server",
    "-w": "weight", "--weight": "weight", "-f": "mark", "--fwmark-service": "mark",
    "-M": "netmask", "--netmask": "netmask", "-b": "flags", "--sched-flags": "flags", "--pe": "engine",
    "-x": "upper threshold", "--u-threshold": "upper threshold", "-y": "lower threshold",
    "--l-threshold": "lower threshold", "--tun-type": "tunnel", "--tun-port": "tunnel port",
}  # fmt: skip
_WITHOUT = {
    "-g": "forwarding", "--gatewaying": "forwarding", "-i": "forwarding", "--ipip": "forwarding",
    "-m": "forwarding", "--masquerading": "forwarding", "-o": "one packet", "--ops": "one packet", "-6": "ipv6",
    "--ipv6": "ipv6", "--tun-nocsum": "checksum", "--tun-csum": "checksum", "--tun-remcsum": "checksum",
    "-n": "numeric", "--numeric": "numeric",
}  # fmt: skip
_PERSISTENT = ("-p", "--persistent")
_TOLD = ("netmask", "flags", "engine", "upper threshold", "lower threshold", "one packet", "persistence")
_PLAIN = ("rr", "wrr")
_MOST = 256


def is_ipvsadm(text: str) -> bool:
    """Report whether a text is such output: its first line that is no comment is a command or an option of ipvsadm."""
    first = next((line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")), "")
    return bool(_FIRST.match(first))


def discover(text: str, path: str, found: Discovery) -> None:
    """Add the services of `ipvsadm -S`."""
    virtuals: dict[tuple[str, str], Virtual] = {}
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{path}:{number}"
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise Usage("the line cannot be read", where=where, why=str(error)) from error
        if words and words[0].endswith("ipvsadm"):
            words = words[1:]
        if not words:
            continue
        if words[0] not in (*_SERVICE, *_SERVER):
            found.note(where, " ".join(words)[:60], "it adds no service and no real server")
            continue
        told = _told(words[1:], where)
        key = told.get("protocol", "mark"), told.get("virtual", "")
        if words[0] in _SERVICE:
            _virtual(told, where, virtuals, key, found)
        elif key not in virtuals:
            raise Usage("no line before adds this virtual service", where=f"{where}: {key[1]}")
        else:
            _server(told, where, virtuals[key], found)
    take_virtuals(found, [each for each in virtuals.values() if each.backends or each.vip], "servers")


def _told(words: list[str], where: str) -> dict[str, str]:
    """Return the options of a line by their meaning. The options of the protocol give `protocol` and `virtual`."""
    told: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        if word in _PERSISTENT or word in _WITHOUT:
            told[_WITHOUT.get(word, "persistence")] = word
        elif word.isascii() and word.isdigit() and told.get("persistence") in _PERSISTENT:
            told["persistence"] = word  # its time-out, which may be left out
        elif word in _KINDS or word in _WITH_VALUE:
            value = next(rest, None)
            if value is None:
                raise Usage(f"{word} needs a value", where=where)
            if "$" in value:
                raise Usage(
                    f"{value!r:.40} is a variable of a shell", where=where, fix="give the output of ipvsadm -Sn"
                )
            told["virtual" if word in _KINDS else _WITH_VALUE[word]] = value
            if word in _KINDS:
                told["protocol"] = _KINDS[word]
        else:
            raise Usage(f"there is no option {word!r:.40}", where=where, fix="give the output of ipvsadm -Sn")
    told.setdefault("virtual", told.get("mark", ""))
    if not told["virtual"]:
        raise Usage("the line names no virtual service", where=where, fix="-t, -u, --sctp-service or -f does")
    return told


def _virtual(
    told: dict[str, str], where: str, virtuals: dict[tuple[str, str], Virtual], key: tuple[str, str], found: Discovery
) -> None:
    virtual = told["virtual"]
    if key in virtuals:
        raise Usage("this virtual service was added before", where=f"{where}: {virtual}")
    for what in _TOLD:
        if what in told:
            found.note(where, f"{what} of {virtual}", "a scenario's services have no such rule")
    if told.get("scheduler", "wlc") not in _PLAIN:
        why = "the data plane has its own; weights are carried over"
        found.note(where, f"scheduler {told.get('scheduler', 'wlc')} of {virtual}", why)
    if "mark" in told:
        found.note(
            where,
            f"mark {virtual}",
            "which packets have it is not in this file; the service gets a VIP, with every port",
        )
        virtuals[key] = Virtual(where, "", "", 0, [], f"mark-{virtual}")
        return
    host, port = _split(virtual, told["protocol"], where)
    if ":" in host:
        found.note(where, f"virtual service {virtual}", "a scenario's VIPs are IPv4; it gets one")
    elif not is_address(host):
        found.note(
            where,
            f"virtual service {virtual}",
            "its address is a name here; it gets a VIP (ipvsadm -Sn tells addresses)",
        )
    vip = host if is_address(host) else ""
    name = "" if vip else f"{host.partition('.')[0].replace(':', '-')}-{port}"
    virtuals[key] = Virtual(where, vip, told["protocol"], port, [], name)


def _server(told: dict[str, str], where: str, virtual: Virtual, found: Discovery) -> None:
    host, port = _split(told.get("server", ""), told.get("protocol", "tcp"), where)
    if not host:
        raise Usage("the line names no real server", where=where, fix="-r does")
    text = told.get("weight", "1")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Usage(f"{text!r:.40} is not a weight", where=where)
    weight = int(text)
    if weight > _MOST:
        found.note(where, f"weight {weight} of {host}", f"a scenario's weights are at most {_MOST}; it gets {_MOST}")
    if virtual.port and port not in (0, virtual.port):
        found.note(
            where, f"port {port} of {host}", "ports are not translated in a scenario; backends serve the VIP's port"
        )
    address = host if is_address(host) else ""
    if not address:
        found.note(where, f"real server {host}", "it is no IPv4 address; the backend gets one")
    elif address in {each.address for each in virtual.backends}:
        found.note(where, f"real server {host}:{port}", "a container of a scenario is one backend of a service")
        return
    virtual.backends.append(FoundBackend(where, address, weight=min(weight, _MOST)))


def _split(text: str, protocol: str, where: str) -> tuple[str, int]:
    """Return the host and the port of ADDRESS[:PORT]; 0 without one."""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = text.partition(":")
    if not port:
        return host, 0
    if not (port.isascii() and port.isdigit()):
        try:
            return host, socket.getservbyname(port, protocol)
        except (OSError, UnicodeError, ValueError) as error:
            raise Usage(
                f"no port has the name {port!r:.40}", where=where, fix="give the output of ipvsadm -Sn"
            ) from error
    if len(port) > 5 or int(port) > 65535:
        raise Usage(f"{port!r:.40} is not a port", where=where)
    return host, int(port)
