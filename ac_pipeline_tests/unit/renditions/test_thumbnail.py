"""Thumbnails as a person sees them: right geometry, exact pixels, small files, and named refusals."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms

from ac_pipeline.errors import InvalidRecord, TooLarge, UnreadableMedia
from ac_pipeline.local.seed.artwork import photo_like, pixel_art
from ac_pipeline.renditions.pictures import block_size, sniff
from ac_pipeline.renditions.thumbnail import BACKGROUND, CAP, SIDE, check_thumbnail, make_thumbnail
from ac_pipeline_tests import media_samples as samples


def picture(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def rgba(data: bytes) -> np.ndarray:
    return np.asarray(picture(data).convert("RGBA")).astype(int)


SAMPLES = {
    "pixel art": pixel_art(337, 160),
    "enlarged pixel art": pixel_art(64, 64, scale=16),
    "transparent": pixel_art(90, 90, transparent=True),
    "one pixel": samples.png_of(Image.new("RGB", (1, 1), (1, 2, 3))),
    "a line": samples.png_of(Image.new("RGB", (3000, 1), (1, 2, 3))),
    "exactly the size": pixel_art(512, 512),
    "photo": photo_like(900, 700),
    "large JPEG": photo_like(2400, 1800, format="JPEG"),
    "small photo": photo_like(200, 100),
    "noise": samples.noise(700, 600),
    "noise of few colours": samples.noise(512, 512, colours=16),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_every_thumbnail_is_512_square_small_and_what_it_says_it_is(name: str) -> None:
    """MEDIA-1, MEDIA-2."""
    made = make_thumbnail(SAMPLES[name])
    image = picture(made.data)
    assert image.size == (SIDE, SIDE)
    assert len(made.data) <= CAP
    assert made.mime_type == sniff(made.data) == f"image/{(image.format or '').lower()}"
    check_thumbnail(made.data)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_same_picture_gives_the_same_bytes(name: str) -> None:
    assert make_thumbnail(SAMPLES[name]) == make_thumbnail(SAMPLES[name])


def test_threads_do_not_disturb_each_other() -> None:
    expected = {name: make_thumbnail(data).data for name, data in SAMPLES.items()}
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(make_thumbnail, [*SAMPLES.values(), *reversed(SAMPLES.values())]))
    assert [made.data for made in again] == [*expected.values(), *reversed(expected.values())]


def test_pixel_art_keeps_every_colour_exactly_on_a_transparent_letterbox() -> None:
    """MEDIA-1: contain, palette PNG, transparent letterbox."""
    source = pixel_art(64, 32)
    made = make_thumbnail(source)
    pixels = rgba(made.data)
    assert made.mime_type == "image/png"
    assert picture(made.data).mode == "P"
    assert (pixels[:128, :, 3] == 0).all()
    assert (pixels[384:, :, 3] == 0).all()
    enlarged = rgba(source).repeat(8, 0).repeat(8, 1)
    assert (pixels[128:384] == enlarged).all()


def test_pixel_art_saved_enlarged_is_taken_back_to_its_own_pixels() -> None:
    """1024 x 768 made of 16 x 16 blocks: each becomes 8 x 8 without any blur."""
    small, large = pixel_art(64, 48), pixel_art(64, 48, scale=16)
    assert make_thumbnail(large).data == make_thumbnail(small).data


def test_a_plain_area_is_not_taken_for_one_enlarged_pixel() -> None:
    assert block_size(Image.new("RGB", (32, 32)), least=8) == 4
    assert block_size(Image.new("RGB", (15, 15)), least=8) == 1


@pytest.mark.parametrize("colours", [255, 256, 8192])
def test_few_colours_stay_a_png(colours: int) -> None:
    """Up to 255 an exact palette with room for the letterbox; beyond that still lossless while it fits."""
    values = np.arange(128 * 64) % colours
    pixels = np.stack([values % 256, values // 256 * 7 % 256, np.zeros_like(values)], 1).reshape(64, 128, 3)
    made = make_thumbnail(samples.png_of(Image.fromarray(pixels.astype(np.uint8))))
    assert made.mime_type == "image/png"
    assert picture(made.data).mode == ("P" if colours <= 255 else "RGBA")
    assert (rgba(made.data)[128:384, :, :3] == pixels.repeat(4, 0).repeat(4, 1)).all()


def test_photos_are_jpeg_444_with_a_grey_letterbox() -> None:
    """MEDIA-1: JPEG for photo-like pictures, on rgb(32,32,32)."""
    made = make_thumbnail(photo_like(1200, 600))
    image = picture(made.data)
    assert made.mime_type == "image/jpeg"
    layers = image.layer  # type: ignore[attr-defined]
    assert [layer[1:3] for layer in layers] == [(1, 1)] * 3, "no chroma subsampling"
    assert image.convert("RGB").getpixel((256, 20)) == BACKGROUND
    assert image.convert("RGB").getpixel((256, 490)) == BACKGROUND


def test_what_is_transparent_shows_grey() -> None:
    """As the platform's own thumbnails: the picture is flattened, only the letterbox is clear."""
    made = make_thumbnail(samples.png_of(Image.new("RGBA", (64, 64), (200, 0, 0, 0))))
    assert (rgba(made.data) == (*BACKGROUND, 255)).all()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (40, 40), 77), (77, 77, 77)),
        (Image.new("1", (40, 40), 1), (255, 255, 255)),
        (Image.fromarray(np.full((40, 40), 0x8080, np.uint16)), (128, 128, 128)),
        (Image.new("LA", (40, 40), (77, 255)), (77, 77, 77)),
        (Image.new("P", (40, 40), 0), (0, 0, 0)),
    ],
    ids=["grey", "one bit", "16 bits", "grey with alpha", "palette"],
)
def test_every_kind_of_png_keeps_its_colour(image: Image.Image, expected: tuple[int, int, int]) -> None:
    pixel = picture(make_thumbnail(samples.png_of(image)).data).convert("RGB").getpixel((256, 256))
    assert pixel == expected


