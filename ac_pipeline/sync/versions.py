"""Data versions: short hashes that change when, and only when, what they name has changed.

Pure. What is hashed is decided here, so that whoever looks at documents (a sync, a sensor) says the same of them. How
Dagster is told belongs to `defs/versions.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from ac_pipeline.media.base import Document
from ac_pipeline.sync.plan import Wanted

_LENGTH = 16
"""Hex digits of a version: 64 bits, so that no two of the same user and type are ever taken for one."""


@dataclass(slots=True)
class Versions:
    """Versions of one account's items of one type; None for what was not looked at.

    Args:
        documents: Of the documents in Mongo.
        renditions: Of the derived media their records refer to.
        records: Of the records that shall exist.
    """

    documents: str | None = None
    renditions: str | None = None
    records: str | None = None


def documents_version(documents: Iterable[Document]) -> str:
    """Of all documents of one account and type: their synced fields and verdicts, in no order.

    Links do not count: the pipeline writes them itself. Neither does anything else that no record depends on, such as
    a kidlisp's hits (acceptance, SRC-9).
    """
    return _hash(f"{document.id} {document.verdict.value} {document.fingerprint}" for document in documents)


def renditions_version(wanted: Iterable[Wanted]) -> str:
    """The set of blobs, by CID, that the wanted records refer to."""
    return _hash({blob.blob.cid for each in wanted if each.derived for blob in each.derived.renditions.values()})


def records_version(wanted: Iterable[Wanted]) -> str:
    """The wanted records, by CID; an item that is held back is none."""
    return _hash(f"{each.document.id} {each.cid}" for each in wanted if each.cid is not None and not each.skipped)


def _hash(lines: Iterable[str]) -> str:
    return sha256("\n".join(sorted(lines)).encode()).hexdigest()[:_LENGTH]
