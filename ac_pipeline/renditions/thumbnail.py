"""Thumbnails: any picture as 512x512, contain, in at most 100,000 bytes, the same bytes every time.

Pixel art stays exact (a palette PNG on a transparent letterbox), photo-like pictures become JPEG (media facts, 3).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import PIL
from PIL import Image

from ac_pipeline.errors import InvalidRecord, TooLarge, UnreadableMedia
from ac_pipeline.renditions.pictures import block_size, open_picture, shrunk_exactly, sniff, strips

SIDE = 512
CAP = 100_000  # Bytes; satisfies every version of the lexicon, the strictest of which says 102,400

SOURCE_BYTES = 64 << 20
# A 9000x9000 one-bit PNG of a few KB takes 1.1 GB to handle; no painting comes near 50 million pixels.
_LIMITS = {"max_side": 16_384, "max_pixels": 50_000_000}

FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
# Behind transparent pictures, as the platform's own `/api/pixel` has it; also the letterbox of a JPEG
BACKGROUND = (32, 32, 32)

EXACT_COLOURS = 255  # A palette has 256 places; one is kept for the transparent letterbox
# Above this a picture counts as photo-like: JPEG 4:4:4 is then about 10 dB better than a 256-colour PNG
FEW_COLOURS = 8192
QUALITIES = (95, 92, 88, 84, 78, 70, 60, 50, 40, 30, 20, 10)

# Names everything that decides the bytes; a new one makes new thumbnails of sources not rendered before
SPEC = f"thumbnail/1 {SIDE}x{SIDE} contain max {CAP} Pillow {PIL.__version__}"


@dataclass(frozen=True, slots=True)
class Product:
    """One finished blob with its sniffed MIME type; `details` tells people how it was made."""

    data: bytes
    mime_type: str
    details: Mapping[str, str | int | float | bool] = field(default_factory=dict)


def make_thumbnail(source: bytes | Path, name: str = "the picture") -> Product:
    """The thumbnail of a picture file; of an animation, of its first picture. `source`: PNG, JPEG, GIF or WebP, or the
    path of one; the content decides, not the name. Raises UnreadableMedia (not such a picture, or a broken one),
    TooLarge (over 64 MiB, 16,384 pixels a side or 50 million pixels, or more than is decoded in memory)."""
    length = source.stat().st_size if isinstance(source, Path) else len(source)
    if length > SOURCE_BYTES:
        raise TooLarge(f"{name} has {length} bytes; at most {SOURCE_BYTES} are read")
    with open_picture(source, name, formats=FORMATS, background=BACKGROUND, draft=SIDE, **_LIMITS) as picture:
        made = thumbnail_of(picture.image)
    # A draft-decoded JPEG is smaller than its file says.
    size = {"source_width": picture.width, "source_height": picture.height}
    return replace(made, details={**made.details, "source_format": picture.format, **size})


def thumbnail_of(image: Image.Image) -> Product:
    """The thumbnail of a decoded RGB picture, such as a video's middle frame."""
    block = block_size(image, least=8)
    true = shrunk_exactly(image, block) if block > 1 else None
    fitted = _fit(true if true is not None else image)
    data, how = _encode(fitted)
    return Product(data, sniff(data), {"source_width": image.width, "source_height": image.height, "encoding": how})


def check_thumbnail(data: bytes) -> None:
    """Refuse anything that is not a thumbnail: the last gate before one is kept and published (MEDIA-1). Raises
    InvalidRecord (not a PNG or JPEG of 512x512 pixels, or a broken one), TooLarge (over 100,000 bytes)."""
    mime_type = sniff(data)
    if mime_type not in ("image/png", "image/jpeg"):
        raise InvalidRecord(f"A thumbnail must be PNG or JPEG; these bytes are {mime_type}")
    if len(data) > CAP:
        raise TooLarge(f"A thumbnail may have {CAP} bytes; this one has {len(data)}")
    try:
        with open_picture(data, "the thumbnail", formats=("PNG", "JPEG"), background=BACKGROUND, **_LIMITS) as picture:
            size = (picture.width, picture.height)
    except (UnreadableMedia, TooLarge) as error:
        raise InvalidRecord(error.message) from error
    if size != (SIDE, SIDE):
        raise InvalidRecord(f"A thumbnail must have {SIDE}x{SIDE} pixels; this one has {size[0]}x{size[1]}")


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
    places = {colour: place for place, colour in enumerate(palette)}
    result = Image.new("P", image.size)
    for top, strip in strips(image):
        # With as many places as colours each colour keeps its own.
        made = strip.quantize(len(palette), method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        found = made.getpalette() or []
        order = [places.get((found[at], found[at + 1], found[at + 2]), 0) for at in range(0, len(found), 3)]
        result.paste(made.point(order + [0] * (256 - len(order))), (0, top))
    result.putpalette([part for colour in palette for part in colour])
    return result


def _encode(fitted: Image.Image) -> tuple[bytes, str]:
    """The first of: exact palette PNG, few-colour PNG, 255-colour PNG, ever smaller JPEG, that fits the cap."""
    exact = fitted if fitted.mode == "P" else _with_palette(fitted)
    if exact is not None and len(data := _palette_png(exact)) <= CAP:
        return data, "palette PNG"
    colour = fitted.convert("RGB")
    if exact is None and colour.getcolors(FEW_COLOURS) is not None:
        clear = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
        if len(data := _png(colour if colour.size == clear.size else _centred(colour, clear))) <= CAP:
            return data, "PNG"
        reduced = colour.quantize(EXACT_COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        if len(data := _palette_png(reduced)) <= CAP:
            return data, "reduced PNG"
    canvas = _centred(colour, Image.new("RGB", (SIDE, SIDE), BACKGROUND))
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
    return _png(_centred(image, canvas), transparency=clear)


def _centred(image: Image.Image, canvas: Image.Image) -> Image.Image:
    canvas.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return canvas


def _png(image: Image.Image, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=9, **options)
    return file.getvalue()
