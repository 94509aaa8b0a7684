"""The documents that a page was made from, in the page itself as far as there is room."""

from __future__ import annotations

import base64
import lzma
from collections.abc import Sequence
from typing import Any

import msgspec
from markupsafe import Markup

from bench.documents import Matrix, Result

_DIGITS = 7
"""Figures have no more digits than these in a page: the others are noise, and take a fifth of its documents."""
_LINK = '<p><a class="download" href="data:application/x-xz;base64,{data}" download="{name}.xz">{name}</a></p>'
_LEFT_OUT = (
    '<p id="not-{name}">{name} is not in this page: packed it takes {size:,} kB, and the page would be too large for a'
    " slow line. It is one of the files that <code>bench report</code> made this page from, and its command above makes"
    " it again.</p>"
)


def downloads(documents: Sequence[tuple[str, Result | Matrix]], room: int) -> str:
    """Return a link to each document that is in the page, the smallest first, and a sentence for each that is not."""
    packed = {name: base64.b64encode(_packed(document)).decode() for name, document in documents}
    lines = []
    for name, data in sorted(packed.items(), key=lambda each: len(each[1])):
        line = Markup(_LINK).format(data=data, name=name)
        if len(line) > room:
            line = Markup(_LEFT_OUT).format(name=name, size=len(data) // 1000)
        room -= len(line)
        lines.append(line)
    return Markup("\n").join(lines)


def _packed(document: Result | Matrix) -> bytes:
    made = msgspec.json.encode(rounded(msgspec.to_builtins(document)))
    return lzma.compress(made, preset=6 | lzma.PRESET_EXTREME)


def rounded(value: Any) -> Any:
    """Return a value of JSON with seven digits of each figure in it."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value
