"""Rendering documents end to end: object storage over real HTTP, the real ffmpeg, the store in a folder."""

from __future__ import annotations

import gzip
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import av
import pytest

from ac_pipeline.errors import (
    EncoderFailed,
    EncodingFailed,
    Misconfigured,
    ServerFailed,
    SourceMissing,
    TooLarge,
    Transient,
    UnreadableMedia,
)
from ac_pipeline.items import BlobRef, Derived
from ac_pipeline.local.seed.artwork import pixel_art, recording_zip, tape_mp4, tape_zip
from ac_pipeline.media.base import BlobField, Document, MediaType, SourceObject
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.media.tape import TAPE
from ac_pipeline.objects import ObjectStorage, storage_client
from ac_pipeline.renditions.ffmpeg_process import default_binary
from ac_pipeline.renditions.pictures import sniff
from ac_pipeline.renditions.renderer import RECIPES, Renderer, source_key
from ac_pipeline.renditions.store import RenditionStore
from ac_pipeline.renditions.thumbnail import CAP
from ac_pipeline.renditions.video_check import read_facts, why_not_as_it_is
from ac_pipeline_tests import media_samples as samples
from ac_pipeline_tests.media_samples import FRAME, archive, frame_name, tape, timing
from ac_pipeline_tests.object_server import ObjectServer, Reply, object_server
from ac_pipeline_tests.unit.renditions.fake_ffmpeg import runs, script

pytestmark = pytest.mark.slow

BUCKET = "user-aesthetic-computer"
LIMIT = 5_242_880


def objects(*keys: str) -> tuple[SourceObject, ...]:
    return tuple(SourceObject(BUCKET, key, key.rsplit(".", 1)[1]) for key in keys)


def media(
    recipe: str | None,
    *keys: str,
    fields: tuple[str, ...] = (),
    companions: Mapping[str, tuple[SourceObject, ...]] | None = None,
) -> MediaType:
    return MediaType(
        name="sample",
        plural="samples",
        collection="samples",
        nsid="test.sample",
        fields=(),
        anonymous=True,
        validate=lambda document: None,
        build_record=lambda document, derived: {},
        content=("slug",),
        recipe=recipe,
        blobs=tuple(BlobField(name, True) for name in fields),
        sources=lambda document: objects(*keys),
        companions=lambda document: companions or {},
    )


def painting(*keys: str, companions: Mapping[str, tuple[SourceObject, ...]] | None = None) -> MediaType:
    return media("painting-thumbnail", *keys, fields=("thumbnail",), companions=companions)


def tape_of(*keys: str) -> MediaType:
    return media("tape-video", *keys, fields=("video", "thumbnail"))


DOCUMENT = Document("sample", "0" * 24, "auth0|x", "abc", 0, {}, "")


@pytest.fixture
def server() -> Iterator[ObjectServer]:
    with object_server() as running:
        yield running


def put(server: ObjectServer, **named: bytes) -> None:
    """Objects by key; `__` stands for the dot before the extension."""
    for name, data in named.items():
        server.objects[f"/{BUCKET}/{name.replace('__', '.')}"] = data


@pytest.fixture
def store(tmp_path: Path) -> RenditionStore:
    return RenditionStore(str(tmp_path / "store"))


@pytest.fixture
def make(server: ObjectServer, store: RenditionStore, tmp_path: Path) -> Iterator[Callable[..., Renderer]]:
    with storage_client() as client:
        storage = ObjectStorage(client, server.template, sleep=lambda seconds: None)

        def build(limit: int = LIMIT, ffmpeg: str | None = None) -> Renderer:
            return Renderer(storage, store, blob_limit=lambda: limit, work_dir=tmp_path / "work", ffmpeg=ffmpeg)

        yield build


@pytest.fixture
def renderer(make: Callable[..., Renderer]) -> Renderer:
    return make()


def test_a_painting_gets_its_thumbnail(renderer: Renderer, server: ObjectServer, tmp_path: Path) -> None:
    """MEDIA-1, MEDIA-2, MEDIA-3."""
    put(server, a__png=pixel_art(64, 64))
    derived = renderer.derive(painting("none.png", "a.png"), DOCUMENT, None)
    blob = derived.renditions["thumbnail"].blob
    data = renderer.open(blob)
    assert (blob.mime_type, blob.size) == (sniff(data), len(data)) == ("image/png", blob.size)
    assert blob.size <= CAP
    assert derived.key == source_key(objects("none.png", "a.png"))
    assert list((tmp_path / "work").iterdir()) == [], "nothing temporary stays"


