import io
import struct
import zlib
from pathlib import Path

import numpy as np
import png
import pytest
import tifffile
import torch
from helpers import LIGHT, noise, run, smooth
from PIL import Image, ImageCms, ImageOps

from blindsr.errors import UserError
from blindsr.io.files import atomic_path
from blindsr.io.images import Picture, find_images, read_image, to_array, write_png

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def array(path: Path) -> np.ndarray:
    return to_array(read_image(path))


def write_png16(path: Path, a: np.ndarray, **options: object) -> None:
    h, w, c = a.shape
    with path.open("wb") as file:
        png.Writer(w, h, greyscale=c < 3, alpha=c in (2, 4), bitdepth=16, **options).write(file, a.reshape(h, w * c))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".webp", ".PNG"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_formats_give_the_same_pixels(tmp_path: Path, suffix: str, channels: int) -> None:
    a = noise(17, 23, channels)
    path = tmp_path / f"picture{suffix}"
    Image.fromarray(a.squeeze(-1) if channels == 1 else a).save(path, **({"lossless": True} if "web" in suffix else {}))
    picture = read_image(path)
    assert picture.bits == 8 and picture.alpha is None
    got = to_array(picture)
    expected = np.repeat(a, 3, -1) if suffix == ".webp" and channels == 1 else a  # WebP has no grey
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_close(tmp_path: Path, channels: int) -> None:
    a = smooth(24, 32)[..., :channels]
    Image.fromarray(a.squeeze(-1) if channels == 1 else a).save(tmp_path / "a.jpg", quality=95)
    got = array(tmp_path / "a.jpg")
    assert got.shape == a.shape and np.abs(got.astype(int) - a).mean() < 4


def test_cmyk_jpeg_becomes_rgb_with_a_note(tmp_path: Path) -> None:
    Image.fromarray(smooth(24, 32)).convert("CMYK").save(tmp_path / "a.jpg", icc_profile=ICC)
    picture = read_image(tmp_path / "a.jpg")
    assert picture.pixels.shape == (1, 3, 24, 32) and picture.icc is None
    assert any("CMYK" in note for note in picture.notes)


def test_one_bit(tmp_path: Path) -> None:
    a = noise(16, 19) > 127
    for name in ("a.png", "a.tif", "a.bmp"):
        Image.fromarray(a).save(tmp_path / name)
        assert np.array_equal(array(tmp_path / name)[..., 0], a * 255), name


@pytest.mark.parametrize("bits", [2, 4])
def test_few_bits_reach_from_black_to_white(tmp_path: Path, bits: int) -> None:
    a = noise(16, 20) >> (8 - bits)
    with (tmp_path / "a.png").open("wb") as file:
        png.Writer(20, 16, greyscale=True, bitdepth=bits).write(file, a)
    got = array(tmp_path / "a.png")[..., 0]
    assert np.array_equal(got, np.round(a * (255 / (2**bits - 1))).astype(np.uint8))


