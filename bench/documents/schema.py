"""The JSON schemas of the documents. `python -m bench.documents.schema` writes them; a test keeps them true."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bench.documents import Matrix, Result

DIRECTORY = Path(__file__).parents[2] / "docs" / "schema"
DOCUMENTS: dict[str, type[msgspec.Struct]] = {"result": Result, "matrix": Matrix}


def render(name: str) -> str:
    """The schema of a document, as JSON."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(DOCUMENTS[name])), indent=1).decode() + "\n"


if __name__ == "__main__":
    for each in DOCUMENTS:
        (DIRECTORY / f"{each}.schema.json").write_text(render(each), "utf-8")
