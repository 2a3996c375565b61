"""Sample media for the demo and the tests: small real pictures and tapes as the platform's own tools write them.

Deterministic: the same arguments give the same bytes. Only sound samples are made; broken ones belong to the tests.
"""

from __future__ import annotations

import io
import json
import subprocess
import tempfile
import wave
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from ac_pipeline.errors import EncoderFailed
from ac_pipeline.renditions.ffmpeg_process import default_binary

Pixels = npt.NDArray[np.uint8]
Layout = Literal["posted", "early"]

FRAME_MS = 16.667
SOUND_RATE = 48_000
_BLOCK = 4096  # The producer rounds its sound up to this many samples
_STAMP = (2025, 10, 23, 12, 30, 0)
_EARLY_SCALE = 6

_COLOURS = (
    "000000 1d2b53 7e2553 008751 ab5236 5f574f c2c3c7 fff1e8 ff004d ffa300 ffec27 00e436 29adff 83769c ff77a8 ffccaa"
)
_PALETTE = np.frombuffer(bytes.fromhex(_COLOURS), np.uint8).reshape(16, 3)


def pixel_art(width: int, height: int, *, seed: int = 0, scale: int = 1, transparent: bool = False) -> bytes:
    """A PNG of hard edges in few colours, as most paintings are; both sides are enlarged by a whole `scale`."""
    pixels = _scene(width, height, seed, 0.0)
    if transparent:
        y, x = np.mgrid[0:height, 0:width]
        pixels[((y - height / 2) / height) ** 2 + ((x - width / 2) / width) ** 2 > 0.2, 3] = 0
    return _png(pixels.repeat(scale, 0).repeat(scale, 1))


def photo_like(width: int, height: int, *, seed: int = 0, format: Literal["PNG", "JPEG"] = "PNG") -> bytes:
    """A picture of soft shades and fine grain, with far more colours than a palette holds."""
    random = np.random.default_rng(seed)
    light = np.zeros((height, width, 3), np.float32)
    for octave in (3, 7, 19):
        coarse = random.normal(0, 1, (octave, octave, 3)).astype(np.float32)
        planes = [Image.fromarray(coarse[..., channel]) for channel in range(3)]
        smooth = [np.asarray(plane.resize((width, height), Image.Resampling.BICUBIC)) for plane in planes]
        light += np.stack(smooth, -1) * (90 / np.sqrt(octave))
    light += random.normal(0, 3, light.shape)
    image = Image.fromarray(np.clip(light + 120, 0, 255).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, format, **({"quality": 90} if format == "JPEG" else {"compress_level": 3}))
    return file.getvalue()


def tape_zip(
    frames: int,
    width: int,
    height: int,
    *,
    seed: int = 0,
    durations: Sequence[float] | None = None,  # Milliseconds of each frame; by default all alike
    sound: bool = False,
    layout: Layout = "posted",  # Padded names, timing as a list; `early`: plain names, timing as an object, enlarged
) -> bytes:
    """A tape as a ZIP of frames (aesthetic-computer facts, section 10.1), of this size before any enlarging."""
    times = list(durations) if durations is not None else [FRAME_MS] * frames
    early = layout == "early"
    scale = _EARLY_SCALE if early else 1
    entries: list[dict[str, object]] = []
    file = io.BytesIO()
    clock = 0.0
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for index, duration in enumerate(times):
            name = f"frame-{index}.png" if early else f"frame-{index:05d}.png"
            pixels = _scene(width, height, seed, clock / 1000).repeat(scale, 0).repeat(scale, 1)
            _add(archive, name, _png(pixels))
            moment: dict[str, object] = {"duration": duration, "timestamp": round(clock, 3)}
            entries.append({"index": index, **moment} if early else {"frame": index, "filename": name, **moment})
            clock += duration
        timing: object = {"frames": entries, "totalDuration": clock} if early else entries
        _add(archive, "timing.json", json.dumps(timing, indent=2).encode())
        size = {"width": width * scale, "height": height * scale}
        metadata: dict[str, object] = (
            {"originalSize": {"width": width, "height": height}, "scaledSize": size, "scale": scale}
            if early
            else {"resolution": size, "piece": "sample", "audioSampleRate": SOUND_RATE if sound else None}
        )
        metadata |= {"frameCount": len(times), "totalDuration": clock if early else clock / 1000}
        _add(archive, "metadata.json", json.dumps(metadata, indent=2).encode())
        if sound:
            _add(archive, "soundtrack.wav", soundtrack(clock / 1000))
    return file.getvalue()


