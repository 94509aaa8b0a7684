"""Sequences for a person: a numbered sentence for each operation, and what was expected and seen after it."""

from __future__ import annotations

from collections.abc import Iterator

from bench.documents.exploration import Exploration, Finding


def lines(found: Exploration) -> Iterator[str]:
    """Yield each finding, and then a line for each plane."""
    for finding in found.findings:
        yield from _finding(finding)
        yield ""
    failed = {finding.dataplane for finding in found.findings}
    for each in found.explored:
        if each.skipped:
            yield f"{each.dataplane}: not explored: {each.skipped}"
            continue
        verdict = "not as expected" if each.dataplane in failed else "nothing found"
        yield f"{each.dataplane}: {verdict}; {each.operations:,} operations in {each.sequences:,} sequences"
        if each.disturbed:
            yield f"{each.dataplane}: {each.disturbed:,} more sequences do not count: {each.disturbance}"


def _finding(finding: Finding) -> Iterator[str]:
    again = f", seen again {finding.again} of {finding.times} times" if finding.times else ", not played again"
    yield f"{finding.dataplane}: the shortest sequence that is not as expected ({len(finding.steps)} operations{again})"
    yield from steps(finding)


def steps(finding: Finding) -> Iterator[str]:
    """Yield the steps of a sequence. What was seen is told where it is no matter of course."""
    for number, step in enumerate(finding.steps, 1):
        yield f"{number:>3}. {step.sentence}"
        if not step.as_expected:
            yield f"     expected: {step.expected}"
            yield f"     seen:     {step.seen}"
        elif step.seen != step.expected or len(step.expected.split()) > 4:
            yield f"     seen: {step.seen}"
