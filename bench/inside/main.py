"""The program on the kernel under test. It does the job in the file BENCH_INPUT, and sends events on the event channel.

It is the same on the host and in the guest, and is started as `python -m bench.start inside`. Its imports are few,
because under emulation they cost more than the work.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bench.documents import Event, Job
from bench.documents.agreement import Agreement, figure
from bench.inside import environment, trial
from bench.inside.measure.ceiling import ceiling
from dataplanes import catalog, extensions, files
from dataplanes.kernel import interrupt
from dataplanes.kernel.process import become_shell, tied
from dataplanes.selection import REFERENCE
from scenarios import topology
from scenarios.document import document
from scenarios.journal import Journal
from scenarios.lab import Lab

_FILES = 65_536
_encoder = msgspec.json.Encoder()


def _tell(event: Event) -> None:
    channel = os.environ.get("BENCH_EVENTS_FD")
    if channel:
        os.write(int(channel), _encoder.encode(event) + b"\n")


def _trials(job: Job, clock: str) -> int:
    most = max(plan.connections for plan in job.trials), max(plan.axes.concurrency for plan in job.trials)
    facts = environment.collect(clock) | {"generator_ceiling": ceiling(*most)}
    _tell(Event("environment", data=facts))
    selections = {each.name: each for each in job.selections}
    agreement = Agreement(job.goal, job.rounds)
    for plan in job.trials:
        if agreement.reached(plan):
            continue
        done = trial.run(job.scenario, selections[plan.dataplane], plan, clock)
        _tell(Event("trial", data=msgspec.to_builtins(done)))
        if not done.warmup:
            agreement.add(figure(done))
    return 0


def _lab(job: Job, clock: str) -> int:
    scenario = topology.load(job.scenario)
    (selection,) = job.selections
    with Journal() as journal, trial.build(scenario, selection, journal) as lab:
        return _command(lab, job.command)


def _command(lab: Lab, argv: list[str]) -> int:
    """Run a command or a shell in the lab."""
    with Journal() as journal:
        path, tool = journal.scratch("lab.json"), journal.scratch("container")
        files.keep(Path(path), msgspec.json.format(_encoder.encode(document(lab)), indent=1))
        files.keep(Path(tool), _enter(lab).encode())
        os.chmod(tool, 0o755)
        command = argv or [os.environ.get("SHELL", "/bin/sh")]
        search = f"{os.path.dirname(tool)}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"
        client = lab.scenario.traffic.client
        environ = {**os.environ, "BENCH_LAB": path, "BENCH_CLIENT": client, "PATH": search}
        _tell(Event("stage", "ready"))
        interrupt.strike_again()
        try:
            with interrupt.held():  # between fork and exec a child would lose a signal
                become = tied() if argv or not os.isatty(0) else partial(become_shell, os.getpid())
                process = subprocess.Popen(command, env=environ, preexec_fn=become)
        except OSError as error:
            print(f"bench: {command[0]}: {error.strerror}", file=sys.stderr)
            return 127 if isinstance(error, FileNotFoundError) else 126
        return _wait(process)


def _matrix(job: Job, clock: str) -> int:
    from bench.inside import observe

    return observe.matrix(job, clock, _tell, lambda lab: _command(lab, []))


def _explore(job: Job, clock: str) -> int:
    from bench.inside import explore

    return explore.explore(job, clock, _tell)


def _enter(lab: Lab) -> str:
    """Return the script `container NAME COMMAND...`, which runs a command in a container's namespace and cgroup."""
    cases = [
        f"{name}) netns={each.netns} cgroup={each.cgroup or ''} ;;" for name, each in sorted(lab.containers.items())
    ]
    names = " ".join(sorted(lab.containers))
    return "\n".join(
        (
            "#!/bin/sh",
            "case $1 in",
            *cases,
            f'*) echo "usage: container NAME COMMAND...; there are: {names}" >&2; exit 2 ;;',
            "esac",
            "shift",
            '[ -z "$cgroup" ] || echo 0 >"$cgroup/cgroup.procs" || exit 1',
            'exec ip netns exec "$netns" "$@"',
            "",
        )
    )


def _wait(process: subprocess.Popen[Any]) -> int:
    """Wait for the command, and return its exit code as a shell does. Pass signals on to it."""
    while True:
        try:
            # process.wait() is not used. If a signal strikes between its system call and the storing of the result, it
            # takes the command for one that ended with 0 (subprocess.Popen._try_wait, ChildProcessError).
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            break
        except KeyboardInterrupt as caught:
            with suppress(ProcessLookupError):
                os.kill(process.pid, caught.args[0] if caught.args else signal.SIGINT)
    with interrupt.held():
        code = process.wait()
    return code if code >= 0 else 128 - code


def _inspect(job: Job, clock: str) -> int:
    from scenarios import walk

    scenario = topology.load(job.scenario)
    (selection,) = job.selections
    with Journal() as journal, trial.build(scenario, REFERENCE, journal, cgroups_for=selection) as lab:
        report = walk.report(lab, lambda lab: catalog.make(selection, lab, journal))
    _tell(Event("report", data=report))
    return 0


_KINDS = {"trials": _trials, "lab": _lab, "inspect": _inspect, "matrix": _matrix, "explore": _explore}


def _allow_files() -> None:
    """Raise the limit of open files.

    A lab holds several sockets per namespace, and 300 containers exceed the usual 1024.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # raising the hard limit takes a capability that not every root has
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(most, _FILES), max(most, _FILES)))
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> int:
    """Do the job. An error is sent as an event, and becomes the exit code."""
    return interrupt.exit_code(_interruptible, lambda error: _tell(Event.of(error)))


def _interruptible() -> int:
    with interrupt.prevailing():
        return _do()


def _do() -> int:
    _allow_files()
    job = msgspec.json.decode(Path(os.environ.pop("BENCH_INPUT")).read_bytes(), type=Job)
    extensions.adopt(job.extensions)
    return _KINDS[job.kind](job, os.environ.get("BENCH_CLOCK", "wall"))
