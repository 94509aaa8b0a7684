"""Processes as /proc shows them, and their numbers in PID namespaces below its own (pid_namespaces(7)).

`proc` is a mounted proc filesystem. All numbers that are returned are those of the namespace that it was mounted in.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

PROC = "/proc"


def numbers(proc: str = PROC) -> Iterator[int]:
    """Yield the number of every process."""
    yield from map(int, filter(str.isdigit, os.listdir(proc)))


def words(pid: int, field: str, proc: str = PROC) -> list[str]:
    """Return the words in a field of a process's status (proc_pid_status(5)), none if there is no such process."""
    with suppress(OSError), open(f"{proc}/{pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name == field:
                return rest.split()
    return []


def state(pid: int) -> str:
    """Return the letter of a process's state, "" if there is no such process."""
    return next(iter(words(pid, "State")), "")


def parent(pid: int, proc: str = PROC) -> int:
    """Return the number of a process's parent, 0 if there is no such process."""
    return next(map(int, words(pid, "PPid", proc)), 0)


def namespace(pid: int | str, proc: str = PROC) -> str:
    """Return what tells the PID namespace of a process from others, "" if there is no such process."""
    with suppress(OSError):
        return os.readlink(f"{proc}/{pid}/ns/pid")
    return ""


def find(number: int, wanted: str, proc: str = PROC) -> int:
    """Return the process that has this number in a PID namespace, 0 if there is none.

    It is in that namespace, or it is the first one of a namespace right below. Engines start both kinds.
    """
    for each in numbers(proc):
        known = [int(word) for word in words(each, "NSpid", proc)]  # from the outermost namespace to its own
        if number in known[-2:-1] and namespace(parent(each, proc), proc) == wanted:
            return each
        if known[-1:] == [number] and namespace(each, proc) == wanted:
            return each
    return 0
