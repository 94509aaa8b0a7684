"""Plane files: somebody's program as a mechanism, described in TOML (docs/bring-your-own.md).

A plane is named by its file, `./my-plane.toml`, or by a placement and a program, `lb:./my-plane`. Everything is checked
when it is read, before anything is created. The kernel under test gets what was read, and does not read it again.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterator
from typing import Annotated, Literal, NoReturn, get_args

from msgspec import Meta, Struct
from msgspec.structs import replace

from dataplanes import files, toml
from dataplanes.errors import Usage
from dataplanes.hashes import sha256
from dataplanes.model import Protocol
from dataplanes.texts import clean, demand_utf8

At = Literal["container", "lb", "overlay", "host", "tc"]
"""The placements that a program can have."""
Tools = Annotated[dict[str, str], Meta(description="A program that it calls -> the Debian package that has it.")]
Features = Annotated[
    dict[str, str],
    Meta(description='A kernel feature, which is a Kconfig symbol without CONFIG_ -> its module, or "".'),
]
Packages = Annotated[
    tuple[str, ...],
    Meta(
        max_length=16,
        description="Debian packages, NAME or NAME/SUITE, that are unpacked into the cache, and not installed.",
    ),
]

_MOST = 64 << 10
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?")
_MODULE = re.compile(r"[a-zA-Z0-9_-]*")
_SYMBOL = re.compile(r"[A-Z0-9][A-Z0-9_]*")
_TOOL = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._+-]*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{1,60}(/[a-z][a-z0-9-]{1,30})?")
_LONGEST_DIRECTORY = 200
_SHORT = re.compile(r"([a-z]+):(.+)", re.DOTALL)


class PlaneNeeds(Struct, frozen=True, forbid_unknown_fields=True):
    """What the program needs of the machine and of the kernel."""

    packages: Packages = ()
    tools: Tools = {}
    features: Features = {}


class PlaneFile(Struct, frozen=True, forbid_unknown_fields=True):
    """A plane file as it is written."""

    name: Annotated[str, Meta(description="The plane's name in every table and document.")]
    summary: Annotated[str, Meta(min_length=1, max_length=200, description="What the plane is, in a line.")]
    placement: Annotated[At, Meta(description="The namespaces and the hook at which the program is called.")]
    command: Annotated[
        str | list[str],
        Meta(description="The program and its arguments; a name with a slash is beside the plane file."),
    ]
    ports: Annotated[Literal["any", "declared"], Meta(description="The ports of a VIP that it serves.")] = "any"
    protocols: Annotated[tuple[Protocol, ...], Meta(min_length=1, description="The transports that it serves.")] = (
        get_args(Protocol)
    )
    scheduler: Annotated[
        Literal["rr", "random"], Meta(description="How it chooses a backend: in turn, or at random.")
    ] = "rr"
    serve: Annotated[bool, Meta(description="One process per site answers every call, a JSON line each.")] = False
    timeout: Annotated[float, Meta(gt=0, le=3600, description="The seconds that one call may take.")] = 60
    needs: PlaneNeeds = PlaneNeeds()
    imitates: Annotated[
        str,
        Meta(description="A plane of the catalog whose expected outcomes are this one's, unless `expected` differs."),
    ] = ""
    expected: Annotated[str, Meta(description="A file of expected differences, beside the plane file.")] = ""


class PlaneProgram(Struct, frozen=True):
    """A plane file that was read and checked: paths are absolute, and every file was there."""

    name: str
    mechanism: str
    summary: str
    placement: At
    argv: tuple[str, ...]
    directory: str
    ports: Literal["any", "declared"] = "any"
    protocols: tuple[Protocol, ...] = get_args(Protocol)
    scheduler: Literal["rr", "random"] = "rr"
    serve: bool = False
    timeout: float = 60
    packages: tuple[str, ...] = ()
    tools: dict[str, str] = {}
    features: dict[str, str] = {}
    imitates: str = ""
    expected: str = ""
    file: str = ""
    digest: str = ""  # of the files' contents

    def files(self) -> Iterator[str]:
        """Return the paths of the files that decide what the plane does: those that the command names, and its own."""
        named = (os.path.join(self.directory, word) for word in self.argv)
        yield from (path for path in (self.file, self.expected, *named) if path and os.path.isfile(path))


def not_a_name(name: str) -> str:
    """Return why a data plane cannot have this name, or ""."""
    return "" if _NAME.fullmatch(name) else f"{name!r} is no name of a data plane: lower-case letters, digits, - and ."


def is_named_by(text: str) -> bool:
    """Return True if the name of a data plane names a file: it has a slash, or ends in .toml."""
    return os.path.sep in text or text.endswith(".toml")


def parse(text: str) -> PlaneProgram:
    """Return the program that PATH.toml, PLACEMENT:PATH.toml or PLACEMENT:PROGRAM names.

    Raises Usage, with line and field for a fault in a file.
    """
    demand_utf8(text, "the path of the data plane")
    if clean(text) != text or "\n" in text:
        raise Usage("a path with control characters cannot be used", where=clean(text), fix="rename it")
    short = _SHORT.fullmatch(text)
    if short is None:
        if not text.endswith(".toml"):
            fix = f"PLACEMENT:{text}, with one of {', '.join(get_args(At))}; or write a plane file, {text}.toml"
            raise Usage("a program has no placement of its own", where=text, fix=fix)
        return _read_file(text)
    wanted, path = short.groups()
    placement = next((each for each in get_args(At) if each == wanted), None)
    if placement is None:
        near = difflib.get_close_matches(wanted, get_args(At), 1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(get_args(At))}"
        raise Usage(f"a program cannot have the placement {wanted!r}", where=text, fix=hint)
    if path.endswith(".toml"):
        found = _read_file(path)
        return replace(found, name=f"{found.name}-{placement}", placement=placement)
    return _digested(_from_program(path, placement))


def _from_program(path: str, placement: At) -> PlaneProgram:
    full = os.path.abspath(path)
    if why := _not_executable(full):
        raise Usage("cannot run the program", where=path, why=why[0], fix=why[1])
    stem = os.path.basename(full).partition(".")[0].lower()
    name = re.sub("[^a-z0-9-]+", "-", stem).strip("-")
    if not_a_name(f"{name}-{placement}"):
        raise Usage("no data plane can be called after this program", where=path, fix="rename it")
    summary = f"the program {os.path.basename(full)}"
    return PlaneProgram(f"{name}-{placement}", name, summary, placement, (full,), os.path.dirname(full))


def _read_file(path: str) -> PlaneProgram:
    text = files.text(path, _MOST)
    return _digested(_Checker(path, text).checked(toml.decode(text, PlaneFile, path, "a plane file")))


def fault(program: PlaneProgram, field: str, why: str, fix: str) -> Usage:
    """Return the error about a field of the plane file from which a program was read."""
    text = files.text(program.file, _MOST)
    return Usage(why, where=f"{program.file}:{toml.line(text, field)}: {field}", fix=fix)


def _digested(program: PlaneProgram) -> PlaneProgram:
    return replace(program, digest=digest(program))


def digest(program: PlaneProgram) -> str:
    """Return a hash of the contents that a program's files have now."""
    parts = []
    for path in program.files():
        with open(path, "rb") as file:
            data = file.read()
        parts += [f"{os.path.basename(path)} {len(data)}\n".encode(), data]
    return sha256(*parts).hex()[:12]


