"""The tapes of the demo: both layouts of their ZIPs, finished MP4s, and what went wrong with some.

Source: aesthetic-computer facts, sections 3.5, 5, 6 and 10.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from ac_pipeline.local import seed_media
from ac_pipeline.local.seed_kinds import PRESENT, Build, Kind, Made, Share, Whose
from ac_pipeline.local.seed_maker import Maker, naive
from ac_pipeline.local.seed_values import GUEST_BUCKET, OVEN_BUCKET, USER_BUCKET, Outcome, Past, Person, StoredObject

Tape = Callable[[Maker], Callable[[], bytes]]
Slug = Callable[[Maker, datetime], str]
Key = Callable[[str, str], str]

_OVEN = f"https://{OVEN_BUCKET}.sfo3.digitaloceanspaces.com"


def _with_sound(maker: Maker) -> Callable[[], bytes]:
    return seed_media.tape(maker, sound=True)


def _early(maker: Maker) -> Callable[[], bytes]:
    return seed_media.tape(maker, layout="early")


def _new_slug(maker: Maker, when: datetime) -> str:
    return maker.new_slug(when)


def _in_own_folder(owner: str, slug: str) -> str:
    return f"{owner}/{slug}"


def _tape(
    content: Tape | None = seed_media.tape,
    *,
    slug: Slug = _new_slug,
    key: Key = _in_own_folder,
    extension: str = "zip",
    recovered: bool = False,
    **extra: Any,
) -> Build:
    """A posted tape. `content` None: its object is gone. `recovered`: without `bucket` and `nuked`."""

    def build(maker: Maker, owner: Person | None, when: datetime) -> Made:
        name = maker.nanoid() if owner is None else slug(maker, when)
        bucket = GUEST_BUCKET if owner is None else USER_BUCKET
        where = name if owner is None else key(owner.id, name)
        fields = {"code": maker.code("tapes"), "slug": name, **extra}
        if not recovered:
            fields = {"bucket": bucket, "nuked": False, **fields}
        objects = (StoredObject(bucket, f"{where}.{extension}", content(maker)),) if content else ()
        return Made(fields, objects)

    return build


def _baked(*, stored: bool, field: str = "mp4Url") -> Build:
    """A tape the oven has finished; `stored`: its MP4 can be had, else only the ZIP can."""

    def build(maker: Maker, owner: Person | None, when: datetime) -> Made:
        made = _tape()(maker, owner, when)
        key = f"tapes/{made.fields['code']}.mp4"
        fields = {
            **made.fields,
            "mp4Status": "complete",
            field: f"{_OVEN}/{key}",
            "mp4CompletedAt": naive(when + timedelta(seconds=40)),
        }
        finished = (StoredObject(OVEN_BUCKET, key, seed_media.video(maker)),) if stored else ()
        return Made(fields, (*made.objects, *finished))

    return build


def _uploaded_video(content: Tape) -> Build:
    """From the native app: the object is an MP4 already."""

    def build(maker: Maker, owner: Person | None, when: datetime) -> Made:
        made = _tape(content, extension="mp4", kind="mp4", source="ac-native")(maker, owner, when)
        one = made.objects[0]
        url = f"https://{one.bucket}.sfo3.digitaloceanspaces.com/{one.key.replace('|', '%7C')}"
        return Made({**made.fields, "mp4Url": url}, made.objects)

    return build


def _piece_and_time(maker: Maker, when: datetime) -> str:
    return f"{maker.words(1)}-{int(when.timestamp() * 1000)}"


_W, _Q, _D, _G, _H = Outcome.WITHDRAWN, Outcome.QUARANTINED, Outcome.DEFERRED, Whose.GUEST, Whose.HISTORIAN

SPECIAL = (
    Kind("with sound", _tape(_with_sound)),
    Kind("guest's, early layout", _tape(_early), _G),
    Kind("uploaded MP4", _uploaded_video(lambda maker: seed_media.video(maker, sound=True))),
    Kind("source missing", _tape(None), outcome=_Q, error_class="source-missing"),
    Kind("finished by the oven", _baked(stored=True), _G),
    Kind("corrupt ZIP", _tape(seed_media.cut_tape), outcome=_Q, error_class="unreadable-media"),
    Kind("nuked", _tape(nuked=True), outcome=_W),
    Kind("record without video", _tape(), _H, past=Past.NO_VIDEO),
    Kind("oven's MP4 is gone", _baked(stored=False), _G),
    Kind(
        "named by piece and time",
        _tape(slug=_piece_and_time, key=lambda owner, slug: f"{owner}/{slug.replace('-', '/', 1)}"),
    ),
    Kind("in the video folder", _tape(key=lambda owner, slug: f"{owner}/video/{slug}")),
    Kind("slug with Z", _tape(slug=lambda maker, when: f"{maker.new_slug(when)}Z")),
    Kind("recovered", _tape(slug=lambda maker, when: f"{when:%Y-%m-%d}", recovered=True)),
    Kind("oven failed", _tape(mp4Status="oven-failed", mp4Error="exit 1: no frames")),
    Kind("one frame", _tape(seed_media.one_frame_tape)),
    Kind("older name of the address", _baked(stored=True, field="mp4"), _G),
    Kind("record of a vanished document", _tape(None), _H, past=Past.ORPHAN),
    Kind("nuked, record left", _tape(nuked=True), _H, _W, past=Past.NO_VIDEO),
    Kind("rkey without record", _tape(), _H, past=Past.DANGLING),
    Kind("bake long over", _tape(mp4Status="pending")),
    Kind("being baked", _tape(when=PRESENT, mp4Status="processing", mp4StartedAt=PRESENT), outcome=_D),
    Kind("recorder's MP4", _uploaded_video(seed_media.recorded_video)),
    Kind("guest's recorder's MP4", _uploaded_video(seed_media.recorded_video), _G),
)

SHARE = Share("tape", SPECIAL, (Kind("plain", _tape()),), (Kind("plain guest", _tape()),), guests=0.8)
