"""The kernel's types are read from BTF as Documentation/bpf/btf.rst describes it."""

from __future__ import annotations

import struct

import pytest

from dataplanes.errors import Prerequisite
from dataplanes.kernel.btf import Btf, KernelFunction, names, of_image

TEXT = b"\0int\0inner\0a\0outer\0b\0skb\0do_it\0why\0NO_REASON\0NO_SOCKET\0"


def at(name: str) -> int:
    return TEXT.index(b"\0" + name.encode() + b"\0") + 1


def head(name: str, kind: int, members: int, more: int) -> bytes:
    return struct.pack("<3I", at(name) if name else 0, kind << 24 | members, more)


def blob(types: bytes, text: bytes = TEXT) -> bytes:
    return struct.pack("<HBB5I", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(text)) + types + text


TYPES = b"".join(
    (
        head("int", 1, 0, 4) + struct.pack("<I", 32),  # 1
        head("", 4, 1, 8) + struct.pack("<3I", at("a"), 1, 4 * 8),  # 2: struct { int a at 4 }
        head("inner", 8, 0, 2),  # 3: typedef
        head("outer", 4, 2, 24) + struct.pack("<6I", 0, 2, 8 * 8, at("b"), 3, 16 * 8),  # 4
        head("", 2, 0, 4),  # 5: pointer
        head("", 13, 1, 1) + struct.pack("<2I", at("skb"), 5),  # 6: prototype
        head("do_it", 12, 1, 6),  # 7
        head("why", 6, 2, 4) + struct.pack("<4I", at("NO_REASON"), 0, at("NO_SOCKET"), 3),  # 8
    )
)


def test_fields_are_found_in_members_without_a_name_and_behind_other_names() -> None:
    found = Btf(blob(TYPES)).fields(["outer.a", "outer.b.a", "outer.lacking", "lacking.a"])
    assert found == {"outer.a": 12, "outer.b.a": 20}


def test_a_function_has_its_number_and_the_names_of_its_arguments() -> None:
    assert Btf(blob(TYPES)).functions(["do_it", "lacking"]) == {"do_it": KernelFunction(7, ["skb"])}


def test_an_enumeration_has_its_values() -> None:
    assert Btf(blob(TYPES)).enumeration("why") == {0: "NO_REASON", 3: "NO_SOCKET"}
    assert Btf(blob(TYPES)).enumeration("int") == {}


def test_the_types_of_a_module_go_on_after_those_of_the_image() -> None:
    image = Btf(blob(TYPES))
    of_module = struct.pack("<3I", len(TEXT) + 1, 12 << 24, 6)  # a function with a prototype of the image
    module = Btf(blob(of_module, b"\0own\0"), first=image.next, before=names(blob(TYPES)))
    assert module.functions(["own"]) == {"own": KernelFunction(9, [])}


@pytest.mark.parametrize("data", [b"", b"\x9f\xeb", b"x" * 64])
def test_something_else_is_refused(data: bytes) -> None:
    with pytest.raises(Prerequisite, match="BTF"):
        names(data)
    assert of_image(data) == b""
