"""A full, valid record of each of the five types, for tests of what records may be; and the time of a record key."""

from __future__ import annotations

import copy
from typing import Any

from ac_pipeline.atproto.syntax import blob_cid

KEY = "3jzfcijpj2z2a"
WHEN = "2025-10-14T08:09:10.011Z"
REF = "65f0c0ffee65f0c0ffee65f0"
PNG = {"$type": "blob", "ref": {"$link": blob_cid(b"png")}, "mimeType": "image/png", "size": 10_000}
MP4 = {"$type": "blob", "ref": {"$link": blob_cid(b"mp4")}, "mimeType": "video/mp4", "size": 180_000}

RECORDS: dict[str, dict[str, Any]] = {
    "computer.aesthetic.painting": {
        "slug": "2025.10.14.8.9.10.011",
        "code": "abc",
        "imageUrl": "https://aesthetic.computer/media/paintings/abc",
        "acUrl": "https://aesthetic.computer/#abc",
        "recordingUrl": "https://aesthetic.computer/media/paintings/abc.zip",
        "thumbnail": PNG,
    },
    "computer.aesthetic.mood": {"mood": "fine\\nthanks"},
    "computer.aesthetic.piece": {"slug": "wand"},
    "computer.aesthetic.kidlisp": {"source": "(wipe blue)", "code": "cow", "acUrl": "https://aesthetic.computer/$cow"},
    "computer.aesthetic.tape": {
        "slug": "2025.10.14.08.09.10.011",
        "code": "xyz",
        "acUrl": "https://aesthetic.computer/!xyz",
        "video": MP4,
        "thumbnail": PNG,
    },
}
NSIDS = sorted(RECORDS)


def example(name: str, **changes: Any) -> dict[str, Any]:
    """A full record of a type; a change to `...` leaves the field out."""
    nsid = name if "." in name else f"computer.aesthetic.{name}"
    record = {"$type": nsid, "when": WHEN, "ref": REF, **copy.deepcopy(RECORDS[nsid]), **changes}
    return {field: value for field, value in record.items() if value is not ...}


def tid_time(key: str) -> int:
    """Microseconds since 1970 of a TID: its 65 bits in base 32, without the 10 of the clock id."""
    number = 0
    for letter in key:
        number = number << 5 | "234567abcdefghijklmnopqrstuvwxyz".index(letter)
    return number >> 10