def test_a_tape_gets_its_video_and_its_middle_frame(renderer: Renderer, server: ObjectServer) -> None:
    """MEDIA-7, MEDIA-8."""
    put(server, a__zip=tape_zip(5, 48, 32, sound=True))
    derived = renderer.derive(tape_of("a.zip"), DOCUMENT, None)
    video, poster = derived.renditions["video"], derived.renditions["thumbnail"]
    assert video.blob.mime_type == sniff(renderer.open(video.blob)) == "video/mp4"
    assert poster.blob.mime_type == "image/png"
    assert video.details["frames"] == 5
    assert derived.warnings == ()


def test_a_second_run_asks_nobody(renderer: Renderer, server: ObjectServer) -> None:
    """What is known and has the same candidates is taken as it is, without any request."""
    put(server, a__png=pixel_art(64, 64))
    known = renderer.derive(painting("a.png"), DOCUMENT, None)
    server.requests.clear()
    assert renderer.derive(painting("a.png"), DOCUMENT, known) is known
    assert server.requests == []


def test_other_candidates_are_derived_anew(renderer: Renderer, server: ObjectServer) -> None:
    put(server, a__png=pixel_art(64, 64), b__png=pixel_art(64, 64, seed=1))
    known = renderer.derive(painting("a.png"), DOCUMENT, None)
    changed = renderer.derive(painting("b.png"), DOCUMENT, known)
    assert changed.key != known.key
    assert changed.renditions["thumbnail"].blob != known.renditions["thumbnail"].blob
    assert source_key(objects("a.png", "b.png")) != source_key(objects("b.png", "a.png")), "the order counts"


def test_known_without_all_renditions_is_completed(renderer: Renderer, server: ObjectServer) -> None:
    put(server, a__zip=tape_zip(2, 16, 16))
    known = renderer.derive(tape_of("a.zip"), DOCUMENT, None)
    partial = replace(known, renditions={"thumbnail": known.renditions["thumbnail"]})
    assert renderer.derive(tape_of("a.zip"), DOCUMENT, partial) == known


def test_known_media_outlives_its_encoder(make: Callable[..., Renderer], server: ObjectServer) -> None:
    """Published media does not change because the limit or ffmpeg did."""
    put(server, a__zip=tape_zip(2, 16, 16))
    known = make().derive(tape_of("a.zip"), DOCUMENT, None)
    assert make(limit=LIMIT - 1).derive(tape_of("a.zip"), DOCUMENT, known) is known


def test_lost_bytes_are_made_again(
    renderer: Renderer, store: RenditionStore, server: ObjectServer, tmp_path: Path
) -> None:
    put(server, a__png=pixel_art(64, 64))
    known = renderer.derive(painting("a.png"), DOCUMENT, None)
    blob = known.renditions["thumbnail"].blob
    (tmp_path / "store" / "blobs" / blob.cid).unlink()
    with pytest.raises(SourceMissing):
        renderer.open(blob)
    assert renderer.derive(painting("a.png"), DOCUMENT, None) == known
    assert renderer.open(blob)


def test_equal_sources_are_encoded_once(make: Callable[..., Renderer], server: ObjectServer, tmp_path: Path) -> None:
    """The store knows a source by its bytes, whatever its key; a renderer that forgot everything encodes nothing."""
    put(server, a__zip=tape_zip(2, 16, 16), b__zip=tape_zip(2, 16, 16))
    binary = script(tmp_path, f'exec {default_binary()} "$@"')
    first = make(ffmpeg=binary).derive(tape_of("a.zip"), DOCUMENT, None)
    count = runs(tmp_path)
    second = make(ffmpeg=binary).derive(tape_of("b.zip"), DOCUMENT, None)
    assert count >= 1
    assert runs(tmp_path) == count
    assert second.renditions == first.renditions
    assert second.key != first.key


def test_threads_that_ask_for_the_same_tape_get_it_from_one_encoding(
    make: Callable[..., Renderer], server: ObjectServer, tmp_path: Path
) -> None:
    put(server, a__zip=tape_zip(4, 32, 32))
    renderer = make(ffmpeg=script(tmp_path, f'exec {default_binary()} "$@"'))
    start = threading.Barrier(4)

    def work(_: int) -> Derived:
        start.wait(10)
        return renderer.derive(tape_of("a.zip"), DOCUMENT, None)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(4)))
    assert all(result == results[0] for result in results)
    assert runs(tmp_path) == 1


