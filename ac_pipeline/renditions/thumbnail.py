"""Thumbnails: any picture as 512x512, contain, in at most 100,000 bytes, the same bytes every time.

Pixel art stays exact (a palette PNG on a transparent letterbox), photo-like pictures become JPEG (media facts,
section 3). Fetching and keeping are not done here.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import PIL
from PIL import Image, ImageCms, ImageOps

from ac_pipeline.errors import InvalidRecord, TooLarge, UnreadableMedia
from ac_pipeline.renditions.pictures import PILLOW_ERRORS, block_size, on_background, open_picture, shrunk_exactly
from ac_pipeline.renditions.sniffing import sniff

SIDE = 512
CAP = 100_000
"""Bytes; satisfies every version of the lexicon, the strictest of which says 102,400."""

SOURCE_BYTES = 64 << 20
SOURCE_SIDE = 16_384
SOURCE_PIXELS = 50_000_000
"""A 9000x9000 one-bit PNG of a few KB takes 1.1 GB to handle; no painting comes near 50 million pixels."""

FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
BACKGROUND = (32, 32, 32)
"""Behind transparent pictures, as the platform's own `/api/pixel` has it; also the letterbox of a JPEG."""

EXACT_COLOURS = 255
"""A palette has 256 places; one is kept for the transparent letterbox."""
FEW_COLOURS = 8192
"""Above this a picture counts as photo-like: JPEG 4:4:4 is then about 10 dB better than a 256-colour PNG."""
QUALITIES = (95, 92, 88, 84, 78, 70, 60, 50, 40, 30, 20, 10)

SPEC = f"thumbnail/1 {SIDE}x{SIDE} contain max {CAP} Pillow {PIL.__version__}"
"""Names everything that decides the bytes; a new one makes new thumbnails of sources not rendered before."""

_SRGB = ImageCms.createProfile("sRGB")
_LEAST_PIXELS = 8


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A finished thumbnail; `details` tells people how it was made."""

    data: bytes
    mime_type: str
    width: int
    height: int
    details: Mapping[str, str | int | float | bool] = field(default_factory=dict)


def make_thumbnail(data: bytes, name: str = "the picture") -> Thumbnail:
    """The thumbnail of a picture file; of an animation, of its first picture.

    Args:
        data: PNG, JPEG, GIF or WebP; the content decides, not the name.
        name: What it is, for messages.

    Raises:
        UnreadableMedia: Not such a picture, or a broken one.
        TooLarge: Over 64 MiB, 16,384 pixels a side or 50 million pixels.
    """
    if len(data) > SOURCE_BYTES:
        raise TooLarge(f"{name} has {len(data)} bytes; at most {SOURCE_BYTES} are read")
    picture = open_picture(data, name, formats=FORMATS, max_side=SOURCE_SIDE, max_pixels=SOURCE_PIXELS, draft=SIDE)
    try:
        flat = on_background(_in_srgb(_eight_bit(_upright(picture.image))), BACKGROUND)
    except PILLOW_ERRORS as error:
        raise UnreadableMedia(f"{name} cannot be converted ({type(error).__name__}: {str(error)[:120]})") from error
    made = thumbnail_of(flat)
    # A draft-decoded JPEG is smaller than its file says.
    source: dict[str, str | int] = {
        "source_format": picture.format,
        "source_width": picture.width,
        "source_height": picture.height,
    }
    return replace(made, details={**made.details, **source})


def thumbnail_of(image: Image.Image) -> Thumbnail:
    """The thumbnail of a decoded RGB picture, such as a video's middle frame."""
    block = block_size(image, least=_LEAST_PIXELS)
    true = shrunk_exactly(image, block) if block > 1 else None
    fitted = _fit(true if true is not None else image)
    data, how = _encode(fitted)
    details: dict[str, str | int | float | bool] = {
        "source_width": image.width,
        "source_height": image.height,
        "encoding": how,
    }
    return Thumbnail(data, sniff(data), SIDE, SIDE, details)


