"""The moods, pieces and kidlisp of the demo: every document variant the platform has left behind.

Source: aesthetic-computer facts, sections 3.2 to 3.4, 4 and 7.1; limits in section 8.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from ac_pipeline.local import seed_media
from ac_pipeline.local.seed_kinds import MISSING, Build, Kind, Made, Share, Whose
from ac_pipeline.local.seed_maker import NOW, Maker, iso, naive
from ac_pipeline.local.seed_values import GUEST_BUCKET, USER_BUCKET, Outcome, Past, Person, StoredObject

MOOD_BYTES = 5_000
KIDLISP_BYTES = 50_000
PIECE_SLUG_BYTES = 100

_W, _Q, _G, _H = Outcome.WITHDRAWN, Outcome.QUARANTINED, Whose.GUEST, Whose.HISTORIAN


def _mood(words: Callable[[Maker], Any] = lambda maker: maker.mood(), **extra: Any) -> Build:
    def build(maker: Maker, owner: Person | None, when: datetime) -> Made:
        return Made({"mood": words(maker), **extra})

    return build


def _mood_when(value: Callable[[datetime], Any]) -> Build:
    def build(maker: Maker, owner: Person | None, when: datetime) -> Made:
        return Made({"mood": maker.mood(), "when": value(when)})

    return build


def _mirrored_mood(maker: Maker, owner: Person | None, when: datetime) -> Made:
    return Made({"mood": maker.mood(), "bluesky": {"rkey": maker.tid(when)}})


_MOODS = (
    Kind("correct record", _mood(), _H, past=Past.CORRECT),
    Kind("record with mongoId", _mood(), _H, past=Past.MONGO_ID),
    Kind("record without text", _mood(), _H, past=Past.TEXTLESS),
    Kind("three records", _mood(), _H, past=Past.DUPLICATES),
    Kind("record not linked", _mood(), _H, past=Past.CORRECT_UNLINKED),
    Kind("rkey without record", _mood(), _H, past=Past.DANGLING),
    Kind("nuked", _mood(deleted=True), outcome=_W),
    Kind("no text", _mood(lambda maker: MISSING), outcome=_Q, error_class="invalid-document"),
    Kind("too many bytes", _mood(lambda maker: "é" * (MOOD_BYTES // 2 + 1)), outcome=_Q, error_class="invalid-record"),
    Kind("written line break", _mood(lambda maker: f"{maker.mood()}\\n{maker.mood()}")),
    Kind("record with text field", _mood(), _H, past=Past.TEXT_FIELD),
    Kind("record off by milliseconds", _mood(), _H, past=Past.WHEN_OFF),
    Kind("record linked by rkey alone", _mood(), _H, past=Past.CORRECT_SHORT_LINK),
    Kind("record of a vanished document", _mood(), _H, past=Past.ORPHAN),
    Kind("nuked, record left", _mood(deleted=True), _H, _W, past=Past.CORRECT),
    Kind("link to another's record", _mood(), _H, past=Past.CROSSED),
    Kind("text field", _mood(lambda maker: MISSING, text="the words are in `text`")),
    Kind("empty text", _mood(lambda maker: ""), outcome=_Q, error_class="invalid-document"),
    Kind("as many bytes as allowed", _mood(lambda maker: "é" * (MOOD_BYTES // 2))),
    Kind("nuked and restored", _mood(deleted=False)),
    Kind("mirrored to Bluesky", _mirrored_mood),
    Kind("when as text", _mood_when(iso)),
    Kind("when missing", _mood_when(lambda when: MISSING)),
    Kind("empty link", _mood(), _H, past=Past.EMPTY_LINK),
    Kind("wiped link", _mood(), _H, past=Past.WIPED),
    Kind("hidden", _mood(hidden=True), outcome=_W),
    Kind("copied elsewhere", _mood(), _H, past=Past.COPIED),
    Kind("nuked, record and copy left", _mood(deleted=True), _H, _W, past=Past.COPIED),
)

MOODS = Share("mood", _MOODS, (Kind("plain", _mood()),), needs_handle=True, everybody=True)


def _piece_imported(maker: Maker, owner: Person | None, when: datetime) -> Made:
    return Made({"slug": maker.words(2)})


def _piece(*, extension: str = "mjs", **extra: Any) -> Build:
    """An uploaded file; named by the time for users, at random for guests."""

    def build(maker: Maker, owner: Person | None, when: datetime) -> Made:
        code = maker.code("pieces")
        slug = maker.nanoid() if owner is None else maker.new_slug(when)
        bucket, key = (GUEST_BUCKET, slug) if owner is None else (USER_BUCKET, f"{owner.id}/piece/{slug}")
        fields = {"code": code, "slug": slug, "bucket": bucket, **extra}
        return Made(fields, (StoredObject(bucket, f"{key}.{extension}", seed_media.source_of_piece(code)),))

    return build


def _piece_published(maker: Maker, owner: Person | None, when: datetime) -> Made:
    """Source publishing of 2026: the slug is a dated path, under the owner's id for users."""
    code = maker.code("pieces")
    path = f"{when:%Y/%m/%d}/{code}"
    source = seed_media.source_of_piece(code)
    text = source().decode().strip()
    fields = {
        "code": code,
        "slug": path if owner is None else f"{owner.id}/{path}",
        "bucket": GUEST_BUCKET if owner is None else USER_BUCKET,
        "source": text,
        "hash": sha256(text.encode()).hexdigest(),
        "anonymous": owner is None,
        "trustLevel": "untrusted" if owner is None else "trusted",
        "authorSub": None if owner is None else owner.id,
        "name": maker.words(1),
        "hits": maker.random.randrange(90),
        "lastAccessed": naive(when + timedelta(days=2)),
    }
    return Made(fields, (StoredObject(str(fields["bucket"]), f"{fields['slug']}.mjs", source),))


