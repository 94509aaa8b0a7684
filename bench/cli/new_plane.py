"""The command `bench plane new`: a plane file with a program that works, to start from (docs/bring-your-own.md)."""

from __future__ import annotations

from pathlib import Path

import click

from bench.report import terminal
from dataplanes import catalog, files, plane_file
from dataplanes.errors import Usage

_STARTING = Path(__file__).with_name("starting")
_STANDS_FOR = "my-plane"
LANGUAGES = sorted(path.name for path in _STARTING.iterdir() if path.is_dir())
"""The languages of the programs to start from."""


@click.group()
def plane() -> None:
    """Make planes of your own: programs in any language."""


@plane.command()
@click.argument("name")
@click.option(
    "--language",
    type=click.Choice(LANGUAGES),
    default="shell",
    show_default=True,
    help="Choose the program's language. `shell` is called for each change; `python` serves.",
)
def new(name: str, language: str) -> None:
    """Write a plane file, its program and its expected differences to a new directory NAME."""
    if why := plane_file.not_a_name(name):
        raise Usage(why)
    if catalog.is_taken(name):
        raise Usage(f"there is a data plane {name} already", fix="choose another name")
    directory = Path(name)
    if directory.exists():
        raise Usage("there is something of this name already", where=name, fix="choose another name, or remove it")
    for path in sorted((_STARTING / language).iterdir()):
        made = directory / path.name.replace(_STANDS_FOR, name)
        files.write(made, path.read_bytes().replace(_STANDS_FOR.encode(), name.encode()), "the new plane")
        made.chmod(0o755 if path.suffix == "" else 0o644)
        terminal.say(str(made))
    terminal.say(f"try it: bench matrix --dataplane ./{name}/{name}.toml -k reach", err=True)
