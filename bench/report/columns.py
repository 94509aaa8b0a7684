"""Tables of Markdown."""

from __future__ import annotations

from dataplanes import texts


def table(headings: list[str], rows: list[list[str]]) -> list[str]:
    """Return a Markdown table with aligned columns, which is readable on a terminal, too."""
    headings, *rows = ([texts.markdown(each) for each in row] for row in (headings, *rows))
    widths = [max(len(row[n]) for row in (headings, *rows)) for n in range(len(headings))]

    def line(cells: list[str]) -> str:
        first, *rest = cells
        parts = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        return f"| {' | '.join(parts)} |"

    rule = f"|{'-' * (widths[0] + 2)}|" + "|".join(f"{'-' * (width + 1)}:" for width in widths[1:]) + "|"
    return [line(headings), rule, *(line(row) for row in rows)]
