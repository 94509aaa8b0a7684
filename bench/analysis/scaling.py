"""How a cost grows with the number of services and of containers on a node: forms, and the one that the data choose.

What a site of a data plane does for services takes the same time for any number of them (a hash, a map), grows with it
(a list of rules, a table that is written), or with its logarithm (a tree). A site is a node, or each container on it:
then all of it is done for each container. Which of the two it is, follows from the placement, and gives the forms that
come into question.

A form is fitted by least squares of relative errors, without a negative term. The data choose the form: a term more
must explain more than noise. How far off the model is at a size that it has not seen, is told by leaving out each once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from msgspec import Struct
from scipy.optimize import nnls

Term = Callable[[float, float], float]
TERMS: dict[str, Term] = {
    "constant": lambda services, containers: 1.0,
    "services": lambda services, containers: services,
    "log services": lambda services, containers: math.log2(services + 1),
    "containers": lambda services, containers: containers,
    "containers x services": lambda services, containers: containers * services,
    "containers x log services": lambda services, containers: containers * math.log2(services + 1),
}
Forms = tuple[tuple[str, ...], ...]
OF_NODE: Forms = (
    ("constant",),
    ("constant", "services"),
    ("constant", "log services"),
    ("constant", "containers"),
    ("constant", "services", "containers"),
    ("constant", "log services", "containers"),
)
"""The forms of a cost whose site is the node, the simplest first. So is the cost of a connection."""
OF_CONTAINERS: Forms = (
    ("containers",),
    ("constant", "containers"),
    ("containers", "containers x services"),
    ("containers", "containers x log services"),
    ("constant", "containers", "containers x services"),
    ("constant", "containers", "containers x log services"),
)
"""The forms of a cost whose sites are the containers of a node."""
_SMALL = 0.1
"""A cost below this share of the largest one counts as so large in a relative error: one of nearly nothing has none."""


class Point(Struct, frozen=True):
    """A cost that was measured at a number of services and of containers on a node."""

    services: float
    containers: float
    cost: float


class GrowthModel(Struct, frozen=True):
    """A form with its coefficients, and its largest error at a size that it had not seen, as a fraction."""

    form: tuple[str, ...]
    coefficients: tuple[float, ...]
    error: float
    points: int
    services: tuple[float, float]  # the least and the most that was measured
    containers: tuple[float, float]

    def cost(self, services: float, containers: float) -> float:
        """Return the cost at a number of services and of containers on a node."""
        terms = (TERMS[name](services, containers) for name in self.form)
        return float(sum(factor * term for factor, term in zip(self.coefficients, terms, strict=True)))


def fitted(points: Sequence[Point], forms: Forms, noise: float) -> GrowthModel | None:
    """Return the model that the data choose, or None if they are too few to hold any form against.

    `noise` is the fraction by which a cost may differ from one run to the next.
    """
    if len(points) <= min((len(form) for form in forms), default=len(points)):
        return None
    form = _chosen(forms, points, noise)
    worst = max(_unseen(forms, points, number, noise) for number in range(len(points)))
    spans = [(min(values), max(values)) for values in zip(*((p.services, p.containers) for p in points), strict=True)]
    return GrowthModel(form, _fit(form, points), worst, len(points), spans[0], spans[1])


def _chosen(forms: Forms, points: Sequence[Point], noise: float) -> tuple[str, ...]:
    """Return the form that the data choose, among those that they can be held against."""
    able = [form for form in forms if len(form) < max(len(points), 2)]
    return min(able, key=lambda form: _surprise(form, points, noise))


def _surprise(form: tuple[str, ...], points: Sequence[Point], noise: float) -> float:
    """Return how surprising the data are to a form, with its price for each term (Schwarz 1978, the BIC).

    Errors below the noise count as that: no form is chosen for what it makes of noise.
    """
    factors, floor = _fit(form, points), _floor(points)
    square = sum(error(form, factors, each, floor) ** 2 for each in points) / len(points)
    return len(points) * math.log(square + noise**2) + len(form) * math.log(len(points))


def _unseen(forms: Forms, points: Sequence[Point], number: int, noise: float) -> float:
    """Return the relative error at one of the points of a form that the others choose, and that is fitted to them."""
    left = points[number]
    others = [*points[:number], *points[number + 1 :]]
    form = _chosen(forms, others, noise)
    return error(form, _fit(form, others), left, _floor(points))


def error(form: tuple[str, ...], coefficients: Sequence[float], at: Point, floor: float) -> float:
    """Return the relative error of a fitted form at a point. A cost below `floor` counts as that."""
    told = sum(f * TERMS[name](at.services, at.containers) for name, f in zip(form, coefficients, strict=True))
    return abs(told - at.cost) / max(abs(at.cost), floor)


def _floor(points: Sequence[Point]) -> float:
    return max(_SMALL * max(abs(each.cost) for each in points), 1e-12)


def _fit(form: tuple[str, ...], points: Sequence[Point]) -> tuple[float, ...]:
    """Return the coefficients, none negative, with the least squares of relative errors."""
    floor = _floor(points)
    weights = np.array([1 / max(abs(each.cost), floor) for each in points])
    rows = (
        np.array([[TERMS[name](each.services, each.containers) for name in form] for each in points]) * weights[:, None]
    )
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-300)
    wanted = np.array([each.cost for each in points]) * weights
    try:
        found: Any = nnls(rows / scale, wanted)[0]
    except RuntimeError:  # it does not converge: the form says nothing
        return tuple(0.0 for _ in form)
    return tuple(float(each) for each in found / scale)