def _not_executable(path: str) -> tuple[str, str] | None:
    """Return why a file cannot be executed, and what to do."""
    if not os.path.exists(path):
        return "there is no such file", "name it relative to the plane file's directory"
    if not os.path.isfile(path):
        return "it is no file", "name a program"
    if not os.access(path, os.X_OK):
        return "it is not executable", f"chmod +x {shlex.quote(path)}"
    return None


class _Checker:
    """Checks what the types of a plane file do not tell."""

    def __init__(self, path: str, text: str) -> None:
        self._path, self._text = path, text
        self._directory = os.path.dirname(os.path.abspath(path))

    def checked(self, found: PlaneFile) -> PlaneProgram:
        if why := not_a_name(found.name):
            self._fail("name", why)
        if clean(found.summary) != found.summary or "\n" in found.summary or not found.summary.strip():
            self._fail("summary", "it is not one line of text")
        if len(set(found.protocols)) < len(found.protocols):
            self._fail("protocols", "a protocol is named twice")
        self._check_packages(found.needs.packages)
        self._check_needs(found.needs)
        return PlaneProgram(
            found.name,
            found.name,
            found.summary,
            found.placement,
            self._argv(found.command),
            self._directory,
            found.ports,
            found.protocols,
            found.scheduler,
            found.serve,
            found.timeout,
            found.needs.packages,
            found.needs.tools,
            found.needs.features,
            found.imitates,
            self._beside(found.expected),
            os.path.abspath(self._path),
        )

    def _argv(self, command: str | list[str]) -> tuple[str, ...]:
        words = list(command)
        if isinstance(command, str):
            try:
                words = shlex.split(command)
            except ValueError as error:
                self._fail("command", str(error))
        if not words or not words[0]:
            self._fail("command", "it names no program")
        if any("\0" in word for word in words):
            self._fail("command", "a word has a NUL byte, which no argument can hold")
        first, *rest = words
        if os.path.sep in first:
            first = os.path.normpath(os.path.join(self._directory, first))
            if why := _not_executable(first):
                self._fail("command", f"{first}: {why[0]}", why[1])
        elif not _TOOL.fullmatch(first):
            self._fail("command", f"{first!r} is no name of a program")
        elif os.path.isfile(os.path.join(self._directory, first)):
            self._fail("command", f"{first!r} is searched for in PATH, not beside the plane file", f"write ./{first}")
        return (first, *rest)

    def _check_packages(self, packages: tuple[str, ...]) -> None:
        for package in packages:
            if not _PACKAGE.fullmatch(package):
                self._fail("needs.packages", f"{package!r} is no name of a Debian package, NAME or NAME/SUITE")
        if len({package.partition("/")[0] for package in packages}) < len(packages):
            self._fail("needs.packages", "a package is named twice")
        if len("_".join(packages)) > _LONGEST_DIRECTORY:
            fix = "name only those that depend on the others"
            self._fail("needs.packages", "their names are too long for one directory", fix)

    def _check_needs(self, needs: PlaneNeeds) -> None:
        for tool, package in needs.tools.items():
            if not _TOOL.fullmatch(tool):
                self._fail("needs.tools", f"{tool!r} is no name of a program")
            if not _TOOL.fullmatch(package):
                self._fail("needs.tools", f"{package!r} is no name of a package, which {tool} comes from")
        for symbol, module in needs.features.items():
            if not _SYMBOL.fullmatch(symbol) or symbol.startswith("CONFIG_"):
                self._fail("needs.features", f"{symbol!r} is no Kconfig symbol without CONFIG_, such as NF_TABLES")
            if not _MODULE.fullmatch(module):
                self._fail("needs.features", f"{module!r} is no name of a kernel module")

    def _beside(self, name: str) -> str:
        if not name:
            return ""
        path = os.path.normpath(os.path.join(self._directory, name))
        if not os.path.isfile(path):
            self._fail("expected", f"there is no file {path}")
        return path

    def _fail(self, field: str, why: str, fix: str = "") -> NoReturn:
        raise Usage(why, where=f"{self._path}:{toml.line(self._text, field)}: {field}", fix=fix)
