"""Broken and hostile pictures, tapes and MP4s, each wrong in exactly one way.

Sound ones are made by `ac_pipeline/local/seed/artwork.py`.
"""

from __future__ import annotations

import functools
import io
import json
import struct
import subprocess
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ac_pipeline.local.seed.artwork import pixel_art
from ac_pipeline.renditions.ffmpeg_process import default_binary

FRAME = pixel_art(24, 16)
OTHER_SIZE = pixel_art(40, 10)


def frame_name(index: int) -> str:
    return f"frame-{index:05d}.png"


def timing(count: int, duration: float = 20.0, **changes: Any) -> list[dict[str, Any]]:
    """Entries as the producer writes them; a change such as `at_3={...}` replaces fields of entry 3."""
    entries: list[dict[str, Any]] = [
        {"frame": i, "filename": frame_name(i), "duration": duration, "timestamp": i * duration} for i in range(count)
    ]
    for name, change in changes.items():
        entries[int(name.removeprefix("at_"))].update(change)
    return entries


def archive(
    members: Mapping[str, bytes] | Iterable[tuple[str | zipfile.ZipInfo, bytes]],
    timing: object = None,
    *,
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """A ZIP of these members, plus `timing.json` unless it is None; text is written as it is, else as JSON."""
    pairs = members.items() if isinstance(members, Mapping) else members
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as out:
        for name, data in pairs:
            out.writestr(name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name), data, compression)
        if timing is not None:
            out.writestr("timing.json", timing if isinstance(timing, str) else json.dumps(timing))
    return file.getvalue()


def tape(count: int, *, without: Iterable[int] = (), timing: object = None, picture: bytes = FRAME) -> bytes:
    """A tape of `count` equal frames, some of them left out."""
    left_out = set(without)
    return archive({frame_name(i): picture for i in range(count) if i not in left_out}, timing)


def symlink() -> bytes:
    link = zipfile.ZipInfo(frame_name(1))
    link.create_system = 3
    link.external_attr = 0o120777 << 16
    return archive([(frame_name(0), FRAME), (link, b"/etc/passwd")], timing(2))


def duplicate() -> bytes:
    """Two members of one name; `zipfile` warns when it writes such a thing, so one is renamed afterwards."""
    data = archive([(frame_name(0), FRAME), (frame_name(1), FRAME), (frame_name(2), OTHER_SIZE)])
    return data.replace(frame_name(2).encode(), frame_name(1).encode())


def encrypted() -> bytes:
    """Sets the encryption bit in the central directory (and the local header, so that the two agree)."""
    data = bytearray(archive({frame_name(0): FRAME}))
    data[6] |= 1
    central = data.rindex(b"PK\x01\x02")
    data[central + 8] |= 1
    return bytes(data)


def wrong_checksum() -> bytes:
    data = bytearray(archive({frame_name(0): FRAME, frame_name(1): FRAME}))
    second = data.index(frame_name(1).encode())
    data[second + len(frame_name(1)) + 60] ^= 0xFF
    return bytes(data)


def deflate_bomb(size: int = 40 << 20) -> bytes:
    return archive({frame_name(0): b"\0" * size}, compression=zipfile.ZIP_DEFLATED)


def claims_entries(count: int) -> bytes:
    """A ZIP whose end record names `count` members."""
    data = bytearray(archive({frame_name(0): FRAME}))
    struct.pack_into("<HH", data, len(data) - 22 + 8, count, count)
    return bytes(data)


def claims_zip64() -> bytes:
    """A ZIP64 locator that leads nowhere."""
    data = archive({frame_name(0): FRAME})
    return data[:-22] + b"PK\x06\x07" + b"\0" * 16 + data[-22:]


def zip64_end(data: bytes, *, entries: int | None = None) -> bytes:
    """A ZIP whose end record is in ZIP64 form, the old one filled with ones; with `entries`, it claims so many."""
    body, end = data[:-22], data[-22:]
    count, size, offset = struct.unpack("<HII", end[10:20])
    count = count if entries is None else entries
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, offset)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, len(body), 1)
    old = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return body + record + locator + old


def zip64_stream(members: Mapping[str, bytes]) -> bytes:
    """A ZIP as it is written into a pipe: lengths behind each member, and in ZIP64 form."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: int) -> int:
            raise OSError("a pipe cannot seek")

        tell = seek

    file = Pipe()
    with zipfile.ZipFile(file, "w") as out:
        for name, data in members.items():
            with out.open(name, "w", force_zip64=True) as member:
                member.write(data)
    return file.getvalue()


def wav(
    samples: bytes,
    *,
    tag: int = 1,
    bits: int = 16,
    channels: int = 2,
    rate: int = 48_000,
    extensible: bool = False,
    before: bytes = b"",
    after: bytes = b"",
    length: int | None = None,
    kind: bytes = b"RIFF",
) -> bytes:
    """A WAV of these samples, with other chunks before and after them; with `length`, its data chunk claims that."""
    width = -(-bits // 8) * channels
    layout = struct.pack("<HHIIHH", 0xFFFE if extensible else tag, channels, rate, rate * width, width, bits)
    if extensible:
        subformat = struct.pack("<H", tag) + bytes.fromhex("0000 0000 1000 8000 00aa 0038 9b71")
        layout += struct.pack("<HHI", 22, bits, 3) + subformat
    claimed = len(samples) if length is None else length
    chunks = riff(b"fmt ", layout) + before + struct.pack("<4sI", b"data", claimed) + samples + after
    return kind + struct.pack("<I", 0xFFFFFFFF if length is not None else len(chunks) + 4) + b"WAVE" + chunks


def riff(kind: bytes, data: bytes, *, filled: bool = True) -> bytes:
    """One chunk, filled up to an even length or not."""
    return struct.pack("<4sI", kind, len(data)) + data + (b"\0" if filled and len(data) % 2 else b"")


def huge_header(side: int) -> bytes:
    """A PNG of some bytes that claims `side` x `side` pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + _chunk(b"IEND", b"")
    )


