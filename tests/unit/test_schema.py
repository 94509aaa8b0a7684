"""What is committed as a document's schema is what the program writes."""

from __future__ import annotations

import pytest

from bench.documents import schema


@pytest.mark.parametrize("name", schema.DOCUMENTS)
def test_the_committed_schema_is_the_programs(name: str) -> None:
    committed = (schema.DIRECTORY / f"{name}.schema.json").read_text("utf-8")
    assert committed == schema.render(name), (
        "python -m bench.documents.schema writes it anew; raise SCHEMA if readers must know"
    )
