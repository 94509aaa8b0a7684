"""The command or the shell that a user runs in a lab, with the lab document and the tools `container` and `service`."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bench.inside.changes import Changes
from dataplanes import files
from dataplanes.kernel import interrupt
from dataplanes.kernel.process import become_shell, tied
from scenarios.document import document
from scenarios.journal import Journal
from scenarios.testbed import Testbed

_encoder = msgspec.json.Encoder()


def run(lab: Testbed, argv: list[str]) -> int:
    """Run a command or a shell in the lab, and make the changes that it asks for. Return its exit code."""
    with Journal() as journal:
        path, container = journal.scratch("lab.json"), journal.scratch("container")

        def publish() -> None:
            files.keep(Path(path), msgspec.json.format(_encoder.encode(document(lab)), indent=1))
            files.keep(Path(container), _enter(lab).encode())
            os.chmod(container, 0o755)

        publish()
        command = argv or [os.environ.get("SHELL", "/bin/sh")]
        search = f"{os.path.dirname(path)}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"
        environ = {**os.environ, "BENCH_LAB": path, "BENCH_CLIENT": lab.scenario.traffic.client, "PATH": search}
        interrupt.strike_again()
        with Changes(lab, os.path.dirname(path), publish) as changes:
            try:
                with interrupt.held():  # between fork and exec a child would lose a signal
                    become = tied() if argv or not os.isatty(0) else partial(become_shell, os.getpid())
                    process = subprocess.Popen(command, env=environ, preexec_fn=become)
            except OSError as error:
                print(f"bench: {command[0]}: {error.strerror}", file=sys.stderr)
                return 127 if isinstance(error, FileNotFoundError) else 126
            return wait(process, changes)


def _enter(lab: Testbed) -> str:
    """Return the script `container NAME COMMAND...`, which runs a command in a container's namespace and cgroup."""
    running = {name: each for name, each in sorted(lab.containers.items()) if not each.crashed}
    cases = [f"{name}) netns={each.netns} cgroup={each.cgroup or ''} ;;" for name, each in running.items()]
    return "\n".join(
        (
            "#!/bin/sh",
            "case $1 in",
            *cases,
            f'*) echo "usage: container NAME COMMAND...; there are: {" ".join(running)}" >&2; exit 2 ;;',
            "esac",
            "shift",
            '[ -z "$cgroup" ] || echo 0 >"$cgroup/cgroup.procs" || exit 1',
            'exec ip netns exec "$netns" "$@"',
            "",
        )
    )


def wait(process: subprocess.Popen[Any], changes: Changes | None = None) -> int:
    """Wait for the command, and return its exit code as a shell does. Pass signals on to it.

    Meanwhile the changes that are asked for are made, one after another.
    """
    ended = os.pidfd_open(process.pid)
    try:
        waiting = select.poll()
        waiting.register(ended, select.POLLIN)
        if changes:
            waiting.register(changes, select.POLLIN)
        while True:
            try:
                # process.wait() is not used. If a signal strikes between its system call and the storing of the result,
                # it takes the command for one that ended with 0 (subprocess.Popen._try_wait, ChildProcessError).
                if ended in dict(waiting.poll()):
                    break
                if changes:
                    changes.make()
            except KeyboardInterrupt as caught:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, caught.args[0] if caught.args else signal.SIGINT)
    finally:
        os.close(ended)
    with interrupt.held():
        code = process.wait()
    return code if code >= 0 else 128 - code