def test_palette(tmp_path: Path) -> None:
    image = Image.fromarray(smooth(20, 24)).quantize(16)
    image.save(tmp_path / "a.png")
    picture = read_image(tmp_path / "a.png")
    assert picture.alpha is None
    assert np.array_equal(to_array(picture), np.asarray(image.convert("RGB")))


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(smooth(20, 24)).quantize(16)
    image.save(tmp_path / "a.png", transparency=3)
    got = array(tmp_path / "a.png")
    indices = np.asarray(image)
    assert got.shape[2] == 4
    assert np.array_equal(got[..., 3], np.where(indices == 3, 0, 255))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_transparent_colour_becomes_alpha(tmp_path: Path, mode: str) -> None:
    a = smooth(20, 24) if mode == "RGB" else smooth(20, 24)[..., 0]
    key = tuple(int(v) for v in a[5, 7]) if mode == "RGB" else int(a[5, 7])
    Image.fromarray(a).save(tmp_path / "a.png", transparency=key)
    got = array(tmp_path / "a.png")
    same = (a == key) if mode == "L" else (a == np.array(key)).all(-1)
    assert same.any() and not same.all()
    assert np.array_equal(got[..., -1], np.where(same, 0, 255))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_kept(tmp_path: Path, suffix: str, channels: int) -> None:
    if suffix == ".webp" and channels == 2:
        pytest.skip("WebP has no grey")
    a = noise(16, 17, channels)
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    Image.fromarray(a).save(tmp_path / f"a{suffix}", **options)
    picture = read_image(tmp_path / f"a{suffix}")
    assert picture.alpha is not None and picture.pixels.shape[1] == channels - 1
    assert np.array_equal(to_array(picture), a)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_multiplied_into_a_tiff_is_divided_out(tmp_path: Path, dtype: type) -> None:
    top = np.iinfo(dtype).max
    color = smooth(16, 18).astype(np.float64) / 255
    alpha = np.linspace(0.5, 1, 18)[None, :, None] * np.ones((16, 1, 1))
    a = np.round(np.concatenate([color * alpha, alpha], -1) * top).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", a, photometric="rgb", extrasamples=["assocalpha"])
    picture = read_image(tmp_path / "a.tif")
    assert picture.alpha is not None
    assert np.allclose(picture.pixels[0].permute(1, 2, 0).numpy(), color, atol=2.5 / 255)
    assert np.allclose(picture.alpha[0, 0].numpy(), alpha[..., 0], atol=0.6 / 255)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("interlace", [False, True])
def test_png_of_16_bits(tmp_path: Path, channels: int, interlace: bool) -> None:
    a = noise(17, 21, channels, dtype=np.uint16)
    write_png16(tmp_path / "a.png", a, interlace=interlace)
    picture = read_image(tmp_path / "a.png")
    assert picture.bits == 16
    assert np.array_equal(to_array(picture), a)


def test_transparent_colour_of_a_16_bit_png(tmp_path: Path) -> None:
    a = noise(16, 18, 3, dtype=np.uint16)
    write_png16(tmp_path / "a.png", a, transparent=tuple(int(v) for v in a[4, 9]))
    got = array(tmp_path / "a.png")
    assert got.shape[2] == 4 and np.array_equal(got[..., :3], a)
    assert got[4, 9, 3] == 0 and (got[..., 3] == 65535).sum() == 16 * 18 - 1


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_of_16_bits(tmp_path: Path, channels: int, compression: str | None, planar: str) -> None:
    if channels == 1 and planar == "separate":
        pytest.skip("one plane")
    a = noise(17, 21, channels, dtype=np.uint16)
    stored = a[..., 0] if channels == 1 else a if planar == "contig" else np.moveaxis(a, -1, 0)
    tifffile.imwrite(
        tmp_path / "a.tif",
        stored,
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig=None if channels == 1 else planar,
        compression=compression,
        predictor=compression is not None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
    )
    picture = read_image(tmp_path / "a.tif")
    assert picture.bits == 16
    assert np.array_equal(to_array(picture), a)


