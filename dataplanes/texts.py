"""Texts that come from documents, kernels and files: shown to a person, never obeyed by what shows them.

A document may come from anybody. A terminal obeys control characters, a spreadsheet computes what begins like a
formula, a page takes < for a tag; and a column of a table ends at a bar.
"""

from __future__ import annotations

import re

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but for line feed and tabulator, DEL, C1
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # what turns the direction of text, and other ends of lines
    "\ud800-\udfff\ufeff\ufff9-\uffff]"  # halves of characters, marks and no characters
)


def clean(text: str) -> str:
    """A text without control characters: they are told as escapes, \\x1b. Line feeds and tabulators stay."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def line(text: str) -> str:
    """The same as one line."""
    return clean(" ".join(text.split()))


def markdown(text: str) -> str:
    """A text as a line, or a cell of a table, of Markdown; emphasis stays."""
    return line(text).replace("|", "\\|").replace("<", "&lt;")


def code(text: str) -> str:
    """A text as code in a line of Markdown."""
    return "`" + line(text).replace("`", "'").replace("|", "\\|") + "`"


def cell(text: str) -> str:
    """A text as a cell of a CSV file: what a spreadsheet would take for a formula gets an apostrophe before it
    (OWASP, "CSV Injection")."""
    shown = clean(text)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\\")) else shown