def test_another_limit_is_another_encoding(make: Callable[..., Renderer], server: ObjectServer) -> None:
    """MEDIA-14: what was made for a larger limit is not handed out under a smaller one."""
    put(server, a__zip=tape_zip(10, 64, 64))
    large = make().derive(tape_of("a.zip"), DOCUMENT, None).renditions["video"].blob
    small = make(limit=large.size - 1).derive(tape_of("a.zip"), DOCUMENT, None).renditions["video"].blob
    assert small.size < large.size


def test_with_no_source_left_the_item_is_source_missing(renderer: Renderer) -> None:
    """MEDIA-4."""
    with pytest.raises(SourceMissing, match=r"a\.png.*b\.png"):
        renderer.derive(painting("a.png", "b.png"), DOCUMENT, None)
    with pytest.raises(SourceMissing, match="no candidate"):
        renderer.derive(painting(), DOCUMENT, None)


def test_a_dead_source_does_not_touch_another_item_with_the_same_picture(
    renderer: Renderer, server: ObjectServer
) -> None:
    """MEDIA-6, MEDIA-16."""
    put(server, alive__png=pixel_art(64, 64))
    with pytest.raises(SourceMissing):
        renderer.derive(painting("dead.png"), DOCUMENT, None)
    assert renderer.open(renderer.derive(painting("alive.png"), DOCUMENT, None).renditions["thumbnail"].blob)


def test_a_storage_that_does_not_answer_is_transient(renderer: Renderer, server: ObjectServer) -> None:
    """MEDIA-3: and the next candidate is not taken instead."""
    put(server, b__png=pixel_art(64, 64))
    server.replies[f"/{BUCKET}/a.png"] = [Reply(503)] * 3
    with pytest.raises(ServerFailed):
        renderer.derive(painting("a.png", "b.png"), DOCUMENT, None)


def test_a_broken_picture_is_not_replaced_by_another_one(renderer: Renderer, server: ObjectServer) -> None:
    put(server, a__png=b"<html>", b__png=pixel_art(64, 64))
    with pytest.raises(UnreadableMedia):
        renderer.derive(painting("a.png", "b.png"), DOCUMENT, None)


def test_a_companion_is_found_only_when_storage_confirms_it(renderer: Renderer, server: ObjectServer) -> None:
    """MEDIA-5: asked again in every run until it is there, then never again."""
    with_recording = painting("a.png", companions={"recording": objects("r1.zip", "r2.zip")})
    put(server, a__png=pixel_art(64, 64))
    first = renderer.derive(with_recording, DOCUMENT, None)
    assert first.found == frozenset()

    put(server, r2__zip=recording_zip())
    server.requests.clear()
    second = renderer.derive(with_recording, DOCUMENT, first)
    assert second == replace(first, found=frozenset({"recording"}))
    assert [method for method, _ in server.requests] == ["HEAD", "HEAD"]

    server.requests.clear()
    assert renderer.derive(with_recording, DOCUMENT, second) is second
    assert server.requests == []


@pytest.mark.parametrize(("denials", "found"), [(1, {"recording"}), (2, set())])
def test_a_companion_is_gone_only_when_a_full_look_is_told_so_twice(
    renderer: Renderer, server: ObjectServer, denials: int, found: set[str]
) -> None:
    """MEDIA-22: one stray 403 or 404 takes no recording away, and an ordinary sync asks nobody."""
    with_recording = painting("a.png", companions={"recording": objects("r.zip")})
    put(server, a__png=pixel_art(64, 64), r__zip=recording_zip())
    known = renderer.derive(with_recording, DOCUMENT, None)
    server.replies[f"/{BUCKET}/r.zip"] = [Reply(403)] * denials
    assert renderer.derive(with_recording, DOCUMENT, known).found == {"recording"}
    assert renderer.derive(with_recording, DOCUMENT, known, look=True).found == found


def test_an_unanswered_companion_check_fails_the_item_for_now(renderer: Renderer, server: ObjectServer) -> None:
    """MEDIA-5: never taken for "no recording"."""
    put(server, a__png=pixel_art(64, 64))
    server.replies[f"/{BUCKET}/r.zip"] = [Reply(500)] * 3
    with pytest.raises(Transient):
        renderer.derive(painting("a.png", companions={"recording": objects("r.zip")}), DOCUMENT, None)


