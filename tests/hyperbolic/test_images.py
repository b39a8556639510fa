"""Photos as people really have them: broken, tiny, huge, rotated, in odd colour modes."""

import io
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyperbolic.images import ImageError, find_images, read_image
from hyperbolic.preprocessing import Preprocessing

RED, GREEN = (200, 30, 40), (20, 180, 60)


def encode(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def two_halves(mode: str = "RGB") -> Image.Image:
    """Left red, right green, 40 x 20."""
    image = Image.new("RGB", (40, 20), RED)
    image.paste(GREEN, (20, 0, 40, 20))
    return image.convert(mode)


def close(pixel: object, expected: tuple[int, int, int], within: int) -> bool:
    return bool(np.abs(np.asarray(pixel, dtype=int) - np.asarray(expected)).max() <= within)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty_file"),
        (b"this is not a photo at all", "unsupported_format"),
        (encode(Image.new("RGB", (1, 1))), "image_too_small"),
        (encode(two_halves(), "JPEG")[:400], "undecodable_image"),
        (encode(two_halves().resize((400, 400)))[:200], "undecodable_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_format"),
    ],
    ids=["empty", "text", "1x1", "truncated jpeg", "truncated png", "svg"],
)
def test_bad_photo_is_refused_with_its_code(data: bytes, code: str) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(data)
    assert caught.value.code == code


def test_flipped_bytes_never_raise_anything_else() -> None:
    good = encode(two_halves().resize((64, 48)), "JPEG")
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(good)
        for place in rng.integers(0, len(data), 4):
            data[place] ^= int(rng.integers(1, 256))
        try:
            image = read_image(bytes(data))
        except ImageError:
            continue
        assert image.mode == "RGB"


def test_decompression_bomb_is_refused_from_its_header() -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1 << 20))

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(ImageError) as caught:
        read_image(bomb)
    seconds = time.perf_counter() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.code == "image_too_large"
    assert peak < 64 * 2**20
    assert seconds < 1.0  # 3.6 billion pixels would take many seconds to decode


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int) -> None:
    upright = two_halves().resize((80, 40))
    turns = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    turn = turns[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_image(encode(stored, "JPEG", exif=exif, quality=95))
    assert image.size == (80, 40)
    assert close(image.getpixel((10, 20)), RED, 20)
    assert close(image.getpixel((70, 20)), GREEN, 20)


def test_cmyk_jpeg_keeps_its_colours() -> None:
    image = read_image(encode(two_halves("CMYK"), "JPEG", quality=95))
    assert image.mode == "RGB"
    assert close(image.getpixel((5, 10)), RED, 25)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    image = read_image(encode(Image.fromarray(values)))
    grey = np.asarray(image)[..., 0].astype(float)
    assert np.abs(grey - values / 257.0).max() <= 1.0


@pytest.mark.parametrize("full", [1.0, 255.0])
def test_floating_point_grey_is_scaled(full: float) -> None:
    ramp = np.linspace(0, 1, 64 * 64).reshape(64, 64)
    ramp[0, 0] = np.nan
    values = (full * ramp).astype(np.float32)
    grey = np.asarray(read_image(encode(Image.fromarray(values), "TIFF")))[..., 0].astype(float)
    assert grey[0, 0] == 0
    assert np.abs(grey - 255 * np.nan_to_num(ramp)).max() <= 1.0


def test_transparency_lies_on_white() -> None:
    clear = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
    assert close(read_image(encode(clear)).getpixel((5, 5)), (255, 255, 255), 0)


def test_palette_and_one_bit_images_become_rgb() -> None:
    for mode in ("P", "1", "L"):
        assert read_image(encode(two_halves(mode))).mode == "RGB"


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in (RED, GREEN)]
    for form in ("GIF", "WEBP"):
        data = encode(frames[0], form, save_all=True, append_images=frames[1:], duration=50)
        assert close(read_image(data).getpixel((10, 10)), RED, 12)


def test_wrong_extension_is_read_by_content(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encode(two_halves()))
    assert read_image(path).size == (40, 20)


def test_missing_file_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.jpg") as caught:
        read_image(tmp_path / "gone.jpg")
    assert caught.value.code == "unreadable_file"