@pytest.mark.parametrize("big_endian", [False, True])
def test_tiff_where_white_is_zero(tmp_path: Path, big_endian: bool) -> None:
    a = noise(16, 18, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", a, photometric="miniswhite", byteorder=">" if big_endian else "<")
    assert np.array_equal(array(tmp_path / "a.tif")[..., 0], 65535 - a)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_point_tiff(tmp_path: Path, dtype: type) -> None:
    a = np.random.default_rng(0).random((16, 20, 3)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", a, photometric="rgb")
    picture = read_image(tmp_path / "a.tif")
    assert picture.bits == 16
    assert np.allclose(picture.pixels[0].permute(1, 2, 0).numpy(), a.astype(np.float32), atol=1e-7)


def test_lzw_compressed_tiff_of_8_bits(tmp_path: Path) -> None:
    a = smooth(20, 30)
    Image.fromarray(a).save(tmp_path / "a.tif", compression="tiff_lzw")
    assert np.array_equal(array(tmp_path / "a.tif"), a)


def test_further_pages_of_a_tiff_are_noted(tmp_path: Path) -> None:
    for dtype in (np.uint8, np.uint16):
        pages = noise(2, 16, 18, dtype=dtype)
        tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
        picture = read_image(tmp_path / "a.tif")
        assert np.array_equal(to_array(picture)[..., 0], pages[0])
        assert picture.notes == ("several frames: the first is used",)


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_honoured(tmp_path: Path, orientation: int) -> None:
    a = smooth(16, 24)
    expected = TURNS[orientation](a)
    exif = Image.Exif()
    exif[274] = orientation
    image = Image.fromarray(a)
    image.save(tmp_path / "a.jpg", quality=100, subsampling=0, exif=exif)
    image.save(tmp_path / "a.png", exif=exif)
    image.save(tmp_path / "a.tif", exif=exif)
    deep = a.astype(np.uint16) * 257
    tag = (274, "H", 1, orientation, True)
    tifffile.imwrite(tmp_path / "deep.tif", deep, photometric="rgb", extratags=[tag])
    chunks = list(png.Reader(bytes=_png16_bytes(deep)).chunks())
    chunks.insert(1, (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    with (tmp_path / "deep.png").open("wb") as file:
        png.write_chunks(file, chunks)
    jpeg = array(tmp_path / "a.jpg")
    assert jpeg.shape == expected.shape and np.abs(jpeg.astype(int) - expected).max() < 12
    assert np.array_equal(array(tmp_path / "a.png"), expected)
    assert np.array_equal(array(tmp_path / "a.tif"), expected)
    for name in ("deep.tif", "deep.png"):
        picture = read_image(tmp_path / name)
        assert picture.bits == 16
        assert np.array_equal(to_array(picture), TURNS[orientation](deep)), name
    # the same meaning as Pillow's
    with Image.open(tmp_path / "a.png") as opened:
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(opened)), expected)


def _png16_bytes(a: np.ndarray) -> bytes:
    out = io.BytesIO()
    h, w, c = a.shape
    png.Writer(w, h, greyscale=c < 3, alpha=c in (2, 4), bitdepth=16).write(out, a.reshape(h, w * c))
    return out.getvalue()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_written_png_reads_back(tmp_path: Path, bits: int, channels: int) -> None:
    a = noise(16, 19, channels, dtype=np.uint16 if bits == 16 else np.uint8)
    x = torch.from_numpy(a.astype(np.float32) / (2**bits - 1)).permute(2, 0, 1).unsqueeze(0)
    alpha = x[:, -1:] if channels in (2, 4) else None
    write_png(tmp_path / "a.png", Picture(x if alpha is None else x[:, :-1], alpha, bits, ICC))
    picture = read_image(tmp_path / "a.png")
    assert picture.bits == bits and picture.icc == ICC
    assert np.array_equal(to_array(picture), a)
    with Image.open(tmp_path / "a.png") as opened:  # another reader finds the profile too
        opened.load()
        assert opened.info["icc_profile"] == ICC
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_values_outside_the_range_are_clipped_when_written(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", Picture(torch.tensor([-0.5, 0.25, 1.5]).expand(1, 1, 3, 3)))
    assert array(tmp_path / "a.png")[0, :, 0].tolist() == [0, 64, 255]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
def test_profile_is_read(tmp_path: Path, name: str) -> None:
    Image.fromarray(smooth(16, 16)).save(tmp_path / name, icc_profile=ICC)
    assert read_image(tmp_path / name).icc == ICC


def test_profile_of_a_16_bit_tiff_is_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(16, 16, 3, dtype=np.uint16), photometric="rgb", iccprofile=ICC)
    assert read_image(tmp_path / "a.tif").icc == ICC


def test_smallest_side(tmp_path: Path) -> None:
    Image.fromarray(noise(16, 15)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="15x16 pixels is too small; at least 16x16"):
        read_image(tmp_path / "a.png", min_side=16)


def test_a_wrong_suffix_does_not_matter(tmp_path: Path) -> None:
    a = noise(16, 16, 3)
    Image.fromarray(a).save(tmp_path / "a.jpg", format="PNG")
    assert np.array_equal(array(tmp_path / "a.jpg"), a)


def test_folders_are_expanded_to_pictures_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.txt", "d.webp"):
        (tmp_path / name).touch()
    (tmp_path / "e.png").mkdir()
    single = tmp_path / "c.txt"
    assert [p.name for p in find_images([single, tmp_path])] == ["c.txt", "a.JPG", "b.png", "d.webp"]
    with pytest.raises(UserError, match="holds no picture"):
        find_images([tmp_path / "e.png"])


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_png_with_a_huge_text_chunk_is_one_error_or_a_picture(tmp_path: Path) -> None:
    good = io.BytesIO()
    Image.fromarray(noise(16, 16, 3)).save(good, format="PNG")
    body = b"Comment\0\0" + zlib.compress(bytes(80_000_000), 9)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    (tmp_path / "a.png").write_bytes(good.getvalue()[:33] + chunk + good.getvalue()[33:])
    try:
        read_image(tmp_path / "a.png")
    except UserError as error:
        assert "damaged" in str(error)


# the whole way, from a file to sr.png


@pytest.mark.parametrize(
    "kind", ["grey", "rgba", "palette", "one bit", "deep grey", "deep rgb", "deep rgba", "deep tiff", "jpeg", "webp"]
)
def test_result_is_a_picture_like_the_one_given(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "süß & $x_{ 漢字.png"
    a = smooth(17, 19)
    channels, bits = 3, 8
    match kind:
        case "grey":
            Image.fromarray(a[..., 0]).save(path, icc_profile=None)
            channels = 1
        case "rgba":
            Image.fromarray(np.concatenate([a, a[..., :1]], -1)).save(path, icc_profile=ICC)
            channels = 4
        case "palette":
            Image.fromarray(a).quantize(8).save(path, icc_profile=ICC)
        case "one bit":
            Image.fromarray(a[..., 0] > 100).save(path)
            channels = 1
        case "deep grey" | "deep rgb" | "deep rgba":
            channels, bits = {"deep grey": 1, "deep rgb": 3, "deep rgba": 4}[kind], 16
            write_png16(path, np.concatenate([a, a[..., :1]], -1)[..., :channels].astype(np.uint16) * 257)
        case "deep tiff":
            path = path.with_suffix(".tif")
            bits = 16
            tifffile.imwrite(path, a.astype(np.uint16) * 257, photometric="rgb", iccprofile=ICC)
        case _:
            path = path.with_suffix(f".{kind}")
            Image.fromarray(a).save(path, icc_profile=ICC)
    result = run(path, tmp_path / "out dir", *LIGHT, steps=2)
    assert result.exit_code == 0, result.stderr
    sr = read_image(tmp_path / "out dir" / path.stem / "sr.png")
    assert sr.pixels.shape[-2:] == (34, 38) and sr.bits == bits
    assert to_array(sr).shape[2] == channels
    assert sr.icc == read_image(path).icc
    if channels == 4:
        # the alpha channel is a ramp from left to right here, and stays one
        assert sr.alpha is not None
        columns = sr.alpha[0, 0].mean(0)
        assert (columns.diff()[2:-2] > -0.002).all() and columns[-4] - columns[3] > 0.4
    if bits == 16:
        assert len(np.unique(to_array(sr))) > 256


def test_smallest_picture(tmp_path: Path) -> None:
    Image.fromarray(noise(16, 16)).save(tmp_path / "a.png")
    assert run(tmp_path / "a.png", tmp_path / "out", *LIGHT, steps=1).exit_code == 0
    with Image.open(tmp_path / "out" / "a" / "sr.png") as image:
        assert image.size == (32, 32) and image.mode == "L"


def test_compressed_16_bit_tiff_is_read(tmp_path: Path) -> None:
    a = noise(17, 19, 3, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", a, compression="lzw", photometric="rgb")
    picture = read_image(tmp_path / "a.tif")
    assert picture.bits == 16
    np.testing.assert_array_equal(to_array(picture), a)
