"""What bytes are, by their first bytes and never by a name: the one place that decides a MIME type (MEDIA-2).

Follows the rules of the PDS, whose sniffed type overrides the declared one (media facts, section 4), for the kinds
that occur here. Whether a file is sound is for its reader to say.
"""

from __future__ import annotations

HEAD = 32
"""Bytes that suffice for a verdict."""

UNKNOWN = "application/octet-stream"

_ISO_BRANDS = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"mif1": "image/heif",
    b"msf1": "image/heif-sequence",
    b"qt  ": "video/quicktime",
    b"M4V ": "video/x-m4v",
    b"M4VH": "video/x-m4v",
    b"M4VP": "video/x-m4v",
    b"M4A ": "audio/x-m4a",
    b"M4B ": "audio/mp4",
}


def sniff(data: bytes) -> str:
    """MIME type of a file's first bytes (32 suffice); `application/octet-stream` for anything unknown."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "application/zip"
    if data[4:8] == b"ftyp" and len(data) >= 12:
        brand = data[8:12].replace(b"\0", b" ")
        if brand.startswith(b"3g"):
            return "video/3gpp2" if brand.startswith(b"3g2") else "video/3gpp"
        return _ISO_BRANDS.get(brand, "video/mp4")
    return UNKNOWN
