"""Whatever the state directory holds, `bench clean` removes only what a dead run recorded, and ends well."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scenarios import journal
from tests.unit.fuzz.ending import end
from tests.unit.fuzz.strategies import HOSTILE_TEXTS, spoiled, texts

RUN = "b012345"
_NAMES = [
    f"{RUN}-manager1",
    f"{RUN}-../../etc/passwd",
    "bffffff-worker1",
    "/",
    "/etc",
    "/etc/netns/..",
    "..",
    "-1",
    "1@1",
]
_LINES = st.tuples(st.sampled_from([*sorted(journal._KINDS), "directory", "file"]), st.sampled_from(_NAMES) | texts)
_FILES = [
    f"{RUN}.jsonl",
    "b000000.jsonl",
    "x.jsonl",
    f"{RUN}.1.2.3.jsonl",
    ".jsonl",
    "b00000g.jsonl",
    f"{RUN}.jsonl.old",
]
states = st.one_of(
    st.lists(_LINES, max_size=6).map(lambda found: b"".join(json.dumps(each).encode() + b"\n" for each in found)),
    st.lists(_LINES, min_size=1, max_size=3).map(lambda found: json.dumps(found).encode()).flatmap(spoiled),
    st.sampled_from(
        [b"null\n", b"1\n", b'"ab"\n', b"{}\n", b"[" * 5000 + b"\n", b"\xff\xfe\n", b'["netns"]\n', b"\n\n"]
    ),
    st.binary(max_size=80),
)
kinds = st.sampled_from(["file", "file", "file", "directory", "link", "fifo"])


@given(files=st.dictionaries(st.sampled_from(_FILES), st.tuples(kinds, states), max_size=3))
@example(files={f"{RUN}.jsonl": ("file", json.dumps(["netns", f"{RUN}-manager1"]).encode() + b"\n")})
def test_a_state_folder_of_anything_harms_nobody(
    files: dict[str, tuple[str, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "state"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    for name, (kind, data) in files.items():
        _make(folder / name, kind, data)
    undone: list[tuple[str, str]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_STATE", str(folder))
        patch.setattr(journal, "_undo", lambda kind, name: undone.append((kind, name)))  # nothing is really removed
        end(["clean"])
    for kind, name in undone:
        run = next(run for run in (RUN, "b000000") if run in name or kind in ("process", "empty-directory"))
        assert journal._is_ours(kind, name, run)
        assert name not in ("/", "/etc", "/etc/netns/..", *HOSTILE_TEXTS)


def _make(path: Path, kind: str, data: bytes) -> None:
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_bytes(data)