def test_find_images_is_sorted_recursive_and_skips_hidden(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "a/1.png", ".cache/3.jpg", "a/.hidden.jpg", "notes.txt", "0.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"x")
    assert [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path)] == ["0.webp", "a/1.png", "b/2.JPG"]
    with pytest.raises(FileNotFoundError, match="folder of photos"):
        find_images(tmp_path / "absent")


def test_links_are_followed_but_never_in_a_circle(tmp_path: Path) -> None:
    for name in ("root/a/1.png", "elsewhere/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "root" / "a" / "up").symlink_to("../../root", target_is_directory=True)
    (tmp_path / "root" / "a" / "self").symlink_to(".", target_is_directory=True)
    (tmp_path / "root" / "b").symlink_to("../elsewhere", target_is_directory=True)
    (tmp_path / "root" / "c").symlink_to("a", target_is_directory=True)
    (tmp_path / "elsewhere" / "back").symlink_to("../root/b", target_is_directory=True)
    found = [p.relative_to(tmp_path / "root").as_posix() for p in find_images(tmp_path / "root")]
    assert found == ["a/1.png", "b/2.png", "c/1.png"]


SPEC = Preprocessing(
    image_size=32, crop_fraction=0.875, interpolation="bicubic", mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2)
)


@pytest.mark.parametrize("size", [(37, 37), (64, 48), (48, 64), (300, 31), (3, 500), (32, 32)])
def test_preprocessing_equals_resize_then_centre_crop(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    found = SPEC(smooth)
    # Independent: torchvision's resize and crop of the whole picture.
    from torchvision.transforms import v2

    shorter = round(32 / 0.875)
    whole = v2.functional.resize(smooth, [shorter], interpolation=v2.InterpolationMode.BICUBIC)
    crop = v2.functional.to_dtype(
        v2.functional.pil_to_tensor(v2.functional.center_crop(whole, [32, 32])), torch.float32, True
    )
    expected = v2.functional.normalize(crop, list(SPEC.mean), list(SPEC.std))
    assert found.shape == (3, 32, 32)
    # Half a pixel of rounding in where the crop starts: equal on average, close everywhere.
    assert (found - expected).abs().mean() < 0.05


def test_normalisation_is_torchs_own_bit_for_bit() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    preprocessing = Preprocessing(
        image_size=16, crop_fraction=1.0, interpolation="bicubic", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    pixels = torch.from_numpy(levels.astype(np.float32)).permute(2, 0, 1) / 255.0
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    assert torch.equal(preprocessing.to_tensor(Image.fromarray(levels)), (pixels - mean) / std)


@pytest.mark.parametrize(("size", "reduced"), [((500, 400), (250, 200)), ((1000, 750), (250, 188))])
def test_draft_decoding_keeps_its_bound(size: tuple[int, int], reduced: tuple[int, int]) -> None:
    """Mean difference of 2 of 255 levels at most: edges at all angles, gradients, and a sensor's grain."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0 : size[1], 0 : size[0]] / size[1]
    scene = np.stack([80 + 60 * np.sin(7 * x + channel) + 40 * y for channel in range(3)], axis=-1)
    for _ in range(60):
        near = (x - rng.uniform(0, 1.3)) ** 2 + (y - rng.uniform()) ** 2 * rng.uniform(0.3, 3) < rng.uniform(0, 0.02)
        scene[near] = rng.uniform(0, 255, 3)
    scene += rng.normal(0, 6, scene.shape)
    file = io.BytesIO()
    Image.fromarray(scene.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    preprocessing = Preprocessing(
        image_size=80, crop_fraction=0.875, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )
    assert preprocessing.draft_side == 184
    whole = read_image(file.getvalue())
    draft = read_image(file.getvalue(), draft_side=preprocessing.draft_side)
    assert (whole.size, draft.size) == (size, reduced)
    difference = (preprocessing(whole) - preprocessing(draft)).abs() * 127.5
    assert 0 < difference.mean() <= 2.0


def test_draft_decoding_leaves_small_and_other_photos_alone() -> None:
    for kind, size in (("JPEG", (367, 500)), ("PNG", (500, 400))):
        file = io.BytesIO()
        Image.effect_noise(size, 60).convert("RGB").save(file, kind)
        whole, draft = (read_image(file.getvalue(), draft_side=side) for side in (None, 184))
        assert whole.tobytes() == draft.tobytes()
