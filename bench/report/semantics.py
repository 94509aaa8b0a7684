"""The page docs/semantics.md: the specification, made from its clauses, the checks and expected.toml."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import starmap

from bench.report import mutants
from bench.report.columns import table
from bench.report.keeping import Lack, lacks, selections, unobserved
from bench.report.mutants import Tried
from bench.report.plane_names import families, told
from dataplanes import catalog
from dataplanes.texts import code, markdown
from scenarios.clauses import CLAUSES, GROUPS, LEVELS, OUTSIDE, SUITES, Clause, Group

_PREFACE = """\
# The semantics of a service VIP

A service VIP is one address for a set of servers. A *client* opens connections and sends datagrams to the VIP. On the
way the *data plane* chooses one of the service's *backends* for each connection or flow, and brings the packets there
and the answers back. Neither end runs code for it, and both may believe that the VIP is the server. Docker's swarm mode
and Kubernetes give every service such an address.

This page says in {clauses} clauses what that promises, so that whoever writes or chooses a data plane can say which
clauses it means to keep. It is about addresses inside a cluster, where every client is a container (a pod) on the
network. Published ports, and how a control plane learns who is healthy, are other subjects. The clauses were not read
off an implementation: each names who asks for it.

## How to read a clause

| level | who relies on the clause | clauses |
|---|---|---|
| core | Any application: Docker's and Kubernetes' documentation promises it. | {core} |
| extended | Some applications notice it: particular clients, servers, ports, protocols or times. | {extended} |
| visible | No traffic depends on it. An operator sees it. | {visible} |

A data plane has *the same effect* as another one if it loses no core and no extended clause that the other one keeps,
and *nearly the same effect* if it loses no core clause ([answer.md](answer.md)).

A clause has a number and a name, which stay as they are when others are added. Below it are:

- *Why*: who needs it, or what goes wrong without it.
- *Sources*: where it was promised, decided or missed ([sources.md](sources.md)).
- *Observed by*: the checks that are about it (`bench list checks`). Each makes real connections on a real kernel, in
  `bench matrix`. A check that shows the clause *besides* is about another one, and cannot hold without this one.
- *Not kept by*: the planes of this repository on which a check about it does not hold, with the reason. A clause that
  is only shown besides is kept where one of those checks holds. Planes and kernels that are not named keep the clause.
  The data are in `scenarios/expected.toml`, and `bench matrix` fails if a kernel shows anything else.
