"""Reading untrusted pictures with Pillow: limits before pixels, named errors after.

Shared by thumbnails and tape frames. What is made of the pixels is theirs.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageFile, UnidentifiedImageError

from ac_pipeline.errors import TooLarge, UnreadableMedia

# Pillow keeps these for the whole process, so they are set once, here, and by nobody else.
ImageFile.LOAD_TRUNCATED_IMAGES = False
# A noisy JPEG saved as optimised or progressive needs its whole output in one buffer; the default 64 KiB fails with
# "broken data stream when writing" (media facts, section 3).
ImageFile.MAXBLOCK = 8 << 20
# Pillow's own limit warns, once per process and by the wrong name; `open_picture` checks every header instead.
Image.MAX_IMAGE_PIXELS = None

PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    NotImplementedError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on broken input, found by feeding them broken input."""

BLOCKS = (16, 12, 10, 8, 6, 5, 4, 3, 2)


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture in its own mode, with the format and the size in pixels that its file declares."""

    image: Image.Image
    format: str
    width: int
    height: int


def open_picture(
    data: bytes,
    name: str,
    *,
    formats: Sequence[str],
    max_side: int,
    max_pixels: int,
    draft: int | None = None,
) -> Picture:
    """The first picture in `data`, decoded.

    Args:
        data: The file.
        name: What it is, for messages.
        formats: Pillow's names of the formats taken; the content decides, never the extension.
        max_side, max_pixels: Limits in pixels, checked before any pixel is decoded.
        draft: Lets a JPEG be decoded at a fraction of its size that is still at least this many pixels.

    Raises:
        UnreadableMedia: Not a picture of these formats, or a broken one.
        TooLarge: Over a limit.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=tuple(formats))
        width, height = image.size
        if max(width, height) > max_side or width * height > max_pixels:
            raise TooLarge(
                f"{name} has {width}x{height} pixels; at most {max_side} a side and {max_pixels} in all are read"
            )
        if draft is not None and image.format == "JPEG":
            image.draft("RGB", (draft, draft))
        image.seek(0)
        image.load()
    except PILLOW_ERRORS as error:
        # Pillow's sentence for an unknown format names the object in memory, another one in every run.
        why = "no known format" if isinstance(error, UnidentifiedImageError) else str(error)[:120]
        raise UnreadableMedia(
            f"{name} is not a readable picture ({type(error).__name__}: {why}); replace the source object"
        ) from error
    return Picture(image, image.format or "", width, height)


def on_background(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """The picture in RGB, what is transparent showing `background`."""
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] != 255:
            image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def shrunk_exactly(image: Image.Image, block: int) -> Image.Image | None:
    """The picture with each `block` x `block` square as one pixel, or None unless every square has one colour."""
    width, height = image.size
    if width % block or height % block:
        return None
    small = image.resize((width // block, height // block), Image.Resampling.NEAREST)
    return small if small.resize((width, height), Image.Resampling.NEAREST).tobytes() == image.tobytes() else None


def block_size(image: Image.Image, *, least: int) -> int:
    """Largest whole factor by which the picture was enlarged, 1 if it was not.

    Args:
        least: Smallest side, in true pixels, that is believed; a plain area would count as enlarged by anything.
    """
    width, height = image.size
    for block in BLOCKS:
        if width % block or height % block or min(width, height) // block < least:
            continue
        middle = height // block // 2 * block
        # One row tells almost every other picture apart at a hundredth of the cost of all of them.
        row = image.crop((0, middle, width, middle + 1))
        short = row.resize((width // block, 1), Image.Resampling.NEAREST)
        if short.resize((width, 1), Image.Resampling.NEAREST).tobytes() != row.tobytes():
            continue
        if shrunk_exactly(image, block) is not None:
            return block
    return 1


def common_block(images: Sequence[Image.Image], *, least: int) -> int:
    """Largest factor that all of these pictures were enlarged by."""
    return math.gcd(*(block_size(image, least=least) for image in images))
