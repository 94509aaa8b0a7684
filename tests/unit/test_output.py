"""An output file is tried before the run, and exists only when it has content."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cli.options import output_writer
from dataplanes.errors import BenchError


def test_a_file_is_there_when_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write = output_writer(str(path))
    assert not path.exists()
    write(b"{}")
    assert path.read_bytes() == b"{}"


def test_a_file_that_is_there_stays_until_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(b"before")
    output_writer(str(path))
    assert path.read_bytes() == b"before"


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot write the output file"):
        output_writer(str(tmp_path / "missing" / "result.json"))
