"""Slugs: what is recognised, what is published, and what is refused by name."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ac_pipeline.media.base import Verdict
from ac_pipeline.media.documents import interpret
from ac_pipeline.media.painting import PAINTING
from ac_pipeline.media.slugs import parse
from ac_pipeline_tests.unit.media.samples import SUB, raw


@pytest.mark.parametrize(
    ("stored", "owner", "recording", "published"),
    [
        ("2023.8.24.16.21.9.123", SUB, None, None),
        ("2023.8.24.16.21.09.123", SUB, None, None),
        ("2025.10.14.09.08.07.006", SUB, None, None),
        ("2025.10.14.09.08.07.006Z", SUB, None, None),
        ("2025-10-14T09:08:07.006Z", SUB, None, None),
        ("2025-10-14T09-08-07-006Z", SUB, None, None),
        ("2025-10-14T09:08Z", SUB, None, None),
        ("2025-10-14", SUB, None, None),
        ("Ab3dEf9h", None, None, None),
        ("Ab3dEf9h:Zy8xWv7u", None, "Zy8xWv7u", None),
        ("Ab3dEf9h-2023.8.24.16.21.9.123", SUB, None, None),
        ("starfield-1690000000000", SUB, None, None),
        ("my-piece-1690000000000", SUB, None, None),
        (f"{SUB}/painting/2023.8.24.16.21.9.123", SUB, None, "painting/2023.8.24.16.21.9.123"),
        (f"{SUB}/chat/2023.8.24.16.21.9.123", SUB, None, "chat/2023.8.24.16.21.9.123"),
        (f"{SUB}/2026/02/03/abc", SUB, None, "2026/02/03/abc"),
        (f"{SUB}/2023.8.24.16.21.9.123", SUB, None, "2023.8.24.16.21.9.123"),
        ("2026/02/03/abc", None, None, None),
        ("starfield", SUB, None, None),
        ("my painting (2)", SUB, None, None),
        ("line_dance~2+x", SUB, None, None),
        ("Grüße, 日本", SUB, None, None),
        ("100%", SUB, None, None),
        ("a..b", SUB, None, None),
        (".hidden", SUB, None, None),
        ("x" * 900, SUB, None, None),
    ],
)
def test_every_known_shape_is_recognised_and_published_without_its_owner(
    stored: str, owner: str | None, recording: str | None, published: str | None
) -> None:
    """SRC-3, REC-6."""
    slug = parse(stored, owner)
    assert (slug.recording, slug.published, slug.stored) == (recording, published or stored, stored)
    assert slug.by_piece_and_time is stored.endswith("-1690000000000")


def test_image_and_recording_are_told_apart() -> None:
    slug = parse("Ab3dEf9h:Zy8xWv7u", None)
    assert (slug.image, slug.recording) == ("Ab3dEf9h", "Zy8xWv7u")
    slug = parse("2025-10-14T09:08Z", None)
    assert (slug.image, slug.recording) == ("2025-10-14T09:08Z", None)


UNKNOWN = [
    "..",
    ".",
    "../x",
    "a/b",
    "painting/2023.8.24.16.21.9.123",
    "/2026/02/03/abc",
    "2026/02/03/abc/",
    "2026/02/03/..",
    "2026/02/03",
    "2026//03/abc",
    "wip/x1y2",
    "a:b:c",
    ":b",
    "a:",
    "https://example.com/x",
    "x?y",
    "x#y",
    "x*",
    "x<b>",
    'x"y',
    "x\\y",
    "x|y",
    " x",
    "x ",
    "x\ny",
    "x\x00y",
    "x\u202ey",
    "x\ud800y",
    "x%2Fy",
    "x" * 901,
    "undefined",
    "None",
    "undefined/painting/x",
]


@pytest.mark.parametrize("stored", UNKNOWN)
@pytest.mark.parametrize("owner", [SUB, None])
def test_an_unknown_slug_is_refused_with_a_reason(stored: str, owner: str | None) -> None:
    """SRC-2, SRC-3."""
    with pytest.raises(ValueError, match=r"\w"):
        parse(stored, owner)


@pytest.mark.parametrize("stored", ["a/b", "x?y", "https://example.com/x"])
def test_the_quarantine_reason_names_the_slug(stored: str) -> None:
    """SRC-3."""
    document = interpret(PAINTING, raw(PAINTING, slug=stored))
    assert document.verdict is Verdict.INVALID
    assert repr(stored) in document.reason


@pytest.mark.parametrize("stored", [..., None, "", "  "])
def test_a_missing_slug_is_said_to_be_missing(stored: object) -> None:
    document = interpret(PAINTING, raw(PAINTING, slug=stored))
    assert document.verdict is Verdict.INVALID
    assert "no `slug`" in document.reason


IDENTITIES = [
    (f"{SUB}/{SUB}/x", SUB),
    (f"{SUB}/painting/63effeeb2a7d55f8098d62f9", SUB),
    ("auth0|000000000000000000000000/painting/x", SUB),
    (f"{SUB}/painting/x", None),
    (f"{SUB}/painting/x", ""),
    ("auth0-63effeeb2a7d55f8098d62f9", None),
    ("auth0%7C63effeeb2a7d55f8098d62f9", None),
    ("63effeeb2a7d55f8098d62f9", SUB),
    ("google-oauth2|117000000000000000000/painting/x", SUB),
]


@pytest.mark.parametrize(("stored", "owner"), IDENTITIES)
def test_a_slug_that_holds_the_id_of_a_user_is_refused_and_not_shown(stored: str, owner: str | None) -> None:
    """REC-6: an Auth0 id is never published, not in a record and not in a reason."""
    with pytest.raises(ValueError, match=r"the id of a user|the character|a path is known|a percent escape"):
        parse(stored, owner or None)
    document = interpret(PAINTING, raw(PAINTING, slug=stored, user=owner))
    assert document.verdict is Verdict.INVALID
    assert "auth0|" not in document.reason
    assert "117000000000000000000" not in document.reason


@given(st.text(max_size=40) | st.from_regex(r"[a-z./:|%-]{0,30}"), st.sampled_from([SUB, "google-oauth2|1", None]))
def test_no_slug_publishes_an_owner_or_leaves_its_folder(stored: str, owner: str | None) -> None:
    """REC-6: property over any text, with and without its owner in front."""
    for text in (stored, f"{owner}/{stored}"):
        with suppress(ValueError):
            slug = parse(text, owner)
            assert "|" not in slug.published
            assert not {"", ".", ".."}.intersection(slug.published.split("/"))
            assert slug.published.isprintable()