def soundtrack(seconds: float) -> bytes:
    """A stereo WAV of 16 bits with a beat, padded with silence as the producer pads it."""
    count = int(seconds * SOUND_RATE)
    time = np.arange(count) / SOUND_RATE
    left = 0.4 * np.sin(2 * np.pi * 220 * time) + 0.3 * ((time * 2) % 1 < 0.08)
    right = 0.4 * np.sin(2 * np.pi * 277 * time)
    padded = np.pad(np.stack([left, right], 1), ((0, -count % _BLOCK), (0, 0)))
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(2)
        sound.setsampwidth(2)
        sound.setframerate(SOUND_RATE)
        sound.writeframes((np.clip(padded, -1, 1) * 32_767).astype("<i2").tobytes())
    return file.getvalue()


def recording_zip(seed: int = 0) -> bytes:
    """The recording beside a painting: only its existence counts, so it holds little."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "painting.json", json.dumps({"steps": [{"gesture": "line", "seed": seed}]}).encode())
    return file.getvalue()


def tape_mp4(
    frames: int,  # At 30 a second
    width: int,  # Pixels, even; so is the height
    height: int,
    *,
    seed: int = 0,
    sound: bool = False,
    quality: int = 23,  # CRF; 0 to 51, smaller is better and larger
    recorder: bool = False,  # As its native recorder falls back to: MPEG-4 part 2, MP2, in fragments
) -> bytes:
    """A finished tape as the platform's own converter writes it: constant rate, H.264, AAC, index first. Raises
    EncoderFailed if ffmpeg did not make it."""
    raw = b"".join(_scene(width, height, seed, index / 30)[..., :3].tobytes() for index in range(frames))
    command = [default_binary(), "-hide_banner", "-loglevel", "error"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", "30", "-i", "pipe:0"]
    if sound:
        command += ["-f", "lavfi", "-i", "sine=frequency=330:sample_rate=48000", "-c:a", "mp2" if recorder else "aac"]
        command += ["-b:a", "96k", "-shortest"]
    x264 = ["libx264", "-preset", "veryfast", "-crf", str(quality)]
    command += ["-c:v", *(["mpeg4", "-q:v", "5"] if recorder else x264), "-threads", "1", "-pix_fmt", "yuv420p"]
    command += ["-movflags", "+frag_keyframe+empty_moov+default_base_moof" if recorder else "+faststart"]
    command += ["-fflags", "+bitexact", "-f", "mp4", "-y"]
    with tempfile.TemporaryDirectory(prefix="sample-") as folder:
        out = Path(folder, "tape.mp4")  # ffmpeg goes back to put the index first, which a pipe does not allow
        try:
            subprocess.run([*command, str(out)], input=raw, capture_output=True, timeout=120, check=True)  # noqa: S603
        except (OSError, subprocess.SubprocessError) as error:
            raise EncoderFailed(f"The sample MP4 could not be made: {error}") from error
        return out.read_bytes()


def _scene(width: int, height: int, seed: int, time: float) -> Pixels:
    """One moment of a moving scene in opaque RGBA: a dithered ground, sprites, a line of one pixel."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    dither = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) / 16
    ground = random.permutation(16)[:4]
    wave_ = (x * 0.6 + y * 0.4 + time * 18) / max(4.0, width * 0.35) % 4
    pixels: Pixels = np.empty((height, width, 4), np.uint8)
    pixels[..., :3] = _PALETTE[ground[(wave_ + dither[y % 4, x % 4] * 0.9).astype(int) % 4]]
    pixels[..., 3] = 255
    for _ in range(8):
        side = int(random.integers(2, max(3, min(width, height) // 4)))
        left = int(random.integers(0, width) + random.uniform(-90, 90) * time) % max(1, width - side)
        top = int(random.integers(0, height) + random.uniform(-70, 70) * time) % max(1, height - side)
        pixels[top : top + side, left : left + side, :3] = _PALETTE[int(random.integers(0, 16))]
    pixels[int(time * 40) % height, :, :3] = _PALETTE[8]
    return pixels


def _png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=3)
    return file.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, _STAMP), data)