def check_thumbnail(data: bytes) -> None:
    """Refuse anything that is not a thumbnail: the last gate before one is kept and published (MEDIA-1).

    Raises:
        InvalidRecord: Not a PNG or JPEG of 512x512 pixels, or a broken one.
        TooLarge: Over 100,000 bytes.
    """
    mime_type = sniff(data)
    if mime_type not in ("image/png", "image/jpeg"):
        raise InvalidRecord(f"A thumbnail must be PNG or JPEG; these bytes are {mime_type}")
    if len(data) > CAP:
        raise TooLarge(f"A thumbnail may have {CAP} bytes; this one has {len(data)}")
    try:
        picture = open_picture(
            data, "the thumbnail", formats=("PNG", "JPEG"), max_side=SOURCE_SIDE, max_pixels=SOURCE_PIXELS
        )
    except (UnreadableMedia, TooLarge) as error:
        raise InvalidRecord(error.message) from error
    if (picture.width, picture.height) != (SIDE, SIDE):
        raise InvalidRecord(
            f"A thumbnail must have {SIDE}x{SIDE} pixels; this one has {picture.width}x{picture.height}"
        )


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says; copying is left out where there is nothing to turn."""
    return ImageOps.exif_transpose(image) if image.getexif().get(0x0112, 1) != 1 else image


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit and floating-point greys as 8-bit; Pillow's own conversion would clip them to white."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65_535) // 257).astype(np.uint8))
    return image.convert("L") if image.mode == "F" else image


def _in_srgb(image: Image.Image) -> Image.Image:
    """Colours of an embedded profile as sRGB; a broken profile is passed over, as browsers do."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return image
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        return ImageCms.profileToProfile(image, source, _SRGB, outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError):  # OSError: bytes that are no profile at all
        return image


def _fit(image: Image.Image) -> Image.Image:
    """Scaled to fit 512x512: enlarged by nearest neighbour, a palette made first (exact, and a third of the work);
    shrunk by Lanczos."""
    width, height = image.size
    ratio = min(SIDE / width, SIDE / height)
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    if width < SIDE or height < SIDE:
        return (_with_palette(image) or image).resize(size, Image.Resampling.NEAREST)
    if size == image.size:
        return image
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def _with_palette(image: Image.Image) -> Image.Image | None:
    """An RGB picture of few colours as an exact palette picture, colours sorted so that equal pixels give equal
    bytes; None if it has too many."""
    colours = image.getcolors(EXACT_COLOURS)
    if colours is None:
        return None
    palette = sorted(colour for _, colour in colours if isinstance(colour, tuple))
    pixels = np.asarray(image).astype(np.uint32)
    packed = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
    keys = np.array([(r << 16) | (g << 8) | b for r, g, b in palette], np.uint32)
    result = Image.frombytes("P", image.size, np.searchsorted(keys, packed).astype(np.uint8).tobytes())
    result.putpalette([part for colour in palette for part in colour])
    return result


def _encode(fitted: Image.Image) -> tuple[bytes, str]:
    """The first of: exact palette PNG, few-colour PNG, 255-colour PNG, ever smaller JPEG, that fits the cap."""
    exact = fitted if fitted.mode == "P" else _with_palette(fitted)
    if exact is not None and len(data := _palette_png(exact)) <= CAP:
        return data, "palette PNG"
    colour = fitted.convert("RGB")
    if exact is None and colour.getcolors(FEW_COLOURS) is not None:
        if len(data := _png(_on_clear(colour))) <= CAP:
            return data, "PNG"
        reduced = colour.quantize(EXACT_COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        if len(data := _palette_png(reduced)) <= CAP:
            return data, "reduced PNG"
    canvas = Image.new("RGB", (SIDE, SIDE), BACKGROUND)
    canvas.paste(colour, _corner(colour))
    for quality in QUALITIES:
        file = io.BytesIO()
        # subsampling 0 is 4:4:4: with 4:2:0 one-pixel art loses its colours.
        canvas.save(file, "JPEG", quality=quality, subsampling=0, optimize=True, progressive=True)
        if file.tell() <= CAP:
            return file.getvalue(), f"JPEG {quality}"
    raise TooLarge(f"No thumbnail of this picture fits {CAP} bytes")


def _palette_png(image: Image.Image) -> bytes:
    """A palette picture on a transparent letterbox, whose colour is the place after the last used one."""
    if image.size == (SIDE, SIDE):
        return _png(image)
    palette = image.getpalette() or []
    clear = len(palette) // 3
    canvas = Image.new("P", (SIDE, SIDE), clear)
    canvas.putpalette([*palette, 0, 0, 0])
    canvas.paste(image, _corner(image))
    return _png(canvas, transparency=clear)


def _on_clear(image: Image.Image) -> Image.Image:
    if image.size == (SIDE, SIDE):
        return image
    canvas = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    canvas.paste(image, _corner(image))
    return canvas


def _png(image: Image.Image, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=9, **options)
    return file.getvalue()


def _corner(image: Image.Image) -> tuple[int, int]:
    return (SIDE - image.width) // 2, (SIDE - image.height) // 2