def test_a_palette_with_a_clear_colour_is_flattened() -> None:
    image = Image.new("P", (40, 40), 3)
    image.putpalette([10, 20, 30] * 4)
    made = make_thumbnail(samples.png_of(image, transparency=3))
    assert picture(made.data).convert("RGB").getpixel((256, 256)) == BACKGROUND


def test_a_photo_on_its_side_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = samples.jpeg_of(Image.new("RGB", (400, 100), (250, 10, 10)), exif=exif)
    image = picture(make_thumbnail(data).data).convert("RGBA")
    assert image.getpixel((256, 10))[0] > 200, "the picture fills the height"
    assert image.getpixel((10, 256))[:3] in ((0, 0, 0), BACKGROUND), "and not the width"


def test_colours_of_a_profile_become_srgb_and_a_broken_profile_is_passed_over() -> None:
    image = Image.new("RGB", (64, 64), (120, 40, 200))
    plain = make_thumbnail(samples.png_of(image)).data
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    assert make_thumbnail(samples.png_of(image, icc_profile=srgb)).data == plain
    assert make_thumbnail(samples.png_of(image, icc_profile=b"broken")).data == plain
    assert picture(make_thumbnail(samples.png_of(image, icc_profile=lab)).data).width == SIDE


def test_of_an_animation_the_first_picture_is_shown() -> None:
    file = io.BytesIO()
    first, second = Image.new("RGB", (32, 32), (255, 0, 0)), Image.new("RGB", (32, 32), (0, 0, 255))
    first.save(file, "GIF", save_all=True, append_images=[second])
    assert picture(make_thumbnail(file.getvalue()).data).convert("RGB").getpixel((9, 9)) == (255, 0, 0)


def test_the_content_decides_not_the_name() -> None:
    assert make_thumbnail(photo_like(64, 64, format="JPEG"), "painting.png").details["source_format"] == "JPEG"


def test_details_name_the_size_of_the_source_file_even_where_less_of_it_was_decoded() -> None:
    details = make_thumbnail(SAMPLES["large JPEG"]).details
    assert (details["source_width"], details["source_height"]) == (2400, 1800)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>404</html>",
        SAMPLES["pixel art"][:40],
        SAMPLES["pixel art"][: len(SAMPLES["pixel art"]) // 2],
        SAMPLES["large JPEG"][:5000],
        SAMPLES["pixel art"][:60] + b"\xff" * 40 + SAMPLES["pixel art"][100:],
        b"%PDF-1.4",
        b"BM" + b"\0" * 60,
    ],
    ids=["empty", "html", "only a header", "cut PNG", "cut JPEG", "damaged", "PDF", "BMP"],
)
def test_what_is_no_readable_picture_is_refused_by_name(data: bytes) -> None:
    """MEDIA-1: refused before upload; the source itself is never passed off as its thumbnail."""
    with pytest.raises(UnreadableMedia, match=r"painting x"):
        make_thumbnail(data, "painting x")


def test_a_picture_that_only_claims_to_be_huge_costs_nothing() -> None:
    with pytest.raises(TooLarge, match="60000x60000"):
        make_thumbnail(samples.huge_header(60_000))


@pytest.mark.parametrize(("width", "height"), [(16_384, 8), (8, 16_384), (7_000, 7_142)])
def test_pictures_at_the_limits_are_taken(width: int, height: int) -> None:
    assert picture(make_thumbnail(samples.blank(width, height)).data).width == SIDE


@pytest.mark.parametrize(("width", "height"), [(16_385, 8), (8, 16_385), (7_000, 7_143)])
def test_pictures_over_the_limits_are_refused(width: int, height: int) -> None:
    """50,000,000 pixels and 16,384 a side: a one-bit PNG of a few KB would take gigabytes."""
    with pytest.raises(TooLarge):
        make_thumbnail(samples.blank(width, height))


def test_a_file_over_64_mib_is_not_even_opened() -> None:
    with pytest.raises(TooLarge, match="67108865 bytes"):
        make_thumbnail(bytes((64 << 20) + 1))


def test_the_gate_before_upload_refuses_everything_else() -> None:
    """MEDIA-1: anything else is refused; the original image is never a thumbnail."""
    with pytest.raises(InvalidRecord, match="511x512"):
        check_thumbnail(samples.png_of(Image.new("RGB", (511, 512))))
    with pytest.raises(InvalidRecord, match="octet-stream"):
        check_thumbnail(b"<html>")
    with pytest.raises(InvalidRecord, match="not a readable picture"):
        check_thumbnail(SAMPLES["pixel art"][:99])
    with pytest.raises(TooLarge, match="100000"):
        check_thumbnail(samples.noise(SIDE, SIDE))


@pytest.mark.parametrize("length", [CAP, CAP + 1])
def test_the_gate_counts_to_the_byte(length: int) -> None:
    data = make_thumbnail(SAMPLES["exactly the size"]).data
    padded = data + b"\0" * (length - len(data))
    if length <= CAP:
        check_thumbnail(padded)
    else:
        with pytest.raises(TooLarge, match="100001"):
            check_thumbnail(padded)
