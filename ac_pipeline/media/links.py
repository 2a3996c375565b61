"""Links: what Mongo says about where the record of a document is (aesthetic-computer facts, section 11).

Reading only. What a link has to say, and whether it is true, is decided by the plan; writing is `mongo/documents.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ac_pipeline.media.base import Link
from ac_pipeline.media.fields import sound_text

_AT_URI = re.compile(r"at://(did:[a-z]+:[A-Za-z0-9._:%-]+)/")
_RKEY = re.compile(r"[A-Za-z0-9._:~-]{1,512}")
"""Record key syntax of ATProto. Anything else cannot be the key of a record and is no link."""


def read_link(raw: Mapping[str, Any], homes: Sequence[str]) -> Link | None:
    """The link stored in a document, or None when no home holds one.

    The first home with a record key wins, else the first that holds anything: a wipe of the original leaves `uri`
    and `cid` behind without `rkey`, and such a rest is no key to write under. Where a type has several homes and they
    do not say the same, the CID is unknown (None), so that whoever compares the link with the record writes all homes
    anew (LINK-4).

    Args:
        raw: The Mongo document.
        homes: Names of its link sub-documents, the pipeline's own first.
    """
    found = [_read_home(raw.get(home)) for home in homes]
    winner = next((link for link in found if link and link.rkey), None) or next((link for link in found if link), None)
    if winner is None or all(link is not None and _same(link, winner) for link in found):
        return winner
    return Link(rkey=winner.rkey, uri=winner.uri, cid=None, did=winner.did)


def _same(one: Link, other: Link) -> bool:
    return (one.rkey, one.uri, one.cid) == (other.rkey, other.uri, other.cid)


def _read_home(home: object) -> Link | None:
    if not isinstance(home, Mapping):
        return None
    rkey, uri, cid, did = (sound_text(home.get(part)) for part in ("rkey", "uri", "cid", "did"))
    if rkey is not None and (_RKEY.fullmatch(rkey) is None or rkey in {".", ".."}):
        rkey = None
    if did is None and uri is not None and (match := _AT_URI.match(uri)):
        did = match.group(1)
    return Link(rkey=rkey, uri=uri, cid=cid, did=did) if rkey or uri or cid else None
