"""The whole demo as values, before anything is made: who there is, what they made, and what should become of it.

The variants of documents come type by type: every shape, slug and object key the platform has left behind.
Each type lists its special kinds, most telling first, and its plain ones; a small demo gets the first of the special
ones, a large one gets all and then plain ones only. Source: aesthetic-computer facts, sections 3 to 7, 10 and 15.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache, partial
from hashlib import sha256
from typing import Any, Final, Literal

from bson import Code

from ac_pipeline.errors import Misconfigured
from ac_pipeline.local.seed import artwork
from ac_pipeline.local.seed.values import (
    NOW,
    Demo,
    Item,
    Maker,
    Outcome,
    Past,
    Person,
    Situation,
    StoredObject,
    iso,
    naive,
)

USER_BUCKET = "user-aesthetic-computer"
GUEST_BUCKET = "art-aesthetic-computer"
OVEN_BUCKET = "at-blobs-aesthetic-computer"

MISSING = object()  # As the value of a field: the document does not have it
# As the value of a field: the moment at which the document gets into Mongo, the only thing of it that is not fixed
PRESENT = object()


# The fields of one document but `user`, and its media; `_id` and `when` where they are not as usual
Made = tuple[dict[str, Any], tuple[StoredObject, ...]]
Build = Callable[[Maker, Person | None, datetime], Made]
Bytes = Callable[[], bytes]
Content = Callable[[Maker], Bytes]
Slug = Callable[[Maker, Person | None, datetime], str]


@dataclass(frozen=True, slots=True)
class Kind:
    name: str  # For people
    build: Build  # Makes its fields and media
    whose: Literal["user", "guest", "historian"] = "user"  # Who makes it
    outcome: Outcome = Outcome.PUBLISHED  # What becomes of it when its owner's account is ready
    error: str = ""  # Class of its quarantine, which is then its outcome
    past: Past = Past.NOTHING  # What earlier writers left of it
    guest_user: object = MISSING  # Value of `user` in a guest's document


@dataclass(frozen=True, slots=True)
class Share:
    type: str
    special: Sequence[Kind]  # Special kinds, most telling first
    plain_user: Sequence[Kind]  # Plain kinds, drawn at random
    plain_guest: Sequence[Kind] = ()
    guests: float = 0.0  # Share of plain documents that guests made
    needs_handle: bool = False  # True if only people with a handle make any
    everybody: bool = False  # True if each person gets at least one


_W, _D = Outcome.WITHDRAWN, Outcome.DEFERRED
_G: Final = "guest"
_H: Final = "historian"
_DOCUMENT, _RECORD, _MEDIA = "invalid-document", "invalid-record", "unreadable-media"


def _resolved(fields: Mapping[str, Any], maker: Maker, when: datetime) -> dict[str, Any]:
    """Fields whose values may be functions of `(maker, when)`."""
    return {name: value(maker, when) if callable(value) else value for name, value in fields.items()}


def _bucket(owner: Person | None) -> str:
    return GUEST_BUCKET if owner is None else USER_BUCKET


def _file(collection: str, extension: str, content: Content | None, slug: Slug, path: str, **extra: Any) -> Build:
    """What is stored as one object, with these bytes (None: the object is gone) and more fields of its document, or
    others. `path`: where a user's object is under the id of its owner; `{}` is the slug. A guest's has no folder."""

    def build(maker: Maker, owner: Person | None, when: datetime) -> Made:
        name = slug(maker, owner, when)
        code = MISSING if extra.get("code") is MISSING else maker.code(collection)
        fields = {"code": code, "slug": name, "bucket": _bucket(owner), **_resolved(extra, maker, when)}
        key = name.partition(":")[0]
        if owner is not None:
            key = name if name.startswith(owner.id) else f"{owner.id}/{path.format(name)}"
        return fields, (StoredObject(_bucket(owner), f"{key}.{extension}", content(maker)),) if content else ()

    return build


def _as_text(maker: Maker, when: datetime) -> str:
    return iso(when)


def _without_object(collection: str, slug: Callable[[Maker], Any]) -> Build:
    return lambda maker, owner, when: ({"code": maker.code(collection), "slug": slug(maker), "bucket": USER_BUCKET}, ())


def _new_slug(maker: Maker, owner: Person | None, when: datetime) -> str:
    return maker.nanoid() if owner is None else maker.new_slug(when)


def _art(make: Callable[..., bytes], *sizes: int, **options: Any) -> Content:
    return lambda maker: partial(make, *sizes, seed=maker.random.getrandbits(32), **options)


def _half(whole: Content) -> Content:
    """What an upload that broke off left behind."""
    return lambda maker: partial(lambda make: (data := make())[: len(data) // 2], whole(maker))


_SIZES = ((16, 16), (32, 32), (64, 64), (96, 64), (128, 72), (128, 128), (160, 90), (256, 144), (64, 128))
_SHARED_PICTURES = 40  # So many pictures are used by more than one painting
_HTML = b"<!doctype html><title>Not found</title>"


@lru_cache(maxsize=_SHARED_PICTURES)
def _shared(number: int) -> bytes:
    return artwork.pixel_art(96, 96, seed=number)


def _picture(maker: Maker) -> Bytes:
    """A small picture in few colours: one in eight from a pool that others use as well."""
    if maker.random.random() < 1 / 8:
        return partial(_shared, maker.random.randrange(_SHARED_PICTURES))
    width, height = maker.random.choice(_SIZES)
    return _art(artwork.pixel_art, width, height)(maker)


def _old_or_new_slug(maker: Maker, owner: Person | None, when: datetime) -> str:
    return maker.old_slug(when) if owner is not None and when.year <= 2024 else _new_slug(maker, owner, when)


_painting = partial(_file, "paintings", "png", content=_picture, slug=_old_or_new_slug, path="painting/{}")
_PAIRED = _painting(  # a guest's slug that names its recording, too
    slug=lambda maker, owner, when: f"{maker.nanoid()}:{maker.nanoid()}",
    _recordingMatchType="time",
    _recordingTimeDiff=lambda maker, when: maker.random.randrange(4000),
)


def _imported_slug(maker: Maker, owner: Person | None, when: datetime) -> str:
    """`when` is the time of the import, the slug's that of the painting."""
    return maker.old_slug(when.replace(year=2022, day=min(when.day, 28)))