def _piece_migrated(maker: Maker, owner: Person | None, when: datetime) -> Made:
    code = maker.code("pieces")
    fields = {
        "code": code,
        "slug": code,
        "oldSlug": maker.nanoid(),
        "migratedAt": naive(when + timedelta(days=90)),
        "type": "piece",
        "extension": ".mjs",
        "bucket": GUEST_BUCKET,
    }
    return Made(fields, (StoredObject(GUEST_BUCKET, f"{code}.mjs", seed_media.source_of_piece(code)),))


def _piece_with_slug(slug: Callable[[Maker], Any]) -> Build:
    def build(maker: Maker, owner: Person | None, when: datetime) -> Made:
        return Made({"code": maker.code("pieces"), "slug": slug(maker), "bucket": USER_BUCKET})

    return build


_PIECES = (
    Kind("imported 2023", _piece_imported),
    Kind("published source", _piece_published),
    Kind("nuked", _piece(nuked=True), outcome=_W),
    Kind("guest's, migrated", _piece_migrated, _G),
    Kind("record linked by rkey alone", _piece(), _H, past=Past.CORRECT_SHORT_LINK),
    Kind("guest's published source", _piece_published, _G),
    Kind("record of a vanished document", _piece(), _H, past=Past.ORPHAN),
    Kind(
        "slug too long",
        _piece_with_slug(lambda maker: f"{maker.words(1)}-{'x' * PIECE_SLUG_BYTES}"),
        outcome=_Q,
        error_class="invalid-record",
    ),
    Kind("in Lua", _piece(extension="lua")),
    Kind("in KidLisp", _piece(extension="lisp")),
    Kind("private", _piece(private=True), outcome=_W),
    Kind("no slug", _piece_with_slug(lambda maker: MISSING), outcome=_Q, error_class="invalid-document"),
    Kind("nuked, record left", _piece(nuked=True), _H, _W, past=Past.CORRECT),
    Kind("draft", _piece(draft=True), outcome=_W),
    Kind("nuked, record and copy left", _piece(nuked=True), _H, _W, past=Past.COPIED),
)

PIECES = Share("piece", _PIECES, (Kind("plain", _piece()),), (Kind("plain guest", _piece()),), guests=0.3)


def _kidlisp(source: Callable[[Maker], Any] = lambda maker: maker.kidlisp(), **extra: Any) -> Build:
    def build(maker: Maker, owner: Person | None, when: datetime) -> Made:
        text = source(maker)
        known = text if isinstance(text, str) else maker.nanoid()
        fields = {
            "code": maker.code("kidlisp"),
            "source": text,
            "hash": sha256(known.encode()).hexdigest(),
            "hits": maker.random.randrange(400),
            "lastAccessed": naive(when + timedelta(days=maker.random.randrange(40))),
            **extra,
        }
        if owner is not None and owner.handle is not None:
            fields.setdefault("handle", owner.handle)
        return Made(fields)

    return build


