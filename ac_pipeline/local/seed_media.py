"""The objects of the demo: which bytes they hold. Sound ones come from `artwork.py`, damaged ones are made of those."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache, partial

from ac_pipeline.local import artwork
from ac_pipeline.local.seed_maker import Maker

SHARED_PICTURES = 40
"""So many pictures are used by more than one painting."""

_SIZES = ((16, 16), (32, 32), (64, 64), (96, 64), (128, 72), (128, 128), (160, 90), (256, 144), (64, 128))
_HTML = b"<!doctype html><title>Not found</title>"


def picture(maker: Maker) -> Callable[[], bytes]:
    """A small picture in few colours: one in eight from a pool that others use as well."""
    if maker.random.random() < 1 / 8:
        number = maker.random.randrange(SHARED_PICTURES)
        return partial(_shared, number)
    width, height = maker.random.choice(_SIZES)
    return partial(artwork.pixel_art, width, height, seed=maker.random.getrandbits(32))


def enlarged_picture(maker: Maker) -> Callable[[], bytes]:
    """Pixel art of 1,536 x 1,024 real pixels, six to a side."""
    return partial(artwork.pixel_art, 256, 170, seed=maker.random.getrandbits(32), scale=6)


def clear_picture(maker: Maker) -> Callable[[], bytes]:
    """A picture with a transparent ground."""
    return partial(artwork.pixel_art, 96, 96, seed=maker.random.getrandbits(32), transparent=True)


def single_pixel(maker: Maker) -> Callable[[], bytes]:
    return partial(artwork.pixel_art, 4, 1, seed=maker.random.getrandbits(32))


def photo(maker: Maker) -> Callable[[], bytes]:
    """A PNG with more colours than a palette holds."""
    return partial(artwork.photo_like, 480, 320, seed=maker.random.getrandbits(32))


def jpeg(maker: Maker) -> Callable[[], bytes]:
    """A JPEG, whatever its name will be."""
    return partial(artwork.photo_like, 320, 240, seed=maker.random.getrandbits(32), format="JPEG")


def cut_picture(maker: Maker) -> Callable[[], bytes]:
    """A PNG whose second half was never written."""
    whole = partial(artwork.pixel_art, 64, 64, seed=maker.random.getrandbits(32))
    return partial(_half, whole)


def web_page(maker: Maker) -> Callable[[], bytes]:
    """An error page that was stored in place of a picture."""
    return partial(bytes, _HTML)


def recording(maker: Maker) -> Callable[[], bytes]:
    return partial(artwork.recording_zip, maker.random.getrandbits(32))


def tape(maker: Maker, *, sound: bool = False, layout: artwork.Layout = "posted") -> Callable[[], bytes]:
    """A tape of 20 to 90 small frames at uneven times; in the early layout of fewer, as its frames are enlarged."""
    draw = maker.random
    frames = draw.randint(8, 14) if layout == "early" else draw.randint(20, 90)
    width, height = draw.choice(
        ((96, 54), (96, 64), (64, 64)) if layout == "early" else ((128, 72), (96, 96), (129, 75))
    )
    durations = [round(artwork.FRAME_MS + draw.choice((0, 0, 0, 0, 16.667, 33.3)), 3) for _ in range(frames)]
    return partial(
        artwork.tape_zip,
        frames,
        width,
        height,
        seed=draw.getrandbits(32),
        durations=durations,
        sound=sound,
        layout=layout,
    )


def one_frame_tape(maker: Maker) -> Callable[[], bytes]:
    return partial(artwork.tape_zip, 1, 64, 64, seed=maker.random.getrandbits(32), durations=[100.0])


def cut_tape(maker: Maker) -> Callable[[], bytes]:
    """A ZIP whose second half, and with it the directory, was never written."""
    return partial(_half, tape(maker))


def video(maker: Maker, *, sound: bool = False) -> Callable[[], bytes]:
    """A finished MP4 of one to two seconds."""
    return partial(
        artwork.tape_mp4, maker.random.randint(30, 60), 256, 144, seed=maker.random.getrandbits(32), sound=sound
    )


def recorded_video(maker: Maker) -> Callable[[], bytes]:
    """An MP4 of the platform's native recorder on a machine without the encoders that browsers want."""
    frames, seed = maker.random.randint(30, 60), maker.random.getrandbits(32)
    return partial(artwork.tape_mp4, frames, 256, 144, seed=seed, sound=True, recorder=True)


def source_of_piece(code: str) -> Callable[[], bytes]:
    return partial(_program, code)


def _half(whole: Callable[[], bytes]) -> bytes:
    data = whole()
    return data[: len(data) // 2]


@lru_cache(maxsize=SHARED_PICTURES)
def _shared(number: int) -> bytes:
    return artwork.pixel_art(96, 96, seed=number)


def _program(code: str) -> bytes:
    return f"// {json.dumps(code)}\nexport function paint({{ wipe }}) {{ wipe('navy'); }}\n".encode()
