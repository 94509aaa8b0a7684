"""The workload `wrk`: crr by wrk and nginx, which checks the figures of `vipload`."""

from __future__ import annotations

import os
import re
import subprocess
import time

from bench.documents import TrialPlan, Work
from bench.inside.measure.traffic import FiguresAndWork, cost_of, own
from dataplanes.errors import KernelRefused
from dataplanes.kernel.process import tied
from dataplanes.selection import Selection
from scenarios.journal import Journal
from scenarios.testbed import Testbed

_PORT = 8080
_SECONDS = 1
_STARTS = 30.0
_NGINX = """
daemon off; master_process off; pid {directory}/pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_timeout 0;
  client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
  uwsgi_temp_path {directory}; scgi_temp_path {directory};
  server {{ listen {port} backlog=4096; location / {{ return 200 "x"; }} }}
}}
"""


def wrk(testbed: Testbed, selection: Selection, plan: TrialPlan, clock: str) -> FiguresAndWork:
    """Measure a connection per request for a second (wrk counts in whole seconds)."""
    service = testbed.scenario.traffic.service
    with Journal() as journal:
        names = [name for name, each in testbed.containers.items() if each.task.service == service]
        servers = [_serve(testbed, journal, name) for name in names]
        try:
            _await(testbed)
            threads = min(len(os.sched_getaffinity(0)), plan.axes.concurrency)  # as `vipload` does
            argv = ["wrk", f"-t{threads}", f"-c{plan.axes.concurrency}", f"-d{_SECONDS}", "-H", "Connection: close"]
            argv.append(f"http://{testbed.service(service).vip}:{_PORT}/")
            before, begun = _states(), time.monotonic_ns()
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            process = testbed.spawn(testbed.scenario.traffic.client, argv, **pipes)
            out, _ = process.communicate()
            elapsed, after = time.monotonic_ns() - begun, _states()
        finally:
            for server in servers:
                server.kill()
                server.wait()
    return _metrics(out.decode(), elapsed, {k: after[k] - before[k] for k in after}, clock)


def _serve(testbed: Testbed, journal: Journal, task: str) -> subprocess.Popen[bytes]:
    directory = journal.scratch(f"nginx-{task}")
    os.mkdir(directory)
    path = os.path.join(directory, "nginx.conf")
    with open(path, "w", encoding="ascii") as file:
        file.write(_NGINX.format(directory=directory, port=_PORT))
    return testbed.spawn(task, ["nginx", "-p", directory, "-c", path], preexec_fn=tied())


def _await(testbed: Testbed) -> None:
    """Wait until every backend's nginx listens."""
    deadline = time.monotonic() + _STARTS
    for target in own(testbed):
        address = target.rpartition(":")[0]
        while True:
            try:
                with testbed.socket(testbed.scenario.traffic.client, 1) as handle:
                    handle.settimeout(1)
                    handle.connect((address, _PORT))
                    break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise KernelRefused("nginx did not start", where=address, why=str(error)) from error


def _states() -> dict[str, int]:
    """Return the first line of /proc/stat in nanoseconds."""
    with open("/proc/stat", encoding="ascii") as file:
        values = file.readline().split()[1:]
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
    return {name: int(value) * tick for name, value in zip(names, values, strict=False)}


def _metrics(output: str, elapsed: int, states: dict[str, int], clock: str) -> FiguresAndWork:
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    requests = re.search(r"(\d+) requests in", output)
    if not rate or not requests or not int(requests[1]):
        raise KernelRefused("wrk printed no figures", why=output.strip().rpartition("\n")[2])
    failed = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    errors = (
        dict(zip(("connect", "read", "write", "timeout"), map(int, failed.groups()), strict=True)) if failed else {}
    )
    done = int(requests[1])
    figures = {"connections_per_second": float(rate[1]), **cost_of(elapsed, states, done, "wrk", clock)}
    failures = {name: count for name, count in errors.items() if count}
    return figures, Work(operations=done, elapsed_ns=elapsed, errors=failures)
