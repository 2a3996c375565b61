"""The paintings of the demo: every document variant, slug shape and object key the platform has left behind.

Source: aesthetic-computer facts, sections 3.1, 4, 5, 6 and 7.1.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from ac_pipeline.local import seed_media
from ac_pipeline.local.seed_kinds import MISSING, Build, Kind, Made, Share, Whose
from ac_pipeline.local.seed_maker import Maker, iso, naive
from ac_pipeline.local.seed_values import GUEST_BUCKET, USER_BUCKET, Outcome, Past, Person, StoredObject

Picture = Callable[[Maker], Callable[[], bytes]]


def _id(owner: Person | None) -> str:
    return "" if owner is None else owner.id


def _of_user(
    picture: Picture = seed_media.picture, *, folder: str = "painting/", stored: bool = True, **extra: Any
) -> Build:
    """A user's upload: bare slug, object under the owner's id."""

    def build(maker: Maker, owner: Person | None, when: datetime) -> Made:
        slug = maker.new_slug(when) if when.year > 2024 else maker.old_slug(when)
        key = f"{_id(owner)}/{folder}{slug}.png"
        fields = {"code": maker.code("paintings"), "slug": slug, "bucket": USER_BUCKET, **extra}
        return Made(fields, (StoredObject(USER_BUCKET, key, picture(maker)),) if stored else ())

    return build


def _of_guest(picture: Picture = seed_media.picture, **extra: Any) -> Build:
    def build(maker: Maker, owner: Person | None, when: datetime) -> Made:
        slug = maker.nanoid()
        fields = {"code": maker.code("paintings"), "slug": slug, "bucket": GUEST_BUCKET, **extra}
        return Made(fields, (StoredObject(GUEST_BUCKET, f"{slug}.png", picture(maker)),))

    return build


def _guest_with_recording(*, stored: bool) -> Build:
    def build(maker: Maker, owner: Person | None, when: datetime) -> Made:
        image, recording = maker.nanoid(), maker.nanoid()
        fields = {
            "code": maker.code("paintings"),
            "slug": f"{image}:{recording}",
            "bucket": GUEST_BUCKET,
            "_recordingMatchType": "time",
            "_recordingTimeDiff": maker.random.randrange(4000),
        }
        objects = [StoredObject(GUEST_BUCKET, f"{image}.png", seed_media.picture(maker))]
        if stored:
            objects.append(StoredObject(GUEST_BUCKET, f"{recording}.zip", seed_media.recording(maker)))
        return Made(fields, tuple(objects))

    return build


def _user_with_recording(maker: Maker, owner: Person | None, when: datetime) -> Made:
    made = _of_user()(maker, owner, when)
    key = made.objects[0].key.removesuffix(".png") + ".zip"
    return Made(made.fields, (*made.objects, StoredObject(USER_BUCKET, key, seed_media.recording(maker))))


def _imported(*, coded: bool) -> Build:
    """The import of 2023: slug, user, when; `when` is the time of the import, the code came later or never."""

    def build(maker: Maker, owner: Person | None, when: datetime) -> Made:
        slug = maker.old_slug(when.replace(year=2022, day=min(when.day, 28)))
        key = f"{_id(owner)}/painting/{slug}.png"
        fields = {"slug": slug, **({"code": maker.code("paintings")} if coded else {})}
        return Made(fields, (StoredObject(USER_BUCKET, key, seed_media.picture(maker)),))

    return build


def _owner_qualified(kind: str) -> Build:
    def build(maker: Maker, owner: Person | None, when: datetime) -> Made:
        slug = f"{_id(owner)}/{kind}/{maker.new_slug(when)}"
        fields = {"code": maker.code("paintings"), "slug": slug, "bucket": USER_BUCKET}
        return Made(fields, (StoredObject(USER_BUCKET, f"{slug}.png", seed_media.picture(maker)),))

    return build


def _work_in_progress(maker: Maker, owner: Person | None, when: datetime) -> Made:
    id = maker.nanoid(12)
    wip = {"id": id, "revision": 4, "steps": 31, "width": 128, "height": 128, "hash": maker.hex(64)}
    wip["expiresAt"] = naive(when + timedelta(hours=1))
    fields = {
        "code": maker.code("paintings"),
        "slug": f"wip/{id}",
        "status": "wip",
        "updatedAt": naive(when),
        "wip": wip,
    }
    return Made(fields)


def _sealed(maker: Maker, owner: Person | None, when: datetime) -> Made:
    made = _of_user()(maker, owner, when)
    return Made({**made.fields, "status": "done", "completedAt": naive(when + timedelta(minutes=9))}, made.objects)


def _with_when(value: Callable[[datetime], Any]) -> Build:
    def build(maker: Maker, owner: Person | None, when: datetime) -> Made:
        made = _of_user()(maker, owner, when)
        return Made({**made.fields, "when": value(when)}, made.objects)

    return build


def _with_slug(slug: Callable[[Maker], Any]) -> Build:
    def build(maker: Maker, owner: Person | None, when: datetime) -> Made:
        return Made({"code": maker.code("paintings"), "slug": slug(maker), "bucket": USER_BUCKET})

    return build


def _long_slug(maker: Maker, owner: Person | None, when: datetime) -> Made:
    """129 bytes, one more than the lexicon allows."""
    slug = f"{maker.nanoid()}-{maker.words(40)}"[:128] + "x"
    fields = {"code": maker.code("paintings"), "slug": slug, "bucket": USER_BUCKET}
    key = f"{_id(owner)}/painting/{slug}.png"
    return Made(fields, (StoredObject(USER_BUCKET, key, seed_media.picture(maker)),))


def _zulu(maker: Maker, owner: Person | None, when: datetime) -> Made:
    slug = f"{maker.new_slug(when)}Z"
    key = f"{_id(owner)}/painting/{slug}.png"
    fields = {"code": maker.code("paintings"), "slug": slug, "bucket": USER_BUCKET}
    return Made(fields, (StoredObject(USER_BUCKET, key, seed_media.picture(maker)),))


def _code_in_other_case(maker: Maker, owner: Person | None, when: datetime) -> Made:
    made = _of_user()(maker, owner, when)
    return Made(
        {**made.fields, "code": maker.same_code_elsewhere("paintings", "paintings", swap_case=True)}, made.objects
    )


_W, _Q, _G, _H = Outcome.WITHDRAWN, Outcome.QUARANTINED, Whose.GUEST, Whose.HISTORIAN

SPECIAL = (
    Kind("guest with recording", _guest_with_recording(stored=True), _G),
    Kind("nuked", _of_user(nuked=True), outcome=_W),
    Kind("imported 2023, code added", _imported(coded=True)),
    Kind("imported 2023, no code", _imported(coded=False), outcome=_Q, error_class="invalid-document"),
    Kind("source missing", _of_user(stored=False), outcome=_Q, error_class="source-missing"),
    Kind("owner-qualified slug", _owner_qualified("painting")),
    Kind("nuked, record left", _of_user(nuked=True), _H, _W, past=Past.CORRECT),
    Kind("record without thumbnail", _of_user(), _H, past=Past.NO_THUMBNAIL),
    Kind("record with whole picture", _of_user(), _H, past=Past.WHOLE_PICTURE),
    Kind("work in progress", _work_in_progress, outcome=_W),
    Kind("corrupt picture", _of_user(seed_media.cut_picture), outcome=_Q, error_class="unreadable-media"),
    Kind("user with recording", _user_with_recording),
    Kind("guest, user null", _of_guest(), _G, guest_user=(None,)),
    Kind("record of a vanished document", _of_user(), _H, past=Past.ORPHAN),
    Kind("when as text", _with_when(iso)),
    Kind("photo-like", _of_user(seed_media.photo)),
    Kind("in the old folder", _of_user(folder="")),
    Kind("owner-qualified chat slug", _owner_qualified("chat")),
    Kind("sealed work", _sealed),
    Kind("three records", _of_user(), _H, past=Past.DUPLICATES),
    Kind("record with .png address", _of_user(), _H, past=Past.PNG_URL),
    Kind("record with handle address", _of_user(), _H, past=Past.HANDLE_URL),
    Kind("guest's record with storage address", _of_guest(), _G, past=Past.SPACES_URL),
    Kind("deleted", _of_user(deleted=True), outcome=_W),
    Kind("private", _of_user(private=True), outcome=_W),
    Kind("draft", _of_user(draft=True), outcome=_W),
    Kind("hidden", _of_user(hidden=True), outcome=_W),
    Kind("unlisted", _of_user(visibility="unlisted"), outcome=_W),
    Kind("public by name", _of_user(visibility="public", nuked=False)),
    Kind("guest, nuked", _of_guest(nuked=True), _G, _W),
    Kind("guest, user empty", _of_guest(), _G, guest_user=("",)),
    Kind("guest whose recording is gone", _guest_with_recording(stored=False), _G),
    Kind("when missing", _with_when(lambda when: MISSING)),
    Kind("when unreadable", _with_when(lambda when: "last tuesday")),
    Kind("slug with Z", _zulu),
    Kind(
        "slug of unknown shape",
        _with_slug(lambda maker: f"{maker.words(1)}/../{maker.words(1)}"),
        outcome=_Q,
        error_class="invalid-document",
    ),
    Kind("slug missing", _with_slug(lambda maker: MISSING), outcome=_Q, error_class="invalid-document"),
    Kind("slug too long", _long_slug, outcome=_Q, error_class="invalid-record"),
    Kind("not a picture", _of_user(seed_media.web_page), outcome=_Q, error_class="unreadable-media"),
    Kind("code differs in case only", _code_in_other_case),
    Kind("transparent", _of_user(seed_media.clear_picture)),
    Kind("JPEG named .png", _of_user(seed_media.jpeg)),
    Kind("enlarged pixels", _of_user(seed_media.enlarged_picture)),
    Kind("one line of pixels", _of_user(seed_media.single_pixel)),
    Kind("record without page", _of_user(), _H, past=Past.NO_PAGE),
    Kind("rkey without record", _of_user(), _H, past=Past.DANGLING),
)

SHARE = Share("painting", SPECIAL, (Kind("plain", _of_user()),), (Kind("plain guest", _of_guest()),), guests=0.27)
