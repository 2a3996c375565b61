"""The smallest Matroska stream that carries raw RGB frames with exact times, so that ffmpeg can read uneven
durations from a pipe (media facts, section 2.1). Nothing else of the format is here.

Element ids and types: RFC 9559; sizes and integers: RFC 8794 (EBML).
"""

from __future__ import annotations

import struct

TICK_NS = 10_000
"""One tick is 10 microseconds: a frame's time is right to 0.005 ms."""

_UNKNOWN_SIZE = b"\x01" + b"\xff" * 7
_EBML, _SEGMENT, _INFO, _TRACKS, _CLUSTER = "1A45DFA3", "18538067", "1549A966", "1654AE6B", "1F43B675"


def _element(id: str, body: bytes) -> bytes:
    return bytes.fromhex(id) + _size(len(body)) + body


def _size(length: int) -> bytes:
    return (length | 1 << 56).to_bytes(8, "big")


def _integer(id: str, value: int) -> bytes:
    return _element(id, value.to_bytes(8, "big"))


def stream_header(width: int, height: int) -> bytes:
    """What precedes the first frame: one track of uncompressed 24-bit RGB of this size in pixels."""
    ebml = (
        _integer("4286", 1)  # EBMLVersion
        + _integer("42F7", 1)  # EBMLReadVersion
        + _integer("42F2", 4)  # EBMLMaxIDLength
        + _integer("42F3", 8)  # EBMLMaxSizeLength
        + _element("4282", b"matroska")  # DocType
        + _integer("4287", 4)  # DocTypeVersion
        + _integer("4285", 2)  # DocTypeReadVersion
    )
    info = _integer("2AD7B1", TICK_NS) + _element("4D80", b"t") + _element("5741", b"t")  # scale, apps
    video = _integer("B0", width) + _integer("BA", height) + _element("2EB524", b"RGB\x18")  # UncompressedFourCC
    track = (
        _integer("D7", 1)  # TrackNumber
        + _integer("73C5", 1)  # TrackUID
        + _integer("83", 1)  # TrackType: video
        + _integer("9C", 0)  # FlagLacing
        + _element("86", b"V_UNCOMPRESSED")
        + _integer("23E383", round(1e9 / 60))  # DefaultDuration; every block carries its own
        + _element("E0", video)
    )
    head = _element(_EBML, ebml) + bytes.fromhex(_SEGMENT) + _UNKNOWN_SIZE
    return head + _element(_INFO, info) + _element(_TRACKS, _element("AE", track))


def frame_header(start: float, duration: float, length: int) -> bytes:
    """What precedes the `length` raw bytes of one frame, shown from `start` for `duration` milliseconds."""
    begin, end = round(start * 1e6 / TICK_NS), round((start + duration) * 1e6 / TICK_NS)
    lasting = _integer("9B", max(1, end - begin))  # BlockDuration
    block = b"\xa1" + _size(length + 4) + b"\x81" + struct.pack(">hB", 0, 0)
    group = b"\xa0" + _size(len(lasting) + len(block) + length) + lasting + block
    time = _integer("E7", begin)
    return bytes.fromhex(_CLUSTER) + _size(len(time) + len(group) + length) + time + group