def blank(width: int, height: int) -> bytes:
    """A one-bit PNG of any size in few bytes."""
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def noise(width: int, height: int, colours: int | None = None, seed: int = 1) -> bytes:
    """A PNG that nothing compresses; with `colours`, of so many greys."""
    random = np.random.default_rng(seed)
    if colours is None:
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    else:
        pixels = (random.integers(0, colours, (height, width)) * (256 // colours)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


MP4_SIZE = (96, 64)
MP4_FRAMES = 24
"""Of one second, at 24 a second."""

MATRICES = [
    *[(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)],
    *[(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)],
]
"""a, b, c, d of the display matrices of all four turns, plain and mirrored."""


def ffmpeg(*options: str) -> bytes:
    """What ffmpeg writes with these options."""
    with tempfile.TemporaryDirectory(prefix="sample-") as folder:
        out = Path(folder, "out")
        command = [default_binary(), "-hide_banner", "-loglevel", "error", *options, "-y", str(out)]
        subprocess.run(command, capture_output=True, timeout=120, check=True)
        return out.read_bytes()


@functools.cache
def mp4(
    *options: str,
    seconds: int = 1,
    video: str = "libx264",
    pixel_format: str = "yuv420p",
    sound: str | None = None,
    fragmented: bool = False,
    late_index: bool = False,
) -> bytes:
    """An MP4 of a test picture; by default as browsers play it, in one piece, index first."""
    pattern = f"testsrc=size={MP4_SIZE[0]}x{MP4_SIZE[1]}:rate=24:duration={seconds}"
    command = ["-f", "lavfi", "-i", pattern]
    if sound:
        command += ["-f", "lavfi", "-i", f"sine=frequency=330:sample_rate=48000:duration={seconds}", "-c:a", sound]
    command += ["-c:v", video, "-pix_fmt", pixel_format, "-threads", "1", "-g", "8"]
    flags = "frag_keyframe+empty_moov+default_base_moof" if fragmented else "" if late_index else "+faststart"
    command += ["-movflags", flags] if flags else []
    return ffmpeg(*command, *options, "-f", "mp4")


def with_matrix(data: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """An MP4 whose first track is shown by this display matrix (a, b, c, d)."""
    a, b, c, d = (value << 16 for value in matrix)
    at = data.index(b"tkhd") + 4 + 40
    return data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :]


def with_track_length(data: bytes, length: int) -> bytes:
    """An MP4 whose tracks' media headers claim a length of so many ticks."""
    changed, at = bytearray(data), 0
    while (at := data.find(b"mdhd", at)) >= 0:
        struct.pack_into(">I", changed, at + 20, length)
        at += 4
    return bytes(changed)


def png_of(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def jpeg_of(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(data: bytes, *chunks: tuple[bytes, bytes], sound: bool = True) -> bytes:
    """A PNG with more chunks behind its header, their checksums right unless not `sound`."""
    made = b"".join(_chunk(kind, body) if sound else _chunk(kind, body)[:-1] + b"?" for kind, body in chunks)
    return data[:33] + made + data[33:]


def jpeg_with(data: bytes, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG with more segments (marker, content) at its start."""
    made = b"".join(struct.pack(">HH", marker, 2 + len(body)) + body for marker, body in segments)
    return data[:2] + made + data[2:]


def webp_with(data: bytes, size: tuple[int, int], *chunks: tuple[bytes, bytes]) -> bytes:
    """A plain WebP of this size with more chunks behind its picture, which its header announces."""
    sides = b"".join((side - 1).to_bytes(3, "little") for side in size)
    kinds = {b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04}
    flags = bytes([sum(kinds.get(kind, 0) for kind, _ in chunks), 0, 0, 0])
    before = [chunk for chunk in chunks if chunk[0] == b"ICCP"]
    after = [chunk for chunk in chunks if chunk[0] != b"ICCP"]
    body = b"".join(map(_riff, [(b"VP8X", flags + sides), *before])) + data[12:] + b"".join(map(_riff, after))
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def exif(orientation: int, order: str = "<") -> bytes:
    """EXIF that says nothing but how a picture is turned."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def profile(space: str) -> bytes:
    """An ICC profile under which red and blue have changed places ("RGB "), or greys have a gamma of 4 ("GRAY")."""
    curve = b"curv" + struct.pack(">IIHH", 0, 1, (4 if space == "GRAY" else 2) << 8, 0)
    white = (0.9642, 1.0, 0.8249)
    red, green, blue = (0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
    tags = {"desc": b"desc" + struct.pack(">II", 0, 5) + b"test\0" + bytes(79), "wtpt": _xyz(white)}
    if space == "GRAY":
        tags["kTRC"] = curve
    else:
        tags |= {
            "rXYZ": _xyz(blue),
            "gXYZ": _xyz(green),
            "bXYZ": _xyz(red),
            "rTRC": curve,
            "gTRC": curve,
            "bTRC": curve,
        }
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += name.encode() + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = (
        struct.pack(">I4xI", start + len(body), 0x02400000) + b"mntr" + space.encode() + b"XYZ " + bytes(12) + b"acsp"
    )
    return head.ljust(68, b"\0") + _xyz(white)[8:] + bytes(48) + table + body


def _xyz(value: tuple[float, float, float]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">iii", *(round(part * 65_536) for part in value))


def _riff(chunk: tuple[bytes, bytes]) -> bytes:
    kind, body = chunk
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