def _zulu(maker: Maker, owner: Person | None, when: datetime) -> str:
    return f"{maker.new_slug(when)}Z"


def _qualified(kind: str) -> Build:
    """By the owner's id, which a record must not show."""
    return _painting(slug=lambda maker, owner, when: f"{owner and owner.id}/{kind}/{maker.new_slug(when)}")


def _recorded(painting: Build) -> Build:

    def build(maker: Maker, owner: Person | None, when: datetime) -> Made:
        fields, (one,) = painting(maker, owner, when)
        key = fields["slug"].partition(":")[2] or one.key.removesuffix(".png")
        return fields, (one, StoredObject(_bucket(owner), f"{key}.zip", _art(artwork.recording_zip)(maker)))

    return build


def _work_in_progress(maker: Maker, owner: Person | None, when: datetime) -> Made:
    id = maker.nanoid(12)
    wip = {"id": id, "revision": 4, "steps": 31, "width": 128, "height": 128, "hash": maker.hex(64)}
    wip["expiresAt"] = naive(when + timedelta(hours=1))
    code = maker.code("paintings")
    return {"code": code, "slug": f"wip/{id}", "status": "wip", "wip": wip, "updatedAt": naive(when)}, ()


PAINTINGS = Share(
    "painting",
    (
        Kind("guest with recording", _recorded(_PAIRED), _G),
        Kind("nuked", _painting(nuked=True), outcome=_W),
        Kind("imported 2023, code added", _painting(slug=_imported_slug, bucket=MISSING)),
        Kind("imported 2023, no code", _painting(slug=_imported_slug, bucket=MISSING, code=MISSING), error=_DOCUMENT),
        Kind("source missing", _painting(content=None), error="source-missing"),
        Kind("owner-qualified slug", _qualified("painting")),
        Kind("nuked, record left", _painting(nuked=True), _H, _W, past=Past.CORRECT),
        Kind("record without thumbnail", _painting(), _H, past=Past.NO_THUMBNAIL),
        Kind("record with whole picture", _painting(), _H, past=Past.WHOLE_PICTURE),
        Kind("work in progress", _work_in_progress, outcome=_W),
        Kind("corrupt picture", _painting(content=_half(_art(artwork.pixel_art, 64, 64))), error=_MEDIA),
        Kind("user with recording", _recorded(_painting())),
        Kind("guest, user null", _painting(), _G, guest_user=None),
        Kind("record of a vanished document", _painting(), _H, past=Past.ORPHAN),
        Kind("when as text", _painting(when=_as_text)),
        Kind("photo-like", _painting(content=_art(artwork.photo_like, 480, 320))),
        Kind("in the old folder", _painting(path="{}")),
        Kind("owner-qualified chat slug", _qualified("chat")),
        Kind("sealed work", _painting(status="done", completedAt=lambda _, when: naive(when + timedelta(minutes=9)))),
        Kind("three records", _painting(), _H, past=Past.DUPLICATES),
        Kind("record with .png address", _painting(), _H, past=Past.PNG_URL),
        Kind("record with handle address", _painting(), _H, past=Past.HANDLE_URL),
        Kind("guest's record with storage address", _painting(), _G, past=Past.SPACES_URL),
        Kind("deleted", _painting(deleted=True), outcome=_W),
        Kind("private", _painting(private=True), outcome=_W),
        Kind("draft", _painting(draft=True), outcome=_W),
        Kind("hidden", _painting(hidden=True), outcome=_W),
        Kind("unlisted", _painting(visibility="unlisted"), outcome=_W),
        Kind("public by name", _painting(visibility="public", nuked=False)),
        Kind("guest, nuked", _painting(nuked=True), _G, _W),
        Kind("guest, user empty", _painting(), _G, guest_user=""),
        Kind("guest whose recording is gone", _PAIRED, _G),
        Kind("when missing", _painting(when=MISSING)),
        Kind("when unreadable", _painting(when="last tuesday")),
        Kind("slug with Z", _painting(slug=_zulu)),
        Kind(
            "slug of unknown shape",
            _without_object("paintings", lambda maker: f"{maker.words(1)}/../{maker.words(1)}"),
            error=_DOCUMENT,
        ),
        Kind("slug missing", _without_object("paintings", lambda maker: MISSING), error=_DOCUMENT),
        Kind(
            "slug too long",  # 129 bytes, one more than the lexicon allows
            _painting(slug=lambda maker, owner, when: f"{maker.nanoid()}-{maker.words(40)}"[:128] + "x"),
            error=_RECORD,
        ),
        Kind("not a picture", _painting(content=lambda maker: partial(bytes, _HTML)), error=_MEDIA),
        Kind(
            "code differs in case only",
            _painting(code=lambda maker, when: maker.same_code_elsewhere("paintings", "paintings", swap_case=True)),
        ),
        Kind("transparent", _painting(content=_art(artwork.pixel_art, 96, 96, transparent=True))),
        Kind("JPEG named .png", _painting(content=_art(artwork.photo_like, 320, 240, format="JPEG"))),
        Kind("enlarged pixels", _painting(content=_art(artwork.pixel_art, 256, 170, scale=6))),
        Kind("one line of pixels", _painting(content=_art(artwork.pixel_art, 4, 1))),
        Kind("record without page", _painting(), _H, past=Past.NO_PAGE),
        Kind("rkey without record", _painting(), _H, past=Past.DANGLING),
    ),
    (Kind("plain", _painting()),),
    (Kind("plain guest", _painting()),),
    guests=0.27,
)

