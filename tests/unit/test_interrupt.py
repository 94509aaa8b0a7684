"""A signal that ends a run is neither taken in a wrong place nor lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, cast

import pytest

from bench.inside import shell
from bench.report import terminal
from dataplanes.errors import Usage
from dataplanes.kernel import interrupt
from tests.conftest import ROOT
from tests.unit.conftest import Bench


@pytest.fixture(autouse=True)
def caught(signals: None) -> None:
    interrupt.catch()


def test_a_signal_waits_for_the_end_of_what_is_held() -> None:
    done = []

    def work() -> None:
        with interrupt.held():
            signal.raise_signal(signal.SIGTERM)
            done.append("all of it")

    with pytest.raises(KeyboardInterrupt) as raised:
        work()
    assert done == ["all of it"]
    assert raised.value.args == (signal.SIGTERM,)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_what_a_finalizer_swallowed_is_raised_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def finalizer() -> Iterator[None]:
        try:
            yield
        finally:
            signal.raise_signal(signal.SIGHUP)

    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    generator = finalizer()
    next(generator)
    del generator  # Python prints the exception and goes on
    assert told
    with pytest.raises(KeyboardInterrupt) as raised:
        interrupt.strike_again()
    assert raised.value.args == (signal.SIGHUP,)


def test_a_second_signal_does_not_cut_the_clean_up_short() -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)


def test_without_a_signal_nothing_is_raised() -> None:
    interrupt.strike_again()
    with interrupt.held():
        pass


class Struck(subprocess.Popen[bytes]):
    """A command whose end is noticed just as a signal strikes: its status was returned, and nobody has noted it."""

    strikes = 1

    def wait(self, timeout: float | None = None) -> int:
        code = super().wait(timeout)
        if self.strikes and signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
            self.strikes -= 1
            self.returncode = None
            raise KeyboardInterrupt(signal.SIGINT)
        return code


@pytest.mark.parametrize(("script", "code"), [("kill -INT $$", 128 + signal.SIGINT), ("exit 3", 3)])
def test_a_signal_as_the_command_ends_does_not_lose_its_exit_code(script: str, code: int) -> None:
    assert shell.wait(Struck(["sh", "-c", script])) == code


def test_the_clean_up_may_stumble_over_what_a_signal_broke_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise ValueError("half an answer")

    told: list[object] = []
    monkeypatch.setattr(interrupt, "_hook_before", told.append)
    with pytest.raises(KeyboardInterrupt) as raised, interrupt.prevailing():
        work()
    assert raised.value.args == (signal.SIGTERM,)
    sys.unraisablehook(cast(Any, "what a finalizer made of it"))
    assert told == []


def test_without_a_signal_an_error_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(interrupt, "_hook_before", told.append)
    with pytest.raises(ValueError, match="as it is"), interrupt.prevailing():
        raise ValueError("as it is")
    sys.unraisablehook(cast(Any, "a finalizer's"))
    assert told == ["a finalizer's"]


def test_a_signal_may_strike_while_an_error_is_told() -> None:
    def act() -> int:
        raise Usage("wrong")

    told: list[str] = []
    assert interrupt.exit_code(act, lambda error: told.append(str(error))) == 2
    assert interrupt.exit_code(lambda: 5, lambda error: told.append("never")) == 5
    assert interrupt.exit_code(act, lambda error: signal.raise_signal(signal.SIGTERM)) == 128 + signal.SIGTERM
    assert told == ["wrong"]


def test_the_program_ends_by_a_signal_that_strikes_while_it_tells_its_error(
    bench: Bench, deadly: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "say", lambda *told, **more: signal.raise_signal(signal.SIGTERM))
    bench("run", "-d", "no-such-plane")
    assert deadly == [signal.SIGTERM]


_STRUCK = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
os.kill(os.getpid(), signal.SIGTERM)
os.execv({0!r}, {1!r})
"""


@pytest.mark.parametrize("part", ["inside", "lane"])
def test_a_part_of_the_program_that_was_struck_before_it_was_python_ends_by_the_signal(part: str) -> None:
    argv = [sys.executable, "-m", "bench.start", part, str(os.getpid())]
    struck = [sys.executable, "-c", _STRUCK.format(sys.executable, argv)]
    done = subprocess.run(struck, capture_output=True, text=True, check=False, cwd=ROOT, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGTERM, "", "")


IGNORED = """
import signal, subprocess
from dataplanes.kernel import interrupt, process

signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup(1) does
interrupt.catch()
signal.raise_signal(signal.SIGHUP)
command = ["sh", "-c", "kill -HUP $$; echo still here; kill -TERM $$"]
print(subprocess.run(command, preexec_fn=process.tied()).returncode)
"""


def test_what_nohup_ignores_stays_ignored() -> None:
    done = subprocess.run([sys.executable, "-c", IGNORED], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("still here\n-15\n", "")
