"""The rules of change between a published lexicon and ours."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from ac_pipeline.atproto.lexicon import Effect, changes, load_lexicons

Document = dict[str, Any]


def painting() -> Document:
    return copy.deepcopy(dict(load_lexicons().documents["computer.aesthetic.painting"]))


def record(document: Document) -> Document:
    found: Document = document["defs"]["main"]["record"]
    return found


def field(name: str, **schema: Any) -> Callable[[Document], object]:
    return lambda document: record(document)["properties"].setdefault(name, {}).update(schema)


def require(name: str) -> Callable[[Document], object]:
    return lambda document: record(document)["required"].append(name)


def without(name: str) -> Callable[[Document], object]:
    return lambda document: record(document)["properties"].pop(name)


def free(name: str) -> Callable[[Document], object]:
    return lambda document: record(document)["required"].remove(name)


def unset(name: str, rule: str) -> Callable[[Document], object]:
    return lambda document: record(document)["properties"][name].pop(rule)


def gone(document: Document) -> None:
    without("slug")(document)
    free("slug")(document)


def new_and_required(document: Document) -> None:
    field("title", type="string")(document)
    require("title")(document)


def key(document: Document) -> None:
    document["defs"]["main"]["key"] = "any"


def definition(document: Document) -> None:
    document["defs"]["size"] = {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("change", "path", "effect", "words"),
    [
        (field("title", type="string"), "main.record.title", Effect.COMPATIBLE, "a new optional field"),
        (new_and_required, "main.record.title", Effect.BREAKING, "a new required field"),
        (gone, "main.record.slug", Effect.BREAKING, "the required field is gone"),
        (without("acUrl"), "main.record.acUrl", Effect.WIDENING, "the field is gone"),
        (require("acUrl"), "main.record.acUrl", Effect.BREAKING, "is required now"),
        (free("code"), "main.record.code", Effect.BREAKING, "was required"),
        (field("code", type="integer"), "main.record.code", Effect.BREAKING, "the type was string, and is integer"),
        (field("slug", maxLength=127), "main.record.slug", Effect.BREAKING, "maxLength was 128, and is 127"),
        (field("slug", maxLength=129), "main.record.slug", Effect.WIDENING, "maxLength was 128, and is 129"),
        (field("slug", minLength=1), "main.record.slug", Effect.BREAKING, "minLength was not set, and is 1"),
        (unset("slug", "maxLength"), "main.record.slug", Effect.WIDENING, "maxLength was 128, and is not set"),
        (unset("imageUrl", "format"), "main.record.imageUrl", Effect.WIDENING, 'format was "uri", and is not set'),
        (field("slug", format="uri"), "main.record.slug", Effect.BREAKING, 'format was not set, and is "uri"'),
        (field("slug", enum=["a"]), "main.record.slug", Effect.BREAKING, 'enum was not set, and is ["a"]'),
        (field("thumbnail", accept=["image/png"]), "main.record.thumbnail", Effect.BREAKING, "accept was"),
        (
            field("thumbnail", accept=["image/png", "image/jpeg", "image/webp"]),
            "main.record.thumbnail",
            Effect.WIDENING,
            "accept was",
        ),
        (
            field("thumbnail", accept=["image/jpeg", "image/png"]),
            "main.record.thumbnail",
            Effect.COMPATIBLE,
            "accept was",
        ),
        (field("thumbnail", maxSize=1), "main.record.thumbnail", Effect.BREAKING, "maxSize was 1048576, and is 1"),
        (field("slug", description="x"), "main.record.slug", Effect.COMPATIBLE, "another description"),
        (field("slug", unheardOf=1), "main.record.slug", Effect.BREAKING, "unheardOf was not set, and is 1"),
        (key, "main", Effect.BREAKING, 'key was "tid", and is "any"'),
        (definition, "size", Effect.COMPATIBLE, "a new definition"),
    ],
)
def test_each_difference_has_its_effect(
    change: Callable[[Document], object], path: str, effect: Effect, words: str
) -> None:
    ours = painting()
    change(ours)
    (found,) = changes(painting(), ours)
    assert (found.path, found.effect) == (path, effect)
    assert words in found.what


def test_a_definition_that_is_gone_breaks_who_refers_to_it() -> None:
    published = painting()
    definition(published)
    assert [(c.path, c.effect) for c in changes(published, painting())] == [("size", Effect.BREAKING)]


def test_the_same_document_has_no_changes() -> None:
    assert changes(painting(), painting()) == []
