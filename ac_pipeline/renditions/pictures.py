"""Reading untrusted pictures with Pillow: limits before pixels, named errors after.

Pillow is given only those parts of a file that decide the pixels: broken or huge side information (text, EXIF, XMP,
profiles, application data) never costs a picture. Orientation and colour profile are read here and applied while the
picture is made plain RGB. What a file is, is told from its first bytes.
"""

from __future__ import annotations

import ctypes
import io
import re
import struct
import threading
import traceback
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

from ac_pipeline.errors import TooLarge, UnreadableMedia

HEAD = 32  # Bytes that suffice for a verdict

UNKNOWN = "application/octet-stream"

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"

# MIME type -> how a file begins, as a pattern; the first that fits counts
_BEGINNINGS = {
    "image/png": re.escape(_PNG),
    "image/jpeg": _JPEG + b"\xff",
    "image/gif": b"GIF8[79]a",
    "image/webp": b"RIFF....WEBP",
    "application/zip": b"PK(\x03\x04|\x05\x06)",
    "image/avif": b"....ftypavi[fs]",
    "image/heic": b"....ftyphei[cx]",
    "image/heif": b"....ftypmif1",
    "image/heif-sequence": b"....ftypmsf1",
    "video/quicktime": b"....ftypqt[ \0]{2}",
    "video/x-m4v": b"....ftypM4V[ \0HP]",
    "audio/x-m4a": b"....ftypM4A[ \0]",
    "audio/mp4": b"....ftypM4B[ \0]",
    "video/3gpp2": b"....ftyp3g2",
    "video/3gpp": b"....ftyp3g",
    "video/mp4": b"....ftyp....",
}
_KINDS = [(mime_type, re.compile(pattern, re.DOTALL)) for mime_type, pattern in _BEGINNINGS.items()]


def sniff(data: bytes) -> str:
    """MIME type of a file's first bytes (32 suffice); `application/octet-stream` for anything unknown."""
    return next((mime_type for mime_type, beginning in _KINDS if beginning.match(data)), UNKNOWN)


# Pillow keeps these for the whole process, so they are set once, here, and by nobody else.
ImageFile.LOAD_TRUNCATED_IMAGES = False
# A noisy JPEG saved as optimised or progressive needs its whole output in one buffer; the default 64 KiB fails with
# "broken data stream when writing" (media facts, section 3).
ImageFile.MAXBLOCK = 8 << 20
# Memory in pieces above 32 MiB goes back to the system at once; of Pillow's usual 16 MiB each thread's heap keeps many.
Image.core.set_block_size(64 << 20)  # type: ignore[attr-defined]
# Pillow's own limit warns, once per process and by the wrong name; `open_picture` checks every header instead.
Image.MAX_IMAGE_PIXELS = None

# What Pillow's decoders raise on broken input, found by feeding them broken input
PILLOW_ERRORS: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError)
PILLOW_ERRORS += (OverflowError, NotImplementedError, struct.error, zlib.error)

BLOCKS = (16, 12, 10, 8, 6, 5, 4, 3, 2)

# Parts of one file that are looked at: 64 MiB of PNG in the smallest chunks that encoders write are a tenth of it
MOST_CHUNKS = 100_000
_EXIF_BYTES = 1 << 20
_PROFILE_BYTES = 4 << 20  # Unpacked. Profiles of printing presses have 3 MiB; larger ones are passed over.
_STRIP_PIXELS = 1 << 18  # Converted at a time, so that a conversion never holds several copies of a whole picture