_MOOD_BYTES = 5_000


def _mood(words: Callable[[Maker], Any] = Maker.mood, **extra: Any) -> Build:
    return lambda maker, owner, when: ({"mood": words(maker), **_resolved(extra, maker, when)}, ())


MOODS = Share(
    "mood",
    (
        Kind("correct record", _mood(), _H, past=Past.CORRECT),
        Kind("record with mongoId", _mood(), _H, past=Past.MONGO_ID),
        Kind("record without text", _mood(), _H, past=Past.TEXTLESS),
        Kind("three records", _mood(), _H, past=Past.DUPLICATES),
        Kind("record not linked", _mood(), _H, past=Past.CORRECT_UNLINKED),
        Kind("rkey without record", _mood(), _H, past=Past.DANGLING),
        Kind("nuked", _mood(deleted=True), outcome=_W),
        Kind("no text", _mood(lambda maker: MISSING), error=_DOCUMENT),
        Kind("too many bytes", _mood(lambda maker: "é" * (_MOOD_BYTES // 2 + 1)), error=_RECORD),
        Kind("written line break", _mood(lambda maker: f"{maker.mood()}\\n{maker.mood()}")),
        Kind("record with text field", _mood(), _H, past=Past.TEXT_FIELD),
        Kind("record off by milliseconds", _mood(), _H, past=Past.WHEN_OFF),
        Kind("record linked by rkey alone", _mood(), _H, past=Past.CORRECT_SHORT_LINK),
        Kind("record of a vanished document", _mood(), _H, past=Past.ORPHAN),
        Kind("nuked, record left", _mood(deleted=True), _H, _W, past=Past.CORRECT),
        Kind("link to another's record", _mood(), _H, past=Past.CROSSED),
        Kind("text field", _mood(lambda maker: MISSING, text="the words are in `text`")),
        Kind("empty text", _mood(lambda maker: ""), error=_DOCUMENT),
        Kind("as many bytes as allowed", _mood(lambda maker: "é" * (_MOOD_BYTES // 2))),
        Kind("nuked and restored", _mood(deleted=False)),
        Kind("mirrored to Bluesky", _mood(bluesky=lambda maker, when: {"rkey": maker.tid(when)})),
        Kind("when as text", _mood(when=_as_text)),
        Kind("when missing", _mood(when=MISSING)),
        Kind("empty link", _mood(), _H, past=Past.EMPTY_LINK),
        Kind("wiped link", _mood(), _H, past=Past.WIPED),
        Kind("hidden", _mood(hidden=True), outcome=_W),
        Kind("copied elsewhere", _mood(), _H, past=Past.COPIED),
        Kind("nuked, record and copy left", _mood(deleted=True), _H, _W, past=Past.COPIED),
    ),
    (Kind("plain", _mood()),),
    needs_handle=True,
    everybody=True,
)

_PIECE_SLUG_BYTES = 100


def _program(code: str) -> bytes:
    return f"// {json.dumps(code)}\nexport function paint({{ wipe }}) {{ wipe('navy'); }}\n".encode()


def _piece(*, extension: str = "mjs", **extra: Any) -> Build:
    """An uploaded file; named by the time for users, at random for guests."""

    def build(maker: Maker, owner: Person | None, when: datetime) -> Made:
        code = maker.code("pieces")
        fields = {"code": code, "slug": _new_slug(maker, owner, when), "bucket": _bucket(owner), **extra}
        key = fields["slug"] if owner is None else f"{owner.id}/piece/{fields['slug']}"
        return fields, (StoredObject(_bucket(owner), f"{key}.{extension}", partial(_program, code)),)

    return build


def _piece_published(maker: Maker, owner: Person | None, when: datetime) -> Made:
    """Source publishing of 2026: the slug is a dated path, under the owner's id for users."""
    code = maker.code("pieces")
    slug = f"{owner.id}/{when:%Y/%m/%d}/{code}" if owner else f"{when:%Y/%m/%d}/{code}"
    text = _program(code).decode().strip()
    fields = {
        "code": code,
        "slug": slug,
        "bucket": _bucket(owner),
        "source": text,
        "hash": sha256(text.encode()).hexdigest(),
        "anonymous": owner is None,
        "trustLevel": "trusted" if owner else "untrusted",
        "authorSub": owner and owner.id,
        "name": maker.words(1),
        "hits": maker.random.randrange(90),
        "lastAccessed": naive(when + timedelta(days=2)),
    }
    return fields, (StoredObject(_bucket(owner), f"{slug}.mjs", partial(_program, code)),)


def _piece_migrated(maker: Maker, owner: Person | None, when: datetime) -> Made:
    code = maker.code("pieces")
    fields = {"code": code, "slug": code, "bucket": GUEST_BUCKET, "type": "piece", "extension": ".mjs"}
    old = {"oldSlug": maker.nanoid(), "migratedAt": naive(when + timedelta(days=90))}
    return {**fields, **old}, (StoredObject(GUEST_BUCKET, f"{code}.mjs", partial(_program, code)),)


PIECES = Share(
    "piece",
    (
        Kind("imported 2023", lambda maker, owner, when: ({"slug": maker.words(2)}, ())),
        Kind("published source", _piece_published),
        Kind("nuked", _piece(nuked=True), outcome=_W),
        Kind("guest's, migrated", _piece_migrated, _G),
        Kind("record linked by rkey alone", _piece(), _H, past=Past.CORRECT_SHORT_LINK),
        Kind("guest's published source", _piece_published, _G),
        Kind("record of a vanished document", _piece(), _H, past=Past.ORPHAN),
        Kind(
            "slug too long",
            _without_object("pieces", lambda maker: f"{maker.words(1)}-{'x' * _PIECE_SLUG_BYTES}"),
            error=_RECORD,
        ),
        Kind("in Lua", _piece(extension="lua")),
        Kind("in KidLisp", _piece(extension="lisp")),
        Kind("private", _piece(private=True), outcome=_W),
        Kind("no slug", _without_object("pieces", lambda maker: MISSING), error=_DOCUMENT),
        Kind("nuked, record left", _piece(nuked=True), _H, _W, past=Past.CORRECT),
        Kind("draft", _piece(draft=True), outcome=_W),
        Kind("nuked, record and copy left", _piece(nuked=True), _H, _W, past=Past.COPIED),
    ),
    (Kind("plain", _piece()),),
    (Kind("plain guest", _piece()),),
    guests=0.3,
)

_KIDLISP_BYTES = 50_000


def _kidlisp(source: Callable[[Maker], Any] = Maker.kidlisp, **extra: Any) -> Build:
    def build(maker: Maker, owner: Person | None, when: datetime) -> Made:
        text = source(maker)
        known = text if isinstance(text, str) else maker.nanoid()
        fields = {"code": maker.code("kidlisp"), "source": text, "hash": sha256(known.encode()).hexdigest()}
        seen = {
            "hits": maker.random.randrange(400),
            "lastAccessed": naive(when + timedelta(days=maker.random.randrange(40))),
            "handle": (owner and owner.handle) or MISSING,
        }
        return {**fields, **seen, **_resolved(extra, maker, when)}, ()

    return build


def _kept(maker: Maker, owner: Person | None, when: datetime) -> Made:
    kept = {"tokenId": maker.random.randrange(999), "keptAt": naive(when + timedelta(days=3)), "network": "mainnet"}
    return _kidlisp(kept=kept, tezos={"minted": True}, ipfsMedia={})(maker, owner, when)


# A row of 2026, when another database became the source: its identity alone, written long after `when`
_PROJECTION = _kidlisp(_id=lambda maker, when: maker.object_id(NOW), hits=MISSING, lastAccessed=MISSING, handle=MISSING)

KIDLISP = Share(
    "kidlisp",
    (
        Kind("correct record", _kidlisp(), _H, past=Past.CORRECT),
        Kind("three records", _kidlisp(), _H, past=Past.DUPLICATES),
        Kind("record not linked", _kidlisp(), _H, past=Past.CORRECT_UNLINKED),
        Kind("record without page", _kidlisp(), _H, past=Past.NO_PAGE),
        Kind("record without ref", _kidlisp(), _H, past=Past.NO_REF),
        Kind("left by a deleted account", _kidlisp(), _G, error="held-back", past=Past.FOREIGN_DID),
        Kind("left by a deleted account, DID unknown", _kidlisp(), _G, error="held-back", past=Past.FOREIGN_RKEY),
        Kind(
            "too many bytes",
            _kidlisp(lambda maker: f"; {maker.nanoid()}\n{'→' * (_KIDLISP_BYTES // 3)}"),
            error=_RECORD,
        ),
        Kind("no code", _kidlisp(code=MISSING), error=_DOCUMENT),
        Kind("nuked", _kidlisp(nuked=True), outcome=_W),
        Kind("code of a painting", _kidlisp(code=lambda maker, _: maker.same_code_elsewhere("kidlisp", "paintings"))),
        Kind("kept on a chain", _kept),
        Kind("record of a vanished document", _kidlisp(), _H, past=Past.ORPHAN),
        Kind("as many bytes as allowed", _kidlisp(lambda maker: f"; {maker.nanoid()}\n".ljust(_KIDLISP_BYTES, "x"))),
        Kind("guest's correct record", _kidlisp(), _G, past=Past.CORRECT),
        Kind("no source", _kidlisp(lambda maker: MISSING), error=_DOCUMENT),
        Kind("empty source", _kidlisp(lambda maker: ""), error=_DOCUMENT),
        Kind("nuked, record left", _kidlisp(nuked=True), _H, _W, past=Past.CORRECT),
        Kind("hidden", _kidlisp(hidden=True), outcome=_W),
        Kind("when missing", _kidlisp(when=MISSING)),
        Kind("when as text", _kidlisp(when=_as_text)),
        Kind("guest, user null", _kidlisp(), _G, guest_user=None),
        Kind("guest, unlisted", _kidlisp(visibility="unlisted"), _G, _W),
        Kind("link into another repository", _kidlisp(), _H, past=Past.FOREIGN_DID),
        Kind("rkey without record", _kidlisp(), _H, past=Past.DANGLING),
        Kind("projection", _PROJECTION),
        Kind("projection, user null", _PROJECTION, _G, guest_user=None),
        Kind("projection, record without ref", _PROJECTION, _H, past=Past.NO_REF),
        Kind("copied elsewhere", _kidlisp(), _H, past=Past.COPIED),
        Kind("nuked, record and copy left", _kidlisp(nuked=True), _H, _W, past=Past.COPIED),
        Kind("code of another BSON type", _kidlisp(code=Code("jsz")), error=_DOCUMENT),
    ),
    (Kind("plain", _kidlisp()),),
    (Kind("plain guest", _kidlisp()),),
    guests=0.15,
    everybody=True,
)


def _frames(maker: Maker, *, sound: bool = False, layout: artwork.Layout = "posted") -> Bytes:
    """A tape of 20 to 90 small frames at uneven times; in the early layout of fewer, as its frames are enlarged."""
    draw, early = maker.random, layout == "early"
    frames = draw.randint(8, 14) if early else draw.randint(20, 90)
    width, height = draw.choice(((96, 54), (96, 64), (64, 64)) if early else ((128, 72), (96, 96), (129, 75)))
    durations = [round(artwork.FRAME_MS + draw.choice((0, 0, 0, 0, 16.667, 33.3)), 3) for _ in range(frames)]
    return _art(artwork.tape_zip, frames, width, height, durations=durations, sound=sound, layout=layout)(maker)


def _video(**options: bool) -> Content:
    return lambda maker: _art(artwork.tape_mp4, maker.random.randint(30, 60), 256, 144, **options)(maker)


_tape = partial(_file, "tapes", extension="zip", content=_frames, slug=_new_slug, path="{}", nuked=False)


def _baked(*, stored: bool, field: str = "mp4Url") -> Build:
    """A tape the oven has finished; `stored`: its MP4 can be had, else only the ZIP can."""

    def build(maker: Maker, owner: Person | None, when: datetime) -> Made:
        fields, objects = _tape()(maker, owner, when)
        one = StoredObject(OVEN_BUCKET, f"tapes/{fields['code']}.mp4", _video()(maker) if stored else bytes)
        baked = {field: one.url, "mp4CompletedAt": naive(when + timedelta(seconds=40))}
        return {**fields, "mp4Status": "complete", **baked}, (*objects, one) if stored else objects

    return build


def _uploaded_video(content: Content) -> Build:
    """From the native app: the object is an MP4 already."""

    def build(maker: Maker, owner: Person | None, when: datetime) -> Made:
        fields, (one,) = _tape(content=content, extension="mp4", kind="mp4", source="ac-native")(maker, owner, when)
        return {**fields, "mp4Url": one.url}, (one,)

    return build


def _by_piece_and_time(maker: Maker, owner: Person | None, when: datetime) -> Made:
    """The oldest: the server made a folder of the first dash."""
    named = _tape(slug=lambda maker, owner, when: f"{maker.words(1)}-{int(when.timestamp() * 1000)}")
    fields, (one,) = named(maker, owner, when)
    return fields, (StoredObject(one.bucket, "/".join(one.key.rsplit("-", 1)), one.make),)


TAPES = Share(
    "tape",
    (
        Kind("with sound", _tape(content=partial(_frames, sound=True))),
        Kind("guest's, early layout", _tape(content=partial(_frames, layout="early")), _G),
        Kind("uploaded MP4", _uploaded_video(_video(sound=True))),
        Kind("source missing", _tape(content=None), error="source-missing"),
        Kind("finished by the oven", _baked(stored=True), _G),
        Kind("corrupt ZIP", _tape(content=_half(_frames)), error=_MEDIA),
        Kind("nuked", _tape(nuked=True), outcome=_W),
        Kind("record without video", _tape(), _H, past=Past.NO_VIDEO),
        Kind("oven's MP4 is gone", _baked(stored=False), _G),
        Kind("named by piece and time", _by_piece_and_time),
        Kind("in the video folder", _tape(path="video/{}")),
        Kind("slug with Z", _tape(slug=_zulu)),
        Kind("recovered", _tape(slug=lambda maker, owner, when: f"{when:%Y-%m-%d}", bucket=MISSING, nuked=MISSING)),
        Kind("oven failed", _tape(mp4Status="oven-failed", mp4Error="exit 1: no frames")),
        Kind("one frame", _tape(content=_art(artwork.tape_zip, 1, 64, 64, durations=[100.0]))),
        Kind("older name of the address", _baked(stored=True, field="mp4"), _G),
        Kind("record of a vanished document", _tape(content=None), _H, past=Past.ORPHAN),
        Kind("nuked, record left", _tape(nuked=True), _H, _W, past=Past.NO_VIDEO),
        Kind("rkey without record", _tape(), _H, past=Past.DANGLING),
        Kind("bake long over", _tape(mp4Status="pending")),
        Kind("being baked", _tape(when=PRESENT, mp4Status="processing", mp4StartedAt=PRESENT), outcome=_D),
        Kind("recorder's MP4", _uploaded_video(_video(sound=True, recorder=True))),
        Kind("guest's recorder's MP4", _uploaded_video(_video(sound=True, recorder=True)), _G),
    ),
    (Kind("plain", _tape()),),
    (Kind("plain guest", _tape()),),
    guests=0.8,
)


# ------------------------------------------------------------------------------------------------------- the whole demo

LEAST_USERS = 8
LEAST_ITEMS = 100

_SHARES = ((PAINTINGS, 0.28, 0), (MOODS, 0.22, 0), (PIECES, 0.03, 8), (TAPES, 0.015, 8))
"""Share of all items, and the least number; what is left is kidlisp, about 45 %."""

SPECIAL_SHARE = 0.75  # Most of a type's documents that special kinds take up


def plan_demo(users: int, items: int, seed: int) -> Demo:
    """The demo of so many people and documents (a few become records without a document instead); the same numbers give
    the same demo. Raises Misconfigured: too few of either."""
    if users < LEAST_USERS or items < LEAST_ITEMS or items < 2 * users:
        raise Misconfigured(
            f"the demo needs at least {LEAST_USERS} users, {LEAST_ITEMS} items and two items a user;"
            f" asked were {users} users and {items} items"
        )
    maker = Maker(seed)
    cast = people(maker, users)
    made: list[Item] = []
    for share, part, least in _SHARES:
        made += fill(maker, share, cast, max(least, round(items * part)))
    made += fill(maker, KIDLISP, cast, max(users, items - len(made)))
    return Demo(maker, tuple(cast), tuple(made))


def fill(maker: Maker, share: Share, cast: Sequence[Person], count: int) -> list[Item]:
    """So many items of one type, in no telling order."""
    named = [person for person in cast if person.handle or not share.needs_handle]
    ready = [person for person in named if person.ready and not person.moods_nuked]
    owners = [person for person in named if person.situation is not Situation.SISTER_TENANT]
    items = []
    for kind in share.special[: int(count * SPECIAL_SHARE)]:
        owner = _drawn(maker, ready) if kind.whose == "user" else cast[1] if kind.whose == "historian" else None
        items.append(item(maker, share.type, kind, owner))
    waiting = list(owners) if share.everybody else []
    while len(items) < count:
        if waiting:
            owner = waiting.pop(0)
        elif share.plain_guest and maker.random.random() < share.guests:
            owner = None
        else:
            owner = _drawn(maker, owners)
        kind = maker.random.choice(share.plain_guest if owner is None else share.plain_user)
        items.append(item(maker, share.type, kind, owner))
    return items


def _drawn(maker: Maker, people: Sequence[Person]) -> Person:
    """One heavy user, then ever lighter ones (aesthetic-computer facts, section 12.1)."""
    weights = [max(3.0, len(people) / 4), *(1 / (1 + rank / 10) for rank in range(len(people) - 1))]
    return maker.random.choices(people, weights[: len(people)])[0]


def item(maker: Maker, type: str, kind: Kind, owner: Person | None) -> Item:
    when = maker.moment()
    fields, objects = kind.build(maker, owner, when)
    user = owner.id if owner is not None else kind.guest_user
    document = {"_id": maker.object_id(when), "when": naive(when), **fields, "user": user}
    document = {name: value for name, value in document.items() if value is not MISSING}
    outcome, error_class = _expected(kind, owner)
    if type == "mood" and owner is not None and owner.moods_nuked:
        document["deleted"] = True
        outcome, error_class = Outcome.WITHDRAWN, ""
    return Item(type, kind.name, owner, document, outcome, error_class, kind.past, objects)


def _expected(kind: Kind, owner: Person | None) -> tuple[Outcome, str]:
    if owner is None or owner.ready:
        return (Outcome.QUARANTINED if kind.error else kind.outcome), kind.error
    gone = {Situation.SCHEDULED: Outcome.OWNER_DELETED, Situation.PURGED: Outcome.PURGED}
    return gone.get(owner.situation, Outcome.BLOCKED), ""


GUEST_LABEL = "art"  # First label of the guest account's handle on the PDS

_FIRST_NAMES = ("mila", "oskar", "yuki", "ines", "tomas", "nadia", "felix", "aiko", "bruno", "selma", "kofi", "lena")
_SECOND = ("blue", "fox", "77", "draws", "wave", "loop", "ink", "moth", "zz", "tape", "sun", "nine")


def people(maker: Maker, users: int) -> list[Person]:
    """So many people. The first is the heavy user, the second has most of the past; the order is part of the seed.
    `users`: how many, at least 8; every situation takes part from 21 on."""
    cast = [_ordinary(maker, index) for index in range(users)]
    for index, change in enumerate(_SPECIAL):
        if index < users:
            cast[index] = replace(cast[index], **change)
    if users > _OWNER_OF_CODE:  # a handle that is the permanent code of somebody else
        cast[_NAMED_BY_CODE] = replace(cast[_NAMED_BY_CODE], handle=cast[_OWNER_OF_CODE].code)
    return cast


def user_document(person: Person, did: str | None, pds_handle: str | None) -> dict[str, Any] | None:
    situation = person.situation
    if situation in {Situation.HANDLE_ONLY, Situation.PURGED}:
        return None
    document: dict[str, Any] = {"_id": person.id, "code": person.code}
    if did is None:
        return document
    password = f"{person.password[::-1]}!" if situation is Situation.WRONG_PASSWORD else person.password
    if person.flat:
        flat = {"atproto_did": did, "atproto_handle": pds_handle, "atproto_password": password}
        return {**document, **flat, "atproto_created_at": naive(NOW)}
    document["atproto"] = {"did": did, "handle": pds_handle, "password": password, "created": iso(NOW)}
    if situation is Situation.DID_ONLY:
        del document["atproto"]["password"]
    return document


def deletion_documents(cast: Sequence[Person]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of `account-deletions` and of `account-tombstones`."""
    states = {Situation.SCHEDULED: "scheduled", Situation.CANCELLED: "cancelled"}
    pending = [(person.id, states[person.situation]) for person in cast if person.situation in states]
    purged = [sha256(person.id.encode()).hexdigest() for person in cast if person.situation is Situation.PURGED]
    rows = [{"_id": id, "state": state, "purgeAfter": naive(NOW)} for id, state in pending]
    return rows, [{"_id": digest, "deletedAt": naive(NOW)} for digest in purged]


def label_of(person: Person) -> str:
    """First label of the handle the platform asks the PDS for: `.` and `_` become `-`."""
    return (person.handle or person.code).lower().replace(".", "-").replace("_", "-")


def _ordinary(maker: Maker, index: int) -> Person:
    draw = maker.random
    name = f"{draw.choice(_FIRST_NAMES)}{draw.choice(('', '-', '.', '_'))}{draw.choice(_SECOND)}{index}"
    id = f"auth0|{maker.hex(24)}"
    code = f"ac{draw.randint(23, 26)}{''.join(draw.choices('bcdfghjklmnpqrstvwxyz', k=5))}"
    return Person(id, code, name, maker.password())


_SPECIAL: tuple[dict[str, Any], ...] = (
    {"handle": "jeffrey-heavy"},
    {"handle": "fifi-history"},
    {"situation": Situation.NO_CREDENTIALS},
    {"situation": Situation.WRONG_PASSWORD},
    {"flat": True},
    {"situation": Situation.SCHEDULED},
    {"situation": Situation.DEACTIVATED},
    {"handle": "Rosa.Luna_9"},
    {"situation": Situation.TAKEN_DOWN},
    {"situation": Situation.DID_ONLY},
    {"handle": "LunaTick"},
    {"handle": "lunatick"},
    {},
    {},
    {"situation": Situation.PURGED, "handle": None},
    {"situation": Situation.CANCELLED},
    {"situation": Situation.HANDLE_ONLY},
    {"situation": Situation.UNKNOWN_DID},
    {"handle": None},
    {"handle": "ñandú", "moods_nuked": True},
    {"situation": Situation.SISTER_TENANT, "id": "sotce-auth0|65f1c0ffee65f1c0ffee65f1", "handle": None},
)
_NAMED_BY_CODE = 12
_OWNER_OF_CODE = 13
