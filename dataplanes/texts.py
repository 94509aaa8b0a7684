"""Conversions that make a text of a document harmless for the program that shows it.

Anybody may have written the document. A terminal obeys control characters, a spreadsheet evaluates a cell that begins
like a formula, a browser takes < for a tag, and | ends a cell of a Markdown table.
"""

from __future__ import annotations

import re

from dataplanes.errors import Usage

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 except line feed and tabulator; DEL; C1
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # characters that turn the direction of text, and other line ends
    "\ud800-\udfff\ufeff\ufff9-\uffff]"  # surrogates, marks and code points that are no characters
)


def clean(text: str) -> str:
    r"""Replace control characters by escapes such as \x1b. Line feeds and tabulators stay."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def line(text: str) -> str:
    """Return the cleaned text as one line."""
    return clean(" ".join(text.split()))


def demand_utf8(text: str, what: str) -> None:
    """Refuse an argument that no document can hold, because its bytes are not UTF-8. Raises Usage."""
    if re.search("[\ud800-\udfff]", text):
        raise Usage(f"{what} is not UTF-8 text", where=clean(text), fix="rename it")


def markdown(text: str) -> str:
    """Return the text as a line or a table cell of Markdown. Emphasis stays."""
    return line(text).replace("|", "\\|").replace("<", "&lt;")


def code(text: str) -> str:
    """Return the text as code in a line of Markdown."""
    return "`" + line(text).replace("`", "'").replace("|", "\\|") + "`"


def cell(text: str) -> str:
    """Return the text as a cell of a CSV file.

    A text that a spreadsheet would evaluate gets an apostrophe in front (OWASP, "CSV Injection").
    """
    shown = clean(text)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\\")) else shown