_EIGHT_BITS = [value // 257 for value in range(65_536)]
_SRGB = ImageCms.createProfile("sRGB")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture, upright and in sRGB, with the format and the size in pixels that its file declares."""

    image: Image.Image
    format: str
    width: int
    height: int


@contextmanager
def open_picture(
    source: bytes | Path,  # The file, or its bytes
    name: str,
    *,
    formats: Sequence[str],  # Those taken, of PNG, JPEG, GIF and WEBP; the content decides, never the extension
    max_side: int,  # Limits in pixels, checked before any pixel is decoded
    max_pixels: int,
    background: tuple[int, int, int],  # Shown where the picture is transparent
    draft: int | None = None,  # Lets a JPEG be decoded at a fraction of its size, still at least this many pixels
) -> Iterator[Picture]:
    """The first picture in a file, decoded to RGB; there while the context is open, and its memory is reserved so long.
    Raises UnreadableMedia (not a picture of these formats, or a broken one), TooLarge (over a limit)."""
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
        try:
            parts = _parts(file, name, formats)
        except PILLOW_ERRORS as error:
            raise _unreadable(name, error) from error
        width, height = parts.width, parts.height
        if max(width, height) > max_side or width * height > max_pixels:
            most = f"at most {max_side} a side and {max_pixels} in all are read"
            raise TooLarge(f"{name} has {width}x{height} pixels; {most}")
        with DECODING.reserve(parts.memory(draft), f"{name} ({width}x{height} pixels)"):
            try:
                image = _decode(parts, file, draft, background)
            except PILLOW_ERRORS as error:
                raise _unreadable(name, error) from error
            try:
                yield Picture(image, parts.format, width, height)
            finally:
                image.close()  # its memory is given back now, whoever still names it


def _unreadable(name: str, error: Exception) -> UnreadableMedia:
    # Pillow's sentence for an unknown format names the object in memory, another one in every run.
    why = "no known format" if isinstance(error, UnidentifiedImageError) else str(error)[:120]
    kind = type(error).__name__
    return UnreadableMedia(f"{name} is not a readable picture ({kind}: {why}); replace the source object")


# ---------------------------------------------------------------------------------------------- what decides a picture


@dataclass(slots=True)
class _Parts:
    format: str
    width: int = 0
    height: int = 0
    pieces: list[bytes | range] = field(default_factory=list)  # For Pillow, in order: bytes, and ranges of the file
    exif: bytes = b""
    profile: bytes = b""
    depth: int = 8  # Bits of a sample in a PNG
    layers: int = 0  # Components of a JPEG

    @property
    def bytes(self) -> int:
        return sum(map(len, self.pieces))

    def memory(self, draft: int | None) -> int:
        """Bytes that decoding takes at most, measured for each format."""
        pixels = self.width * self.height
        if self.format == "WEBP":
            return self.bytes + 20 * pixels
        shrunk = min(self.width, self.height) // draft if self.format == "JPEG" and draft else 1
        scale = next((scale for scale in (8, 4, 2) if shrunk >= scale), 1)
        # A JPEG in several scans is held whole, as coefficients of two bytes.
        return self.bytes + 2 * self.layers * pixels + 8 * pixels // scale**2

    def keep(self, start: int, end: int) -> None:
        last = self.pieces[-1] if self.pieces else None
        if isinstance(last, range) and last.stop == start:
            self.pieces[-1] = range(last.start, end)
        else:
            self.pieces.append(range(start, end))

    def read(self, file: BinaryIO) -> io.BytesIO:
        whole = io.BytesIO()
        for piece in self.pieces:
            if isinstance(piece, range):
                file.seek(piece.start)
            whole.write(piece if isinstance(piece, bytes) else file.read(len(piece)))
        whole.seek(0)
        return whole


def _parts(file: BinaryIO, name: str, formats: Sequence[str]) -> _Parts:
    head = file.read(16)
    kind = "image/jpeg" if head.startswith(_JPEG) else sniff(head)
    readers = {"image/png": _png, "image/jpeg": _jpeg, "image/gif": _gif, "image/webp": _webp}
    if kind not in readers or kind.rpartition("/")[2].upper() not in formats:
        raise UnidentifiedImageError("no known format")
    try:
        return readers[kind](file, iter(range(MOST_CHUNKS)))
    except StopIteration:
        raise TooLarge(f"{name} has more than {MOST_CHUNKS} parts") from None


def _png(file: BinaryIO, count: Iterator[int]) -> _Parts:
    """All critical chunks, and `tRNS` where it is as it has to be; what is cut off is for the decoder to refuse."""
    parts, at, size = _Parts("PNG", pieces=[_PNG]), len(_PNG), file.seek(0, io.SEEK_END)
    colours, seen = -1, set()
    while at < size:
        next(count)
        file.seek(at)
        head = file.read(8)
        length, kind = struct.unpack(">I4s", head) if len(head) == 8 else (size, b"")
        end = at + 12 + length
        if end > size or not kind.isalpha():
            parts.keep(at, size)
            break
        if kind == b"IHDR" and length >= 13:
            parts.width, parts.height, parts.depth, colours = struct.unpack(">IIBB", file.read(10))
        if not kind[0] & 0x20:
            parts.keep(at, end)
        elif kind not in seen and kind in (b"tRNS", b"eXIf", b"iCCP") and length <= _PROFILE_BYTES:
            data = file.read(length)
            if file.read(4) == struct.pack(">I", zlib.crc32(kind + data)):
                if kind == b"eXIf":
                    parts.exif = data[:_EXIF_BYTES]
                elif kind == b"iCCP":
                    parts.profile = _unpacked(data.partition(b"\0")[2][1:])
                elif b"IDAT" not in seen and {0: length == 2, 2: length == 6, 3: 0 < length <= 256}.get(colours):
                    parts.keep(at, end)
        seen.add(kind)
        at = end
        if kind == b"IEND":
            break
    return parts


def _unpacked(data: bytes) -> bytes:
    """A compressed profile; empty if it is broken or too large."""
    try:
        profile = zlib.decompressobj().decompress(data, _PROFILE_BYTES + 1)
    except zlib.error:
        return b""
    return profile if len(profile) <= _PROFILE_BYTES else b""


def _jpeg(file: BinaryIO, count: Iterator[int]) -> _Parts:
    """All segments but comments and application data; of those, what tells the colour space: JFIF and Adobe."""
    parts, at, size = _Parts("JPEG", pieces=[_JPEG]), len(_JPEG), file.seek(0, io.SEEK_END)
    profile: dict[int, bytes] = {}
    fragments = 0
    while True:
        next(count)
        file.seek(at)
        head = file.read(4)
        marker, length = struct.unpack(">HH", head) if len(head) == 4 else (0, 0)
        if marker == 0xFFFF:
            at += 1
            continue
        end = at + 2 + length
        if not 0xFFC0 <= marker <= 0xFFFE or 0xFFD0 <= marker <= 0xFFDA or length < 2 or end > size:
            parts.keep(at, size)  # the scan, or what is broken
            break
        data = file.read(length - 2)
        if 0xFFE0 <= marker <= 0xFFEF or marker == 0xFFFE:
            if marker == 0xFFE1 and data.startswith(b"Exif\0\0") and not parts.exif:
                parts.exif = data
            elif marker == 0xFFE2 and data.startswith(b"ICC_PROFILE\0") and len(data) > 14:
                profile[data[12]], fragments = data[14:], data[13]
            elif (marker == 0xFFE0 and data.startswith(b"JFIF\0") and length >= 16) or (
                marker == 0xFFEE and data.startswith(b"Adobe") and length >= 14
            ):
                parts.keep(at, end)
        else:
            if marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC) and len(data) >= 6:
                parts.height, parts.width, parts.layers = struct.unpack_from(">HHB", data, 1)
            parts.keep(at, end)
        at = end
    if sorted(profile) == list(range(1, fragments + 1)):
        parts.profile = b"".join(data for _, data in sorted(profile.items()))[:_PROFILE_BYTES]
    return parts


def _webp(file: BinaryIO, count: Iterator[int]) -> _Parts:
    """The picture's own chunks, of an animation those of its first picture."""
    parts, at, size, frames = _Parts("WEBP"), 12, file.seek(0, io.SEEK_END), 0
    file.seek(4)
    size = min(size, 8 + struct.unpack("<I", file.read(4))[0])
    while at < size:
        next(count)
        file.seek(at)
        head = file.read(18)
        kind, length = head[:4], struct.unpack_from("<I", head, 4)[0] if len(head) >= 8 else size
        end = at + 8 + length + length % 2
        if not parts.width and len(head) == 18:
            parts.width, parts.height = _webp_size(kind, head + file.read(12))
        if end - length % 2 > size:
            parts.keep(at, size)
            break
        if kind == b"VP8X" and len(head) == 18:
            parts.pieces.append(head[:8] + bytes([head[8] & ~0x2C]) + head[9:])  # says that side information follows
            parts.keep(at + 18, end)
        elif kind in (b"ALPH", b"VP8 ", b"VP8L", b"ANIM") or (kind == b"ANMF" and not frames):
            frames += kind == b"ANMF"
            parts.keep(at, min(end, size))
        elif kind in (b"EXIF", b"ICCP") and length <= _PROFILE_BYTES:
            file.seek(at + 8)
            if kind == b"EXIF":
                parts.exif = parts.exif or file.read(min(length, _EXIF_BYTES))
            else:
                parts.profile = parts.profile or file.read(length)
        at = end
    parts.pieces.insert(0, b"RIFF" + struct.pack("<I", 4 + parts.bytes) + b"WEBP")
    return parts


def _webp_size(kind: bytes, head: bytes) -> tuple[int, int]:
    """Width and height as the beginning of the first chunk has them."""

    def number(start: int, end: int) -> int:
        return int.from_bytes(head[start:end], "little")

    if kind == b"VP8X":
        return 1 + number(12, 15), 1 + number(15, 18)
    if kind == b"VP8 ":
        return number(14, 16) & 0x3FFF, number(16, 18) & 0x3FFF
    if kind == b"VP8L":
        return (number(9, 13) & 0x3FFF) + 1, (number(9, 13) >> 14 & 0x3FFF) + 1
    return 0, 0


def _gif(file: BinaryIO, count: Iterator[int]) -> _Parts:
    """The whole file: Pillow reads its headers without decoding, and passes over extensions by itself."""
    file.seek(0)
    width, height = Image.open(file, formats=("GIF",)).size
    return _Parts("GIF", width, height, pieces=[range(file.seek(0, io.SEEK_END))])


def _orientation(exif: bytes) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or the EXIF is broken."""
    exif = re.sub(rb"\A(?:Exif\0\0)*", b"", exif)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    with suppress(struct.error):
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, at)
        for entry in range(entries):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, at + 2 + 12 * entry)
            if tag == 0x0112 and kind == 3:
                return value if value in _UPRIGHT else 1
    return 1


# ----------------------------------------------------------------------------------------------------- pixels to RGB


def _decode(parts: _Parts, file: BinaryIO, draft: int | None, background: tuple[int, int, int]) -> Image.Image:
    image = Image.open(parts.read(file), formats=(parts.format,))
    try:
        if image.size != (parts.width, parts.height):
            raise ValueError(f"its size is {image.width}x{image.height}, not {parts.width}x{parts.height}")  # noqa: TRY301
        if draft is not None and parts.format == "JPEG":
            image.draft("RGB", (draft, draft))
        image.seek(0)
        image.load()
        _correct_transparency(image, parts.depth)
        flat = _flat(image, parts.profile, background)
        orientation = _orientation(parts.exif)
        if flat is not image:
            image.close()
        return flat.transpose(_UPRIGHT[orientation]) if orientation != 1 else flat
    except BaseException:
        image.close()  # the error may be kept, and names the picture
        raise


def _correct_transparency(image: Image.Image, depth: int) -> None:
    """The transparent colour of a PNG as the samples that Pillow has made: it keeps the one of the file."""
    clear = image.info.get("transparency")
    if image.mode == "L" and isinstance(clear, int):
        image.info["transparency"] = (clear & (1 << depth) - 1) * (255 // ((1 << depth) - 1))
    elif image.mode == "RGB" and isinstance(clear, tuple):
        image.info["transparency"] = tuple(sample >> 8 if depth == 16 else sample & 0xFF for sample in clear)


def _flat(image: Image.Image, profile: bytes, background: tuple[int, int, int]) -> Image.Image:
    """The picture in RGB and sRGB, what is transparent showing `background`: mode and alpha first, then colour."""
    to_srgb = _to_srgb(profile, image.mode)
    if image.mode == "RGB" and to_srgb is None and "transparency" not in image.info:
        image.info.clear()
        return image
    flat = Image.new("RGB", image.size)
    for top, strip in strips(image):
        colour, alpha = _colour_and_alpha(strip)
        if to_srgb is not None:
            colour = ImageCms.applyTransform(colour, to_srgb) or colour
        colour = colour.convert("RGB")
        if alpha is not None and alpha.getextrema()[0] != 255:
            colour.putalpha(alpha)
            colour = Image.alpha_composite(Image.new("RGBA", colour.size, (*background, 255)), colour).convert("RGB")
        flat.paste(colour, (0, top))
    return flat


def _colour_and_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """A picture as L, RGB or CMYK, and its alpha, None if it is opaque."""
    clear = image.info.get("transparency")
    if image.mode.startswith("I"):
        wide = image.convert("I")  # Pillow's own conversion of 16-bit greys would clip them to white.
        grey = wide.point(_EIGHT_BITS, "L")
        return grey, None if clear is None else wide.point([255 * (v != clear) for v in range(65_536)], "L")
    if image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or clear is not None:
        image = image.convert("LA" if image.mode in ("L", "LA", "1") else "RGBA")
        return image.convert(image.mode.rstrip("A")), image.getchannel("A")
    if image.mode == "1":
        return image.convert("L"), None
    return image if image.mode in ("L", "CMYK") else image.convert("RGB"), None


def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What turns colours of this profile into sRGB; None if they are sRGB, or the profile is broken or for pictures of
    another kind: it is passed over, as browsers do."""
    if not profile:
        return None
    space = {"CMYK": "CMYK", "L": "L", "LA": "L", "1": "L"}.get(mode, "L" if mode.startswith("I") else "RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        return ImageCms.buildTransform(source, _SRGB, space, "RGB")
    except (ImageCms.PyCMSError, OSError):  # OSError: bytes that are no profile at all
        return None


# -------------------------------------------------------------------------------------------- pixels that are enlarged


def strips(image: Image.Image, enlarged: int = 1) -> Iterator[tuple[int, Image.Image]]:
    """Top edge and pixels of one horizontal part after the other: what is done strip by strip takes little memory.
    `enlarged`: by how much the strips are enlarged afterwards."""
    rows = max(1, _STRIP_PIXELS // (image.width * enlarged**2))
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(image.height, top + rows)))


def shrunk_exactly(image: Image.Image, block: int) -> Image.Image | None:
    """The picture with each `block` x `block` square as one pixel, or None unless every square has one colour."""
    width, height = image.size
    if width % block or height % block:
        return None
    small = image.resize((width // block, height // block), Image.Resampling.NEAREST)
    for top, strip in strips(small, block):
        enlarged = strip.resize((width, strip.height * block), Image.Resampling.NEAREST)
        if enlarged.tobytes() != image.crop((0, top * block, width, top * block + enlarged.height)).tobytes():
            return None
    return small


def block_size(image: Image.Image, *, least: int) -> int:
    """Largest whole factor by which the picture was enlarged, 1 if it was not. `least`: smallest side, in true pixels,
    that is believed; a plain area would count as enlarged by anything."""
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


_LARGE = 16 << 20
# Gives back to the system what the heaps of glibc keep of freed memory, one heap for each thread
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


class MemoryBudget:
    """A number of bytes, given out in the order in which they are asked for."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, size: int, name: str) -> Iterator[None]:
        """Wait for `size` bytes and hold them while the context is open. Raises TooLarge: more than there is for the
        whole process; the message begins with `name`."""
        if size > self.total:
            raise TooLarge(f"{name} takes {size >> 20} MiB to decode; at most {self.total >> 20} MiB are used for that")
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and size <= self._free)
                self._free -= size
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        except BaseException as error:
            # An error may be kept for long, and with it the pixels that its frames name.
            cause: BaseException | None = error
            while cause is not None:
                traceback.clear_frames(cause.__traceback__)
                cause = cause.__cause__
            raise
        finally:
            if size > _LARGE and _trim is not None:
                _trim(0)
            with self._changed:
                self._free += size
                self._changed.notify_all()


DECODING = MemoryBudget(448 << 20)
FRAMES = MemoryBudget(256 << 20)
FRAME_COST = 12  # Bytes for each pixel of a tape's frames: the one under way, the next one and the raw pixels