def test_a_finished_mp4_is_used_byte_for_byte(renderer: Renderer, server: ObjectServer) -> None:
    """MEDIA-13: the ZIP beside it is not even asked for."""
    finished = tape_mp4(31, 96, 64, sound=True)
    put(server, a__mp4=finished, a__zip=tape_zip(3, 16, 16))
    derived = renderer.derive(tape_of("a.mp4", "a.zip"), DOCUMENT, None)
    assert renderer.open(derived.renditions["video"].blob) == finished
    assert derived.renditions["video"].details["finished"] is True
    assert derived.renditions["thumbnail"].blob.size <= CAP
    assert server.paths("GET") == [f"/{BUCKET}/a.mp4"]
    assert derived.warnings == ()


def test_a_missing_mp4_gives_way_to_the_zip(renderer: Renderer, server: ObjectServer) -> None:
    """The oven's bucket answers 403."""
    put(server, a__zip=tape_zip(3, 16, 16))
    server.replies[f"/{BUCKET}/a.mp4"] = [Reply(403)]
    derived = renderer.derive(tape_of("a.mp4", "a.zip"), DOCUMENT, None)
    assert derived.renditions["video"].details["frames"] == 3
    assert derived.warnings == ()


@pytest.mark.parametrize("broken", [b"<html>", tape_mp4(10, 32, 32)[:400], tape_zip(1, 8, 8)])
def test_an_unusable_mp4_gives_way_to_the_zip_with_a_warning(
    broken: bytes, renderer: Renderer, server: ObjectServer
) -> None:
    put(server, a__mp4=broken, b__mp4=broken, a__zip=tape_zip(3, 16, 16))
    for _ in range(2):  # made, then from the store
        derived = renderer.derive(tape_of("a.mp4", "b.mp4", "none.zip", "a.zip"), DOCUMENT, None)
        assert derived.renditions["video"].details["frames"] == 3
        assert len(derived.warnings) == 1
        assert derived.warnings[0].startswith("mp4 passed over: The")


def test_an_unusable_mp4_without_a_zip_says_what_is_wrong_with_it(renderer: Renderer, server: ObjectServer) -> None:
    """The MP4's own trouble, not "no source": somebody can act on it."""
    put(server, a__mp4=b"<html>")
    with pytest.raises(UnreadableMedia, match="MP4"):
        renderer.derive(tape_of("a.mp4"), DOCUMENT, None)
    with pytest.raises(UnreadableMedia, match="MP4"):
        renderer.derive(tape_of("a.mp4", "gone.zip"), DOCUMENT, None)


UNPLAYED: dict[str, Callable[[], bytes]] = {
    "recorder without H.264": lambda: samples.mp4(video="mpeg4", sound="aac", fragmented=True),
    "recorder without AAC": lambda: samples.mp4("-c:a", "mp2", sound="aac", fragmented=True),
    "hevc": lambda: samples.mp4(video="libx265"),
    "vp9 and opus": lambda: samples.mp4(video="libvpx-vp9", sound="libopus"),
    "4:4:4": lambda: samples.mp4(pixel_format="yuv444p"),
    "10 bits": lambda: samples.mp4(pixel_format="yuv420p10le"),
    "uncompressed sound": lambda: samples.mp4("-strict", "-1", sound="pcm_s16le"),
    "a turned picture": lambda: samples.with_matrix(samples.mp4(video="mpeg4"), (0, 1, -1, 0)),
}


@pytest.mark.parametrize("name", UNPLAYED)
def test_what_not_every_browser_plays_is_encoded_again(
    name: str, renderer: Renderer, server: ObjectServer, tmp_path: Path
) -> None:
    """MEDIA-18: as H.264 and AAC, with all frames and the length kept, upright, and a warning on the item."""
    put(server, a__mp4=UNPLAYED[name]())
    derived = renderer.derive(tape_of("a.mp4"), DOCUMENT, None)
    (tmp_path / "x.mp4").write_bytes(renderer.open(derived.renditions["video"].blob))
    facts = read_facts(tmp_path / "x.mp4")
    sounds = any(word in name for word in ("recorder", "opus", "sound"))
    assert (facts.codec, facts.pixel_format, facts.sound) == ("h264", "yuv420p", "aac" if sounds else None)
    assert why_not_as_it_is(facts) == []
    assert len(facts.times) == samples.MP4_FRAMES
    assert facts.duration == pytest.approx(1000, abs=42)
    assert facts.indexed == pytest.approx(1000, abs=42)
    upright = samples.MP4_SIZE[::-1] if "turned" in name else samples.MP4_SIZE
    details = derived.renditions["video"].details
    assert (facts.width, facts.height) == (details["width"], details["height"]) == upright
    assert derived.renditions["thumbnail"].details["source_width"] == upright[0]
    (warning,) = derived.warnings
    assert "encoded again" in warning


