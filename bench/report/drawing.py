"""The picture of `bench inspect --svg`.

It has a column per node, with containers above, the overlay and the host below.

Lines that the plane added are in bold behind a plus, so that they show in grey as well.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any

from msgspec import Struct

_LINE, _PAD, _GAP, _WIDTH, _TITLE = 16, 10, 22, 320, 20
_ORDER = ("container", "lb", "overlay", "host")
_LINK = re.compile(r"\d+: ([\w.]+)(?:@\S+)?:")
_INET = re.compile(r"inet (\S+)")
_COUNTED = {
    "iptables -t nat -S": "nat rule",
    "iptables -t mangle -S": "mangle rule",
    "iptables -t filter -S": "filter rule",
    "ipvsadm -Ln": "IPVS line",
    "nft list ruleset": "nft line",
    "ip route show table local proto static": "local route",
    "tc filter": "tc filter",
    "sysctl": "setting",
}
_MOST_LINES = 6


class Box(Struct):
    """A namespace: its title, its lines with their marks, and its position."""

    name: str
    kind: str
    node: str
    lines: list[tuple[bool, str]]
    x: int = 0
    y: int = 0

    @property
    def height(self) -> int:
        """The height in pixels."""
        return _TITLE + _LINE * len(self.lines) + _PAD


def draw(report: dict[str, Any], title: str) -> str:
    """Return the picture of the walk that `scenarios.walk.report` made."""
    boxes = [_box(each) for each in report["namespaces"] if each["kind"] in _ORDER]
    nodes = list(dict.fromkeys(box.node for box in boxes))
    bottoms = _place(boxes, nodes)
    width, height = _PAD * 2 + len(nodes) * (_WIDTH + _GAP) - _GAP, max(bottoms.values()) + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title)}"'
        f' viewBox="0 0 {width} {height}" font-family="ui-monospace, monospace" font-size="11"'
        ' fill="currentColor" stroke="none">',
        "<style>svg{color:#1a1a1a;background:#fff}"
        "@media(prefers-color-scheme:dark){svg{color:#e8e8e6;background:#161616}}"
        "rect,path{fill:none;stroke:currentColor}.overlay{stroke-width:2}.lb{stroke-dasharray:5 3}</style>",
        f'<text x="{_PAD}" y="18" font-size="14" font-weight="bold">{escape(title)}</text>',
        *(part for box in boxes for part in _drawn(box)),
        *_links(boxes, nodes, height - 30),
    ]
    parts.append(f'<path d="M{_PAD} {height - 30}H{width - _PAD}" stroke-width="3"/>')
    parts.append(f'<text x="{_PAD}" y="{height - 12}">underlay</text></svg>')
    return "\n".join(parts) + "\n"


def _box(namespace: dict[str, Any]) -> Box:
    lines = []
    for section in namespace["sections"]:
        if section["command"] == "ip address":
            lines += _addresses(section["lines"])
    for section in namespace["sections"]:
        lines += _added(section)
    return Box(namespace["name"].partition("-")[2], namespace["kind"], namespace["node"], lines)


def _addresses(lines: list[list[str]]) -> list[tuple[bool, str]]:
    known = {link[1] for mark, text in lines if mark != "+" and (link := _LINK.match(text))}  # up now, and not new
    found, interface = [], ""
    for mark, text in lines:
        if link := _LINK.match(text):
            interface = link[1]
        inet = _INET.search(text)
        if inet and mark != "-" and inet[1] != "127.0.0.1/8":
            found.append((mark == "+" or interface not in known, f"{interface} {inet[1]}"))
    return found


def _added(section: dict[str, Any]) -> list[tuple[bool, str]]:
    what = _COUNTED.get(section["command"])
    added = [text.strip() for mark, text in section["lines"] if mark == "+" and text.strip()]
    if not what or not added:
        return []
    if section["command"] == "sysctl" or (len(added) <= _MOST_LINES and "nft" not in section["command"]):
        return [(True, text) for text in added]
    return [(True, f"{len(added)} {what}s")]


def _place(boxes: list[Box], nodes: list[str]) -> dict[str, int]:
    """Place the columns, with the overlay and host namespaces of all nodes in one row each.

    Return each column's lower edge.
    """
    top = dict.fromkeys(nodes, 36)
    for kind in _ORDER:
        row = [box for box in boxes if box.kind == kind]
        if kind in ("overlay", "host") and row:
            level = max(top.values())
            top = dict.fromkeys(nodes, level)
        for box in row:
            box.x, box.y = _PAD + nodes.index(box.node) * (_WIDTH + _GAP), top[box.node]
            top[box.node] += box.height + _GAP
    return top


def _drawn(box: Box) -> list[str]:
    parts = [
        f'<rect class="{box.kind}" x="{box.x}" y="{box.y}" width="{_WIDTH}" height="{box.height}" rx="4"/>',
        f'<text x="{box.x + 8}" y="{box.y + 14}" font-weight="bold">{escape(box.name)}</text>',
        f'<text x="{box.x + _WIDTH - 8}" y="{box.y + 14}" text-anchor="end" opacity=".7">{box.kind}</text>',
    ]
    for number, (added, text) in enumerate(box.lines):
        y = box.y + _TITLE + _LINE * (number + 1) - 5
        shown = ("+ " if added else "  ") + (text if len(text) <= 46 else text[:45] + "…")
        weight = ' font-weight="bold"' if added else ""
        parts.append(f'<text x="{box.x + 8}" y="{y}" xml:space="preserve"{weight}>{escape(shown)}</text>')
    return parts


def _links(boxes: list[Box], nodes: list[str], ground: int) -> list[str]:
    """Draw the lines: beside an overlay namespace to its containers, and down to the host and the underlay."""
    parts = []
    for node in nodes:
        column = [box for box in boxes if box.node == node]
        overlays = [box for box in column if box.kind == "overlay"]
        hosts = [box for box in column if box.kind == "host"]
        for number, box in enumerate(each for each in column if each.kind in ("container", "lb")):
            if overlays:
                side, bus = box.x + _WIDTH, box.x + _WIDTH + 5 + 2 * (number % 6)
                y, to = box.y + box.height // 2, overlays[0].y + 12
                parts.append(f'<path d="M{side} {y}H{bus}V{to}H{side}" opacity=".6"/>')
        for box in overlays:
            middle = box.x + _WIDTH // 2
            below = hosts[0].y if hosts else ground
            parts.append(f'<path d="M{middle} {box.y + box.height}V{below}"/>')
        for box in hosts:
            middle = box.x + _WIDTH // 2
            parts.append(f'<path d="M{middle} {box.y + box.height}V{ground}"/>')
    return parts
