"""What the answer names exists."""

from __future__ import annotations

import pytest

from bench.outside.publish import STEPS
from bench.report.questions import PLACES, QUESTIONS, SHIPPED, place, topics
from bench.report.words import CHINESE
from dataplanes import catalog
from dataplanes.selection import balances, title
from scenarios.clauses import LEVELS


def test_every_placement_has_words() -> None:
    for name in filter(balances, catalog.names()):
        assert place(catalog.placement(name)) != catalog.placement(name), "questions.toml, [places]"
    assert place("elsewhere") == "elsewhere"


def test_the_words_of_the_answer_are_told_in_chinese() -> None:
    words = [*PLACES.values(), *(each.by for each in SHIPPED), *LEVELS, *(each.situation for each in QUESTIONS)]
    assert [each for each in words if each not in CHINESE.phrases] == []


def test_a_mechanism_has_a_name_of_its_own() -> None:
    """Planes whose mechanisms have one name are compared like for like, so it must not be inherited."""
    kinds: dict[str, set[type]] = {}
    for name in filter(balances, catalog.names()):
        recipe = catalog.recipe(name)
        for knobs in recipe.variants.values():
            kind = recipe.parts(knobs)[1].kind
            kinds.setdefault(kind.name, set()).add(kind)
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}


def test_what_docker_shipped_is_in_the_catalog_and_in_the_data_set() -> None:
    measured = {step.document: step.arguments[step.arguments.index("--dataplane") + 1].split(",") for step in STEPS[:5]}
    measured["scale.json"] += measured.pop("services.json")
    for each in SHIPPED:
        (selection,) = catalog.select(each.plane)
        assert title(selection.name, selection.dataplane, selection.variant) == each.plane
        assert all(each.plane in planes for document, planes in measured.items() if document != "traffic.json")


@pytest.mark.parametrize("step", STEPS[:4], ids=lambda step: step.document)
def test_the_data_set_names_every_plane_and_every_variant_that_it_compares(step: object) -> None:
    assert hasattr(step, "arguments")
    selections = catalog.select(step.arguments[step.arguments.index("--dataplane") + 1])
    assert list(dict.fromkeys(each.dataplane for each in selections)) == catalog.names()
    if step.arguments[step.arguments.index("--dataplane") + 1] != "all":
        assert all(title(each.name, each.dataplane, each.variant) == each.name for each in selections)


def test_a_question_stands_for_its_checks_if_all_of_them_are_meant() -> None:
    asked = next(question for question in QUESTIONS if question.name == "client address")
    assert topics(["change.drain", *asked.checks]) == ["drain", "client address"]
    assert topics(asked.checks[:2]) == [check.partition(".")[2] for check in asked.checks[:2]]
