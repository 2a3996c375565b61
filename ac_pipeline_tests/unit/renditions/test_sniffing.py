"""What bytes are, told by the bytes."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from ac_pipeline.local.seed.artwork import photo_like, pixel_art, tape_zip
from ac_pipeline.renditions.pictures import HEAD, UNKNOWN, sniff


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (pixel_art(4, 4), "image/png"),
        (photo_like(4, 4, format="JPEG"), "image/jpeg"),
        (tape_zip(1, 8, 8), "application/zip"),
        (b"GIF89a" + b"\0" * 20, "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\0\0\0\0WAVEfmt ", UNKNOWN),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "video/mp4"),
        (b"\0\0\0\x20ftypmp42\0\0\2\0", "video/mp4"),
        (b"\0\0\0\x20ftypM4V \0\0\2\0", "video/x-m4v"),
        (b"\0\0\0\x20ftypqt  \0\0\2\0", "video/quicktime"),
        (b"\0\0\0\x20ftyp3gp5\0\0\2\0", "video/3gpp"),
        (b"\0\0\0\x20ftypavif\0\0\2\0", "image/avif"),
        (b"<html>404</html>", UNKNOWN),
        (b"", UNKNOWN),
        (b"\x89PNG", UNKNOWN),
    ],
)
def test_the_first_bytes_decide(data: bytes, expected: str) -> None:
    """MEDIA-2."""
    assert sniff(data) == expected
    assert sniff(data[:HEAD]) == expected


def test_a_webp_from_pillow_is_recognised() -> None:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "WEBP")
    assert sniff(file.getvalue()) == "image/webp"
