"""Links as Mongo holds them."""

from __future__ import annotations

import pytest

from ac_pipeline.media.base import Link
from ac_pipeline.media.documents import read_link

URI = "at://did:plc:abc/computer.aesthetic.tape/3kaaa"
ONE = ("atproto",)
BOTH = ("atproto", "at")


@pytest.mark.parametrize(
    ("stored", "link"),
    [
        ({"rkey": "3kaaa"}, Link(rkey="3kaaa")),
        ({"rkey": "3kaaa", "uri": URI}, Link(rkey="3kaaa", uri=URI, did="did:plc:abc")),
        ({"rkey": "3kaaa", "uri": URI, "cid": "bafy"}, Link(rkey="3kaaa", uri=URI, cid="bafy", did="did:plc:abc")),
        ({"rkey": "3kaaa", "uri": URI, "syncedAt": "2025"}, Link(rkey="3kaaa", uri=URI, did="did:plc:abc")),
        ({"rkey": "3kaaa", "uri": URI, "did": "did:plc:x"}, Link(rkey="3kaaa", uri=URI, did="did:plc:x")),
        ({"uri": URI}, Link(uri=URI, did="did:plc:abc")),
        ({}, None),
        (None, None),
        ("3kaaa", None),
        ({"rkey": ""}, None),
        ({"rkey": None, "uri": 5, "cid": []}, None),
        ({"rkey": "a/b"}, None),
        ({"rkey": ".."}, None),
        ({"rkey": "x" * 513}, None),
        ({"rkey": "x" * 512}, Link(rkey="x" * 512)),
        ({"rkey": "3kaaa", "uri": "https://x"}, Link(rkey="3kaaa", uri="https://x")),
    ],
)
def test_every_form_of_a_link_is_read(stored: object, link: Link | None) -> None:
    """LINK-3: the DID comes from the stored one, else from the URI. Facts, section 11: forms that occur."""
    assert read_link({"atproto": stored}, ONE) == link


def test_a_document_without_link_has_none() -> None:
    assert read_link({}, BOTH) is None


def test_a_type_with_one_home_does_not_read_another() -> None:
    assert read_link({"at": {"rkey": "3kaaa"}}, ONE) is None


FULL = {"rkey": "3kaaa", "uri": URI, "cid": "bafy"}


def test_homes_that_agree_are_one_link() -> None:
    """LINK-4: both homes of a tape are read."""
    stored = {"atproto": {**FULL, "did": "did:plc:abc"}, "at": FULL}
    assert read_link(stored, BOTH) == Link("3kaaa", URI, "bafy", "did:plc:abc")


@pytest.mark.parametrize(
    ("stored", "link"),
    [
        ({"at": FULL}, Link("3kaaa", URI, None, "did:plc:abc")),
        ({"atproto": FULL}, Link("3kaaa", URI, None, "did:plc:abc")),
        ({"atproto": FULL, "at": {**FULL, "rkey": "3kbbb"}}, Link("3kaaa", URI, None, "did:plc:abc")),
        ({"atproto": {"uri": "at://did:plc:old/x/y"}, "at": FULL}, Link("3kaaa", URI, None, "did:plc:abc")),
        ({"atproto": {"uri": URI}}, Link(None, URI, None, "did:plc:abc")),
    ],
)
def test_homes_that_differ_leave_the_cid_open_so_that_all_are_written_anew(
    stored: dict[str, object], link: Link
) -> None:
    """LINK-4: the first home with a key wins, also over what a wipe left in another; the CID is open."""
    assert read_link(stored, BOTH) == link
