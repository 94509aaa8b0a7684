"""Hypothesis strategies for hostile input: values that break programs, and mutations of valid documents.

`of_type` makes valid values of a message type from its definition. `mutated` spoils a valid tree, and `spoiled` its
bytes.
"""

from __future__ import annotations

import copy
import json
import re
from typing import Any, Literal

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

HOSTILE_TEXTS = (
    "",
    " ",
    "\n",
    "a\nb",
    "\x1b[31mred\x1b]0;title\x07",
    "\x9b2J",
    "\u202egnp.exe",
    "\ufeff",
    "\0",
    "=cmd|'/c calc'!A1",
    "+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "| a | b |",
    "<script>alert(1)</script>",
    "]]>",
    "&lt;",
    "$\\frac{1}{$",
    "[/red]",
    "[bold]",
    ":smile:",
    "{english}",
    "%s%n",
    "../../etc/passwd",
    "x" * 300,
    "é" * 50,
    "漢字",
    "👾",
    "direct",
    "ipvs-container",
    "nan",
)
HOSTILE_VALUES: tuple[Any, ...] = (
    *HOSTILE_TEXTS,
    None,
    True,
    False,
    0,
    -1,
    1,
    255,
    256,
    2**31,
    2**53,
    2**63,
    -(2**63) - 1,
    10**30,
    10**400,
    0.0,
    -0.0,
    0.5,
    1e-320,
    1e-300,
    1e300,
    -1e300,
    float("nan"),
    float("inf"),
    float("-inf"),
    [],
    {},
    [[]],
    [None],
    {"": {}},
    {"value": 1.0},
    ["x"] * 50,
)
values = st.sampled_from(HOSTILE_VALUES).map(copy.deepcopy)
texts = st.one_of(st.sampled_from(HOSTILE_TEXTS), st.text(max_size=20))


def of_type(kind: type[msgspec.Struct], **known: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return valid trees of a message type, including extremes. `known` gives strategies for fields by their names."""
    definition = inspect.type_info(kind)
    assert isinstance(definition, inspect.StructType)
    return _struct(definition, known)


def _struct(definition: inspect.StructType, known: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    made = {f.encode_name: known[f.name] if f.name in known else _of(f.type, known) for f in definition.fields}
    required = {f.encode_name for f in definition.fields if f.required}
    return st.fixed_dictionaries(
        {name: made[name] for name in made if name in required},
        optional={name: made[name] for name in made if name not in required},
    )


def _of(definition: inspect.Type, known: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    match definition:
        case inspect.Metadata():
            return _of(definition.type, known)
        case inspect.StructType():
            return _struct(definition, known)
        case inspect.UnionType():
            return st.one_of([_of(each, known) for each in definition.types])
        case inspect.ListType() | inspect.VarTupleType():
            return st.lists(_of(definition.item_type, known), max_size=3)
        case inspect.DictType():
            return st.dictionaries(texts, _of(definition.value_type, known), max_size=3)
    return _leaf(definition)


def _leaf(definition: inspect.Type) -> st.SearchStrategy[Any]:
    match definition:
        case inspect.LiteralType():
            return st.sampled_from(definition.values)
        case inspect.IntType():
            return _between(definition.ge or 0, 10**6 if definition.le is None else definition.le)
        case inspect.FloatType():
            bounds = definition.ge or 0.0, 1e9 if definition.le is None else definition.le
            return st.one_of(st.floats(0.5, 100), st.sampled_from([*bounds, 0.0, 1e-300]))
        case inspect.StrType():
            pattern = definition.pattern
            return texts.filter(lambda text: bool(text and re.search(pattern, text))) if pattern else texts
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
    return st.sampled_from([None, 0, "x", {}, [], {"name": "x"}]).map(copy.deepcopy)  # a field of free form


def _between(least: int, most: int) -> st.SearchStrategy[int]:
    return st.one_of(st.integers(least, min(most, least + 3)), st.sampled_from([least, most]))


@st.composite
def mutated(draw: st.DrawFn, tree: Any) -> Any:
    """Return a valid tree after one to four accidents: a value is deleted, doubled, nested, replaced or converted."""
    made = {"": json.loads(json.dumps(tree))}
    for _ in range(draw(st.integers(1, 4))):
        _accident(draw, made)
    return made[""]


def _accident(draw: st.DrawFn, tree: dict[str, Any]) -> None:
    holder, key = _somewhere(draw, tree)
    kind: Literal["delete", "double", "replace", "nest", "swap", "rename"] = draw(
        st.sampled_from(["delete", "double", "replace", "replace", "replace", "nest", "swap", "rename"])
    )
    if kind == "replace" or holder is tree:
        holder[key] = draw(values)
    elif kind == "delete":
        del holder[key]
    elif kind == "double" and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif kind == "nest":
        for _ in range(draw(st.sampled_from([1, 2, 50]))):
            holder[key] = draw(st.sampled_from([[holder[key]], {"a": holder[key]}]))
    elif kind == "swap":
        other, there = _somewhere(draw, tree)
        holder[key] = json.loads(json.dumps(other[there]))
    elif isinstance(holder, dict):
        holder[draw(texts)] = holder.pop(key)


def _somewhere(draw: st.DrawFn, tree: dict[str, Any]) -> tuple[Any, Any]:
    """Return a place in the tree: the container and the key in it."""
    holder: Any = tree
    key: Any = ""
    while isinstance(inner := holder[key], dict | list) and inner and (holder is tree or draw(st.integers(0, 5))):
        holder = inner
        key = draw(st.sampled_from(sorted(inner))) if isinstance(inner, dict) else draw(st.integers(0, len(inner) - 1))
    return holder, key


@st.composite
def spoiled(draw: st.DrawFn, data: bytes) -> bytes:
    """Return bytes that are cut short, or have some bytes flipped, inserted or doubled."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["cut", "flip", "put", "double", "digits", "deep"])):
            case "cut":
                data = data[:at]
            case "flip":
                data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
            case "put":
                data = data[:at] + draw(st.binary(max_size=6)) + data[at:]
            case "double":
                data = data[:at] + data[at : at + 40] + data[at:]
            case "digits":
                data = data[:at] + b"9" * draw(st.sampled_from([20, 400, 5000])) + data[at:]
            case "deep":
                data = data[:at] + draw(st.sampled_from([b"[", b'{"a":', b"[{"])) * 3000 + data[at:]
    return data


def toml(tree: Any) -> bytes:
    """Write a tree as TOML as far as possible. What TOML cannot express is left for its parser to refuse."""
    pairs = tree.items() if isinstance(tree, dict) else {"x": tree}.items()
    return "\n".join(f"{_key(key)} = {_inline(value)}" for key, value in pairs).encode("utf-8", "replace")


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_inline(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ",\n ".join(map(_inline, value)) + "]"
    return json.dumps(value, ensure_ascii=False)  # TOML has no null, NaN and Infinity of JSON


def _key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key, re.ASCII) else json.dumps(key, ensure_ascii=False)