- *Elsewhere*: tests of others that ask for the same. A [table](#what-others-call-them) at the end lists all of them.

A plane without a variant means all its variants ([planes.md](planes.md)). Groups of planes are:

{families}

## Contents

{contents}
"""

_THREAD, _RFC, _STATEMENT = re.compile(r"([\w.-]+/[\w.-]+)#(\d+)"), re.compile(r"RFC (\d+)"), re.compile(r"D\d+")


def page(tried: Sequence[Tried] = ()) -> str:
    """Return the page as Markdown, with the faults that were planted to see whether the checks find them."""
    levels = Counter(clause.level for clause in CLAUSES)
    lines = [
        _PREFACE.format(
            clauses=len(CLAUSES),
            families="\n".join(_families()),
            contents="\n".join(_contents(tried)),
            **{level: str(levels[level]) for level in LEVELS},
        )
    ]
    for number, group in enumerate(GROUPS, 1):
        lines += [f"## {number}. {group.title}", "", group.about, ""]
        for clause in group.clause:
            lines += _clause(clause)
    return "\n".join([*lines, *_outside(), *_planes(), *mutants.section(tried), *_elsewhere()])


def _families() -> list[str]:
    found = families(list(dict.fromkeys(name.partition("@")[0] for name in selections())))
    return [f"- *{name}*: {_listed(planes)}" for name, planes in found.items()]


def _contents(tried: Sequence[Tried]) -> list[str]:
    return [
        *starmap(_entry, enumerate(GROUPS, 1)),
        "- [What the lab cannot express](#what-the-lab-cannot-express)",
        "- [What each plane does not keep](#what-each-plane-does-not-keep)",
        *([f"- [{mutants.TITLE}](#{_anchor(mutants.TITLE)})"] if tried else []),
        "- [What others call them](#what-others-call-them)",
    ]


def _entry(number: int, group: Group) -> str:
    levels = Counter(clause.level for clause in group.clause)
    counts = ", ".join(f"{levels[each]} {each}" for each in LEVELS if levels[each])
    title = f"{number}. {group.title}"
    return f"- [{title}](#{_anchor(title)}): {group.clause[0].number} to {group.clause[-1].number} ({counts})"


def _anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _clause(clause: Clause) -> list[str]:
    lines = [
        f'### <a id="{clause.name}"></a>{clause.number} {clause.says}',
        "",
        f"{code(clause.name)}, **{clause.level}**",
        "",
        f"- *Why*: {clause.rationale}",
        f"- *Sources*: {', '.join(map(source, clause.sources))}.",
        f"- *Observed {_observed(clause)}.",
    ]
    if why := unobserved(clause):
        return [*lines, f"- *Not observed*: {why}.", *_names_elsewhere(clause), ""]
    return [*lines, *(_lack(each, clause) for each in lacks(clause)), *_names_elsewhere(clause), ""]


def _observed(clause: Clause) -> str:
    if not clause.checks:
        return f"besides by*: {_listed(clause.besides)}"
    besides = f"; besides by {_listed(clause.besides)}" if clause.besides else ""
    return f"by*: {_listed(clause.checks)}{besides}"


def _lack(lack: Lack, clause: Clause) -> str:
    only = "" if set(clause.checks) <= {*lack.checks} else f", in {_listed(lack.checks)}"
    where = f" on kernels {_releases(lack.kernels)}" if lack.kernels else ""
    reference = f" ({lack.reference})" if lack.reference else ""
    verb = "Not kept by" if lack.applies else "Does not apply to"
    return f"- *{verb}* {told(lack.planes, selections())}{where}{only}: {markdown(lack.reason + reference)}."


def _releases(prefixes: Sequence[str]) -> str:
    """Return a series of prefixes of releases, which is in order, by its ends."""
    first, last = (prefixes[each].rstrip(".") for each in (0, -1))
    return first if first == last else f"{first} to {last}"


def _names_elsewhere(clause: Clause) -> list[str]:
    parts = [
        f"{each.title}: {'; '.join(clause.elsewhere[each.key])}" for each in SUITES if each.key in clause.elsewhere
    ]
    return [f"- *Elsewhere*: {'. '.join(parts)}."] if parts else []


def source(name: str) -> str:
    """Return a source with a link to it, if it has an address."""
    if found := _THREAD.fullmatch(name):
        return f"[{name}](https://github.com/{found[1]}/issues/{found[2]})"
    if found := _RFC.fullmatch(name):
        return f"[{name}](https://www.rfc-editor.org/rfc/rfc{found[1]})"
    if _STATEMENT.fullmatch(name):
        return f"[{name}](sources.md#facts-about-swarms-vips)"
    if name.startswith(("docs.docker.com/", "kubernetes.io/docs/")):
        return f"[{name}](https://{name})"
    return code(name)


def _outside() -> list[str]:
    lines = [
        "## What the lab cannot express",
        "",
        "No check is about these subjects yet. Each says what it would take.",
        "",
    ]
    lines += [f"- *{each.subject}*: {each.takes} ({', '.join(map(source, each.sources))})" for each in OUTSIDE]
    return [*lines, ""]


def _planes() -> list[str]:
    """Return the clauses that each plane does not keep in its default variant."""
    found: dict[str, dict[str, dict[str, Clause]]] = {}
    for clause in CLAUSES:
        for lack in [] if unobserved(clause) else lacks(clause):
            for plane in lack.planes:
                kind = clause.level if lack.applies else "does not apply"
                found.setdefault(plane, {}).setdefault(kind, {})[clause.name] = clause
    lines = [
        "## What each plane does not keep",
        "",
        "Each plane is in its default variant. Other variants, and kernels that differ, are told at the clauses.",
        "",
    ]
    for plane in dict.fromkeys(name.partition("@")[0] for name in selections()):
        default = catalog.recipe(plane).default
        kinds = found.get(f"{plane}@{default}", {})
        parts = [f"*{kind}* {_numbers(kinds[kind].values())}" for kind in (*LEVELS, "does not apply") if kind in kinds]
        lines.append(f"- {code(f'{plane}@{default}' if default else plane)}: {'; '.join(parts) or 'it keeps all'}")
    return [*lines, ""]


def _numbers(clauses: Iterable[Clause]) -> str:
    return ", ".join(map(_link, clauses))


def _link(clause: Clause) -> str:
    return f"[{clause.number}](#{clause.name})"


def _elsewhere() -> list[str]:
    """Return the mapping from tests of others to clauses."""
    lines = [
        "## What others call them",
        "",
        "Tests of others that ask for what a clause promises. They may ask for more.",
        "",
    ]
    for suite in SUITES:
        tests: dict[str, list[Clause]] = {}
        for clause in CLAUSES:
            for name in clause.elsewhere.get(suite.key, []):
                tests.setdefault(name, []).append(clause)
        rows = [[name, _numbers(tests[name])] for name in sorted(tests)]
        lines += [f"### {suite.title}", "", f"{suite.where}.", "", *table(["test", "clauses"], rows), ""]
    return lines


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(code, names))
