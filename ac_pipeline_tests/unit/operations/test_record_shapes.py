"""Records of another shape: how older forms are recognised, and how they are updated under their keys."""

from __future__ import annotations

from typing import Any

import pytest

from ac_pipeline.operations.inspection.links import LinkState, Repair
from ac_pipeline_tests.unit.operations.examining import cure, mood, only, states
from ac_pipeline_tests.unit.sync.world import World

A, B, C, D = "3jzfcijpj2z2a", "3jzfcijpj2z2b", "3jzfcijpj2z2c", "3jzfcijpj2z2d"


WHEN_TEXT = "2025-10-15T12:30:45.123Z"


@pytest.fixture
def world() -> World:
    return World()


PAINTING_FORMS: list[tuple[dict[str, Any], str]] = [
    ({"imageUrl": "https://aesthetic.computer/media/paintings/abc.png"}, "has another form of imageUrl"),
    ({"imageUrl": "https://aesthetic.computer/media/@ada/painting/x.png"}, "has another form of imageUrl"),
    ({"imageUrl": "https://art-aesthetic-computer.sfo3.digitaloceanspaces.com/x.png"}, "has another form of imageUrl"),
    ({"recordingUrl": "https://art-aesthetic-computer.sfo3.digitaloceanspaces.com/x.zip"}, "recordingUrl"),
    ({"thumbnail": None}, "lacks thumbnail"),
    ({"acUrl": None}, "lacks acUrl"),
    ({"zipUrl": "https://x.test/x.zip"}, "has extra zipUrl"),
]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"mood": None}, "mood"),
        ({"mood": None, "text": "fine"}, "text"),
        ({"ref": None, "mongoId": True}, "mongoId"),
        ({"when": "yesterday"}, "when"),
        ({"mood": 5}, "mood"),
    ],
)
def test_a_mood_of_another_shape_is_updated_under_its_key(world: World, value: dict[str, Any], said: str) -> None:
    """VERIFY-3, LINK-10."""
    user = world.user()
    document = world.add("mood", user)
    changed = {name: document if part is True else part for name, part in value.items()}
    world.put(user, "mood", A, {n: part for n, part in (mood(document) | changed).items() if part is not None})
    finding = only(world, user)
    assert (finding.state, finding.repair) == (LinkState.WRONG_SHAPE, Repair.UPDATE)
    assert said in finding.reason
    assert finding.problems
    cure(world, user)
    assert world.records(user, "mood") == {A: {"$type": "computer.aesthetic.mood", **mood(document)}}
    assert states(world, user) == {"linked": 1}


@pytest.mark.parametrize(("change", "said"), PAINTING_FORMS)
@pytest.mark.parametrize("rendered", [True, False], ids=["renditions known", "ledger lost"])
def test_every_older_form_of_a_painting_is_recognised(
    world: World, change: dict[str, Any], said: str, rendered: bool
) -> None:
    """REC-4, LINK-11; also before any rendition is known, as at the first look at an old repository."""
    user = world.user()
    document = world.add("painting", user)
    world.sync(user)
    ((key, right),) = world.records(user, "painting").items()
    world.drop(user, "painting", key)
    older = {name: value for name, value in (right | change).items() if value is not None}
    if "thumbnail" in older:
        world.pds.upload_blob(user, next(iter(world.renderer.store.values())), "image/png")
    world.put(user, "painting", A, older)
    world.change("painting", document, atproto={"rkey": A})
    if not rendered:
        world.ledger.entries.clear()
    finding = only(world, user)
    assert finding.state is LinkState.WRONG_SHAPE
    assert said in finding.reason
    cure(world, user)
    assert world.records(user, "painting") == {A: right}


def test_an_owner_qualified_slug_is_a_form_and_an_edited_text_is_content(world: World) -> None:
    """REC-6: the first is repaired; the second is the sync's, or a difference, never the doctor's."""
    user = world.user()
    piece = world.add("piece", user, slug=f"{user.id}/2026/02/03/abc")
    text = world.add("mood", user, mood="mine")
    world.sync(user)
    (key,) = world.records(user, "piece")
    world.drop(user, "piece", key)
    world.put(user, "piece", key, {"slug": f"{user.id}/2026/02/03/abc", "when": WHEN_TEXT, "ref": piece})
    world.change("mood", text, mood="mine, edited")
    assert states(world, user, "piece") == {"wrong-shape": 1}
    assert states(world, user, "mood") == {"linked": 1}
    before = world.records(user, "mood")
    cure(world, user)
    assert world.records(user, "piece")[key]["slug"] == "2026/02/03/abc"
    assert world.records(user, "mood") == before


def test_an_undeclared_field_is_a_warning_and_the_key_is_never_changed(world: World) -> None:
    """REC-5, VERIFY-3: a key that is no TID stays, an update cannot change it."""
    user = world.user()
    document = world.add("mood", user)
    world.put(user, "mood", "not-a-tid", mood(document, extra=1))
    finding = only(world, user)
    assert finding.state is LinkState.WRONG_SHAPE
    assert finding.problems == ()
    assert len(finding.warnings) == 2
    cure(world, user)
    assert world.by_ref(user, "mood") == {document: ["not-a-tid"]}
    assert states(world, user) == {"linked": 1}


def test_a_jpeg_that_is_declared_as_png_is_another_form(world: World) -> None:
    """MEDIA-2: as the original wrote the posters of tapes; a PDS of today would refuse to take such a record."""
    user = world.user()
    document = world.add("tape", user)
    world.sync(user)
    ((key, right),) = world.records(user, "tape").items()
    world.drop(user, "tape", key)
    jpeg = world.pds.upload_blob(user, b"\xff\xd8\xff poster", "image/jpeg")
    for rendition in world.entry("tape", document).derived.renditions.values():  # type: ignore[union-attr]
        world.pds.upload_blob(user, world.renderer.open(rendition.blob), rendition.blob.mime_type)
    world.put(user, "tape", key, right | {"thumbnail": jpeg.to_json() | {"mimeType": "image/png"}})
    finding = only(world, user)
    assert (finding.state, finding.reason) == (LinkState.WRONG_SHAPE, "has another form of thumbnail")
    cure(world, user)
    assert world.records(user, "tape") == {key: right}