@pytest.mark.parametrize("fragmented", [False, True])
def test_an_mp4_that_ends_early_is_published_as_far_as_it_goes(
    fragmented: bool, renderer: Renderer, server: ObjectServer, tmp_path: Path
) -> None:
    """MEDIA-18: what is published is whole in itself, and the item says how much of it there is."""
    whole = samples.mp4(sound="aac", fragmented=fragmented)
    put(server, a__mp4=whole[: len(whole) * 2 // 3])
    for _ in range(2):  # made, then from the store
        derived = renderer.derive(tape_of("a.mp4", "gone.zip"), DOCUMENT, None)
        (tmp_path / "x.mp4").write_bytes(renderer.open(derived.renditions["video"].blob))
        facts = read_facts(tmp_path / "x.mp4")
        assert why_not_as_it_is(facts) == []
        assert 5 <= len(facts.times) < samples.MP4_FRAMES
        (warning,) = derived.warnings
        assert re.search(rf"bytes are missing at its end; {len(facts.times)} frames, 0\.\d+ s, are published", warning)


def test_an_mp4_that_ends_early_gives_way_to_a_zip_that_can_be_read(renderer: Renderer, server: ObjectServer) -> None:
    """MEDIA-18: the ZIP it was made from has all of it; a ZIP that is broken, too, does not cost what there is."""
    cut = samples.mp4()[:-500]
    put(server, a__mp4=cut, a__zip=tape_zip(3, 16, 16), b__zip=b"<html>")
    derived = renderer.derive(tape_of("a.mp4", "a.zip"), DOCUMENT, None)
    assert derived.renditions["video"].details["frames"] == 3
    assert derived.warnings == ("mp4 passed over: it ends early",)
    assert "ends early" in renderer.derive(tape_of("a.mp4", "b.zip"), DOCUMENT, None).warnings[0]


def test_a_turned_mp4_is_taken_as_it_is_with_an_upright_poster(renderer: Renderer, server: ObjectServer) -> None:
    """MEDIA-13, MEDIA-18: players turn it."""
    turned = samples.with_matrix(samples.mp4(), (0, 1, -1, 0))
    put(server, a__mp4=turned)
    derived = renderer.derive(tape_of("a.mp4"), DOCUMENT, None)
    assert renderer.open(derived.renditions["video"].blob) == turned
    assert derived.renditions["thumbnail"].details["source_width"] == samples.MP4_SIZE[1]
    assert derived.warnings == ()


def test_a_finished_mp4_over_the_limit_is_encoded_smaller(make: Callable[..., Renderer], server: ObjectServer) -> None:
    """MEDIA-14: with a warning on the item."""
    finished = tape_mp4(40, 160, 120, quality=5)
    put(server, a__mp4=finished)
    derived = make(limit=len(finished) // 2).derive(tape_of("a.mp4"), DOCUMENT, None)
    assert derived.renditions["video"].blob.size <= len(finished) // 2
    assert "encoded again" in derived.warnings[0]


@pytest.mark.parametrize("over", [0, 1])
def test_the_limit_is_inclusive(over: int, make: Callable[..., Renderer], server: ObjectServer) -> None:
    """MEDIA-14: the PDS takes exactly its limit."""
    finished = tape_mp4(20, 96, 64)
    put(server, a__mp4=finished)
    derived = make(limit=len(finished) - over).derive(tape_of("a.mp4"), DOCUMENT, None)
    assert (size := derived.renditions["video"].blob.size) <= len(finished) - over
    assert (size == len(finished)) == (over == 0)


def test_what_fits_no_limit_is_refused_with_size_and_limit(make: Callable[..., Renderer], server: ObjectServer) -> None:
    """MEDIA-14."""
    put(server, a__mp4=tape_mp4(20, 96, 64))
    with pytest.raises(TooLarge, match="400 bytes"):
        make(limit=400).derive(tape_of("a.mp4"), DOCUMENT, None)


def test_an_mp4_of_a_brand_that_the_pds_takes_for_something_else_is_encoded_again(
    renderer: Renderer, server: ObjectServer
) -> None:
    """MEDIA-2: the PDS would call an Apple brand `video/quicktime`, which the lexicon does not accept."""
    finished = tape_mp4(10, 64, 48)
    put(server, a__mp4=finished.replace(b"ftypisom", b"ftypqt  ", 1))
    derived = renderer.derive(tape_of("a.mp4"), DOCUMENT, None)
    data = renderer.open(derived.renditions["video"].blob)
    assert sniff(data) == derived.renditions["video"].blob.mime_type == "video/mp4"
    assert "video/quicktime" in derived.warnings[0]


def test_warnings_of_the_source_come_along_every_time(renderer: Renderer, server: ObjectServer) -> None:
    """MEDIA-8, MEDIA-10, MEDIA-11: also when the video is from the store."""
    put(server, a__zip=tape(100, without=[7], timing=timing(100, at_9={"duration": 0})))
    first = renderer.derive(tape_of("a.zip"), DOCUMENT, None)
    again = renderer.derive(tape_of("a.zip"), DOCUMENT, None)
    assert first.warnings == again.warnings
    assert ["held" in warning or "durations" in warning for warning in first.warnings] == [True, True]


@pytest.mark.parametrize(
    "data",
    [
        b"<html>404</html>",
        archive({frame_name(0): FRAME, frame_name(2): FRAME}),
        archive({frame_name(0): b"broken"}),
        tape(50, without=[7], timing=timing(50)),
    ],
)
def test_a_tape_that_cannot_be_read_yields_no_video_at_all(
    data: bytes, renderer: Renderer, server: ObjectServer, tmp_path: Path
) -> None:
    """MEDIA-7, MEDIA-8, MEDIA-16: nothing half-made is kept."""
    put(server, a__zip=data)
    with pytest.raises(UnreadableMedia):
        renderer.derive(tape_of("a.zip"), DOCUMENT, None)
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []
    assert list((tmp_path / "work").iterdir()) == []


def test_ffmpeg_refusing_a_tape_is_its_own_class_with_the_tail(
    make: Callable[..., Renderer], server: ObjectServer, tmp_path: Path
) -> None:
    """MEDIA-7."""
    put(server, a__zip=tape_zip(2, 16, 16))
    binary = script(tmp_path, "echo 'out of cheese' >&2; exit 5")
    with pytest.raises(EncodingFailed, match="out of cheese"):
        make(ffmpeg=binary).derive(tape_of("a.zip"), DOCUMENT, None)


def test_a_missing_ffmpeg_is_transient(make: Callable[..., Renderer], server: ObjectServer, tmp_path: Path) -> None:
    put(server, a__zip=tape_zip(2, 16, 16))
    with pytest.raises(EncoderFailed, match="AC_FFMPEG"):
        make(ffmpeg=str(tmp_path / "nowhere")).derive(tape_of("a.zip"), DOCUMENT, None)


def test_a_type_without_media_asks_nobody(renderer: Renderer, server: ObjectServer) -> None:
    assert renderer.derive(media(None), DOCUMENT, None).renditions == {}
    assert server.requests == []


def test_an_unknown_recipe_is_named(renderer: Renderer) -> None:
    with pytest.raises(Misconfigured, match=r"nonsense.*painting-thumbnail"):
        renderer.derive(media("nonsense", "a.png", fields=("x",)), DOCUMENT, None)


def test_a_full_disk_is_transient(make: Callable[..., Renderer], server: ObjectServer, tmp_path: Path) -> None:
    put(server, a__png=pixel_art(8, 8))
    (tmp_path / "work").write_text("a file where the work folder should be")
    with pytest.raises(Transient, match="work folder"):
        make().derive(painting("a.png"), DOCUMENT, None)


def test_the_video_plays_as_long_as_the_tape(renderer: Renderer, server: ObjectServer, tmp_path: Path) -> None:
    """MEDIA-9, through every layer."""
    durations = [20.0, 180.0, 33.3, 16.67]
    put(server, a__zip=tape_zip(4, 24, 24, durations=durations, sound=True))
    blob = renderer.derive(tape_of("a.zip"), DOCUMENT, None).renditions["video"].blob
    (tmp_path / "v.mp4").write_bytes(renderer.open(blob))
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        assert float(stream.duration * stream.time_base) * 1000 == pytest.approx(sum(durations), abs=17)


def test_a_blob_that_was_never_kept_is_missing(renderer: Renderer) -> None:
    with pytest.raises(SourceMissing):
        renderer.open(BlobRef("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku", "image/png", 1))


@pytest.mark.parametrize("format", ["png", "zip", "mp4"])
def test_forgotten_renditions_leave_no_file_behind_and_are_made_again_when_wanted(
    format: str, renderer: Renderer, server: ObjectServer, tmp_path: Path
) -> None:
    """DEL-7: a thumbnail, or video and poster of a tape, whatever it was made from, and the note of how."""
    data = {"png": pixel_art(24, 16), "zip": tape_zip(4, 32, 24), "mp4": tape_mp4(4, 32, 24)}[format]
    server.objects[f"/{BUCKET}/source.{format}"] = data
    kind = painting("source.png") if format == "png" else tape_of(f"source.{format}")
    made = renderer.derive(kind, DOCUMENT, None)
    assert files_below(tmp_path / "store") == len(made.renditions) + 1
    renderer.forget(kind, made.renditions.values())
    assert files_below(tmp_path / "store") == 0
    renderer.forget(kind, made.renditions.values())
    assert renderer.derive(kind, DOCUMENT, None) == made


def test_every_type_has_its_sources_in_formats_its_recipe_knows() -> None:
    """DEL-7: else the note of how a rendition was made would outlive it."""
    promised = {"painting": {"png"}, "tape": {"mp4", "zip"}}
    assert {each.name: set(RECIPES[each.recipe].formats) for each in MEDIA_TYPES if each.recipe} == promised


def files_below(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


# ---------------------------------------------------------------------------------------- objects that were replaced

OLD, NEW = pixel_art(64, 64), pixel_art(64, 64, seed=9)


def test_an_object_that_was_replaced_is_rendered_anew_at_the_next_look(
    renderer: Renderer, server: ObjectServer
) -> None:
    """MEDIA-21."""
    put(server, a__png=OLD)
    known = renderer.derive(painting("a.png"), DOCUMENT, None)
    put(server, a__png=NEW + b"\0")
    assert renderer.derive(painting("a.png"), DOCUMENT, known) is known
    seen = renderer.derive(painting("a.png"), DOCUMENT, known, look=True)
    assert seen.renditions["thumbnail"].blob != known.renditions["thumbnail"].blob
    server.requests.clear()
    assert renderer.derive(painting("a.png"), DOCUMENT, seen, look=True) is seen
    assert server.requests == [("HEAD", f"/{BUCKET}/a.png")]


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_an_object_of_the_same_length_is_told_by_what_storage_says_of_it(
    renderer: Renderer, server: ObjectServer, header: str
) -> None:
    """MEDIA-21."""
    path = f"/{BUCKET}/a.png"
    put(server, a__png=OLD)
    server.replies[path] = [Reply(headers={header: "one"})]
    known = renderer.derive(painting("a.png"), DOCUMENT, None)
    server.replies[path] = [Reply(headers={header: "one"})]
    assert renderer.derive(painting("a.png"), DOCUMENT, known, look=True) is known
    server.replies[path] = [Reply(headers={header: "two"})] * 2
    seen = renderer.derive(painting("a.png"), DOCUMENT, known, look=True)
    assert (seen.renditions, seen.stamp) == (known.renditions, known.stamp.replace("one", "two"))


def test_what_was_rendered_before_looks_were_remembered_stays_and_is_told_from_now_on(
    renderer: Renderer, server: ObjectServer
) -> None:
    """MEDIA-21: published media does not change because the pipeline did."""
    put(server, a__png=OLD)
    known = replace(renderer.derive(painting("a.png"), DOCUMENT, None), stamp="")
    seen = renderer.derive(painting("a.png"), DOCUMENT, known, look=True)
    assert (seen.renditions, bool(seen.stamp)) == (known.renditions, True)
    assert server.paths("GET") == [f"/{BUCKET}/a.png"]


def test_a_look_that_gets_no_answer_or_finds_nothing_changes_nothing(renderer: Renderer, server: ObjectServer) -> None:
    """MEDIA-5, MEDIA-21."""
    put(server, a__png=OLD)
    known = renderer.derive(painting("a.png"), DOCUMENT, None)
    server.replies[f"/{BUCKET}/a.png"] = [Reply(503)] * 3
    assert renderer.derive(painting("a.png"), DOCUMENT, known, look=True) is known
    server.objects.clear()
    assert renderer.derive(painting("a.png"), DOCUMENT, known, look=True) is known


def test_on_demand_renditions_are_made_again_though_they_are_kept(
    renderer: Renderer, server: ObjectServer, store: RenditionStore
) -> None:
    """MEDIA-21."""
    put(server, a__png=OLD)
    right = renderer.derive(painting("a.png"), DOCUMENT, None)
    made = right.renditions["thumbnail"]
    wrong = replace(made, blob=store.put(NEW, "image/png"))
    store.remember("painting-thumbnail:png", made.source, made.spec, {"thumbnail": wrong})
    assert renderer.derive(painting("a.png"), DOCUMENT, None).renditions["thumbnail"].blob == wrong.blob
    again = renderer.derive(painting("a.png"), DOCUMENT, right, anew=True)
    assert again.renditions["thumbnail"].blob == made.blob
    assert renderer.derive(painting("a.png"), DOCUMENT, None).renditions["thumbnail"].blob == made.blob


def test_on_demand_what_has_no_source_any_more_keeps_its_renditions(renderer: Renderer, server: ObjectServer) -> None:
    """MEDIA-21: asking for new ones never costs the old ones."""
    put(server, a__png=OLD)
    known = renderer.derive(painting("a.png"), DOCUMENT, None)
    server.objects.clear()
    for _ in range(2):
        seen = renderer.derive(painting("a.png"), DOCUMENT, known, anew=True)
        assert seen.renditions == known.renditions
        assert ["not rendered anew" in warning for warning in seen.warnings] == [True]


def test_an_mp4_that_was_baked_again_under_its_address_is_another_source() -> None:
    """MEDIA-21: told by `mp4CompletedAt` and `mp4Size`."""
    fields = {"slug": "x", "mp4Status": "complete", "mp4Url": "https://at-blobs.aesthetic.computer/tapes/x.mp4"}
    day = datetime(2026, 11, 1, tzinfo=UTC)

    def key(**more: object) -> str:
        return source_key(TAPE.sources(replace(DOCUMENT, type="tape", fields={**fields, **more})))

    assert key(mp4CompletedAt=day, mp4Size=5) == key(mp4CompletedAt="2026-11-01T00:00:00.000Z", mp4Size=5)
    keys = [
        key(),
        key(mp4CompletedAt=day),
        key(mp4CompletedAt=day, mp4Size=5),
        key(mp4CompletedAt=day, mp4Size=6),
        key(mp4CompletedAt=day.replace(day=2), mp4Size=5),
    ]
    assert len(set(keys)) == 5


def test_a_video_rendered_before_bakes_were_told_apart_is_not_fetched_again(
    renderer: Renderer, server: ObjectServer
) -> None:
    """MEDIA-21."""
    put(server, a__png=OLD)
    media = painting("a.png")
    known = replace(renderer.derive(media, DOCUMENT, None), stamp="")
    baked = replace(media, sources=lambda document: (replace(objects("a.png")[0], version="1"),))
    server.requests.clear()
    seen = renderer.derive(baked, DOCUMENT, known)
    assert seen.key == source_key(baked.sources(DOCUMENT)) != known.key
    assert server.requests == []
    again = replace(media, sources=lambda document: (replace(objects("a.png")[0], version="2"),))
    renderer.derive(again, DOCUMENT, seen)
    assert server.requests == [("GET", f"/{BUCKET}/a.png")]


def test_an_object_that_is_stored_compressed_is_refused_by_that_name(renderer: Renderer, server: ObjectServer) -> None:
    """MEDIA-21."""
    put(server, a__png=gzip.compress(OLD))
    server.replies[f"/{BUCKET}/a.png"] = [Reply(headers={"Content-Encoding": "gzip"})]
    with pytest.raises(UnreadableMedia, match=rf"{BUCKET}/a.png is stored with `Content-Encoding: gzip`"):
        renderer.derive(painting("a.png"), DOCUMENT, None)
    put(server, a__png=OLD)
    server.replies[f"/{BUCKET}/a.png"] = [Reply(headers={"Content-Encoding": "aws-chunked"})]
    assert renderer.derive(painting("a.png"), DOCUMENT, None).renditions
