"""The rules of docs/style.md that can be checked. Ruff checks the form of docstrings (pyproject.toml, D)."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator

import click
import msgspec
import pytest

import bench
import dataplanes
import scenarios
from bench.cli.main import main
from dataplanes import catalog, knobs
from dataplanes.requirements import Compiled
from scenarios import topology
from scenarios.checks import CHECKS
from scenarios.expectations import load
from tests.conftest import ROOT

_RUNS = {"bench.__main__", "bench.start"}  # importing these starts the program
_SENTENCE = re.compile(r"[A-Z0-9`\"/\[$].*[.?:]|[a-z_]+\(\).*\.|swarm.*\.", re.DOTALL)
_LEANS_ON_ANOTHER = re.compile(r"(The same|So (do|is|are|does)|As above|Likewise|It|They)\b")


def _modules() -> Iterator[str]:
    for package in (dataplanes, scenarios, bench):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name not in _RUNS:
                yield found.name


def _public(module: str) -> Iterator[tuple[str, str | None]]:
    """Yield the name and the docstring of every public class, function and method that a module defines."""
    found = vars(importlib.import_module(module))
    for name, value in found.items():
        if name.startswith("_") or getattr(value, "__module__", "") != module:
            continue
        if inspect.isclass(value):
            yield name, value.__doc__
            for part, method in vars(value).items():
                if not part.startswith("_") and (inspect.isfunction(method) or isinstance(method, property)):
                    yield f"{name}.{part}", inspect.getdoc(getattr(value, part))  # an inherited one will do
        elif inspect.isfunction(value):
            yield name, value.__doc__


@pytest.mark.parametrize("module", list(_modules()))
def test_what_is_public_has_a_docstring(module: str) -> None:
    assert importlib.import_module(module).__doc__ or module.endswith("__init__"), "the module has none"
    assert [name for name, text in _public(module) if not text] == []


@pytest.mark.parametrize("name", list(CHECKS))
def test_a_statement_is_a_sentence_that_stands_alone(name: str) -> None:
    statement = CHECKS[name].statement
    assert _SENTENCE.fullmatch(statement), statement
    assert not _LEANS_ON_ANOTHER.match(statement), f"the matrix shows it without its neighbours: {statement}"


def _options() -> Iterator[tuple[str, click.Option, click.Context]]:
    for name, command in main.commands.items():
        context = click.Context(command, info_name=name)
        for option in command.params:
            if isinstance(option, click.Option):
                yield f"{name} {option.opts[-1]}", option, context


_OPTIONS = {name: (option, context) for name, option, context in _options()}


@pytest.mark.parametrize("name", list(_OPTIONS))
def test_an_options_help_is_a_sentence_with_bounds_and_default(name: str) -> None:
    option, context = _OPTIONS[name]
    assert option.help
    assert _SENTENCE.fullmatch(option.help), option.help
    shown = " ".join((option.get_help_record(context) or ("", ""))[1].split())
    number = isinstance(option.type, (click.types.IntParamType, click.types.FloatParamType))
    if number or re.fullmatch(r"N(\[,N\])?", option.metavar or ""):
        assert "default" in shown, "the help tells the default"
        assert re.search(r"\d to [\d,]+|<=x<=|x>=", shown), "the help tells the bounds"


@pytest.mark.parametrize("name", list(main.commands))
def test_a_commands_help_is_sentences(name: str) -> None:
    assert _SENTENCE.fullmatch((main.commands[name].help or "").strip())


def test_what_lists_show_is_a_phrase_without_a_full_stop() -> None:
    phrases = [catalog.summary(name) for name in catalog.names()] + list(topology.named().values())
    for plane in catalog.names():
        for selection in catalog.select(plane):
            phrases += [need.purpose for need in catalog.requires(selection) if not isinstance(need, Compiled)]
        if settings := catalog.default(plane):
            phrases += [knob.meaning for knob in knobs.described(settings)]
    phrases += [each.reason for each in load()]
    assert [phrase for phrase in phrases if not phrase or phrase.endswith(".")] == []


def test_ruff_checks_the_docstrings() -> None:
    class Lint(msgspec.Struct):
        select: list[str]

    settings = msgspec.toml.decode((ROOT / "pyproject.toml").read_bytes())
    assert "D" in msgspec.convert(settings["tool"]["ruff"]["lint"], Lint).select