def _kidlisp_when(value: Callable[[datetime], Any]) -> Build:
    def build(maker: Maker, owner: Person | None, when: datetime) -> Made:
        return Made({**_kidlisp()(maker, owner, when).fields, "when": value(when)})

    return build


def _projection(maker: Maker, owner: Person | None, when: datetime) -> Made:
    """A row of 2026, when another database became the source: its identity alone, written long after `when`."""
    fields = _kidlisp()(maker, owner, when).fields
    return Made({"_id": maker.object_id(NOW), **{name: fields[name] for name in ("code", "source", "hash")}})


def _kept_kidlisp(maker: Maker, owner: Person | None, when: datetime) -> Made:
    kept = {"tokenId": maker.random.randrange(999), "keptAt": naive(when + timedelta(days=3)), "network": "mainnet"}
    return Made({**_kidlisp()(maker, owner, when).fields, "kept": kept, "tezos": {"minted": True}, "ipfsMedia": {}})


def _code_of_a_painting(maker: Maker, owner: Person | None, when: datetime) -> Made:
    made = _kidlisp()(maker, owner, when)
    return Made({**made.fields, "code": maker.same_code_elsewhere("kidlisp", "paintings")})


_KIDLISP = (
    Kind("correct record", _kidlisp(), _H, past=Past.CORRECT),
    Kind("three records", _kidlisp(), _H, past=Past.DUPLICATES),
    Kind("record not linked", _kidlisp(), _H, past=Past.CORRECT_UNLINKED),
    Kind("record without page", _kidlisp(), _H, past=Past.NO_PAGE),
    Kind("record without ref", _kidlisp(), _H, past=Past.NO_REF),
    Kind("left by a deleted account", _kidlisp(), _G, _Q, "held-back", past=Past.FOREIGN_DID),
    Kind("left by a deleted account, DID unknown", _kidlisp(), _G, _Q, "held-back", past=Past.FOREIGN_RKEY),
    Kind(
        "too many bytes",
        _kidlisp(lambda maker: f"; {maker.nanoid()}\n{'→' * (KIDLISP_BYTES // 3)}"),
        outcome=_Q,
        error_class="invalid-record",
    ),
    Kind("no code", _kidlisp(code=MISSING), outcome=_Q, error_class="invalid-document"),
    Kind("nuked", _kidlisp(nuked=True), outcome=_W),
    Kind("code of a painting", _code_of_a_painting),
    Kind("kept on a chain", _kept_kidlisp),
    Kind("record of a vanished document", _kidlisp(), _H, past=Past.ORPHAN),
    Kind("as many bytes as allowed", _kidlisp(lambda maker: f"; {maker.nanoid()}\n".ljust(KIDLISP_BYTES, "x"))),
    Kind("guest's correct record", _kidlisp(), _G, past=Past.CORRECT),
    Kind("no source", _kidlisp(lambda maker: MISSING), outcome=_Q, error_class="invalid-document"),
    Kind("empty source", _kidlisp(lambda maker: ""), outcome=_Q, error_class="invalid-document"),
    Kind("nuked, record left", _kidlisp(nuked=True), _H, _W, past=Past.CORRECT),
    Kind("hidden", _kidlisp(hidden=True), outcome=_W),
    Kind("when missing", _kidlisp_when(lambda when: MISSING)),
    Kind("when as text", _kidlisp_when(iso)),
    Kind("guest, user null", _kidlisp(), _G, guest_user=(None,)),
    Kind("guest, unlisted", _kidlisp(visibility="unlisted"), _G, _W),
    Kind("link into another repository", _kidlisp(), _H, past=Past.FOREIGN_DID),
    Kind("rkey without record", _kidlisp(), _H, past=Past.DANGLING),
    Kind("projection", _projection),
    Kind("projection, user null", _projection, _G, guest_user=(None,)),
    Kind("projection, record without ref", _projection, _H, past=Past.NO_REF),
    Kind("copied elsewhere", _kidlisp(), _H, past=Past.COPIED),
    Kind("nuked, record and copy left", _kidlisp(nuked=True), _H, _W, past=Past.COPIED),
)

KIDLISP = Share(
    "kidlisp",
    _KIDLISP,
    (Kind("plain", _kidlisp()),),
    (Kind("plain guest", _kidlisp()),),
    guests=0.15,
    everybody=True,
)
