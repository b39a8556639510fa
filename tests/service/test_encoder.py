"""The encoder with a real model in OpenVINO: the same points as in this process, whatever comes beside them."""

import os
import signal
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from hyperbolic.embedder import Embedder
from hyperbolic.images import ImageError, read_image
from hyperbolic.runtimes import TOLERANCE, geodesic
from service.encoder.supervisor import Encoder, PhotoFuture
from service.settings import InferenceSettings

from .conftest import draw, encoded

WAIT_S = 60.0
# Geodesic, where these points lie 1 to 3 apart: OpenVINO rounds differently for another batch size.
NEIGHBOUR_BOUND = 1e-4
MiB = 2**20


@pytest.fixture(scope="module")
def encoder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoder]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache"))
        )  # the graph is made here, as on a first day
        encoder = Encoder(checkpoint, InferenceSettings())
        encoder.ready()
        yield encoder
        encoder.close()


def points(futures: list[PhotoFuture]) -> np.ndarray:
    return np.stack([future.result(WAIT_S) for future in futures])


def exif_turned(image: Image.Image, fmt: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, fmt, exif=exif)


def readable() -> dict[str, bytes]:
    photo = draw(50, (200, 150))
    frames = [draw(seed) for seed in (51, 52, 53)]
    return {
        "png": encoded(photo),
        "cmyk": encoded(photo.convert("CMYK"), "JPEG"),
        "16 bit": encoded(Image.fromarray(np.asarray(photo.convert("L"), np.uint16) * 257)),
        "animated gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated webp": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "palette with alpha": encoded(photo.convert("P"), "PNG", transparency=3),
        "exif": exif_turned(photo, "JPEG"),
        "large jpeg": encoded(draw(54, (1600, 1200)), "JPEG"),
    }


def poison() -> dict[str, tuple[bytes, str]]:
    photo = encoded(draw(60), "JPEG")
    return {
        "1x1": (encoded(Image.new("RGB", (1, 1))), "image_too_small"),
        "truncated": (photo[: len(photo) // 2], "undecodable_image"),
        "header only": (encoded(draw(61))[:60], "undecodable_image"),
        "empty": (b"", "empty_file"),
        "text named .jpg": (b"I am no photo", "unsupported_format"),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_format"),
    }


def bombs() -> dict[str, bytes]:
    """A few hundred bytes whose headers claim 50,000 x 50,000 pixels."""
    side = 50_000
    size = struct.pack(">II", side, side)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + bytes([8, 2, 0, 0, 0]))
    png += chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    jpeg = encoded(draw(70, (16, 16)), "JPEG")
    frame = jpeg.index(b"\xff\xc0") + 5  # marker, length, precision; then height and width
    jpeg = jpeg[:frame] + struct.pack(">HH", side, side) + jpeg[frame + 4 :]
    screen = struct.pack("<HH", side, side)
    gif = b"GIF89a" + screen + b"\x80\0\0" + bytes(6) + b"," + bytes(4) + screen + b"\0\x02\x02\x4c\x01\0;"
    webp = encoded(draw(71, (16, 16)), "WEBP", save_all=True, append_images=[draw(72, (16, 16))])
    canvas = webp.index(b"VP8X") + 12
    claimed = (side - 1).to_bytes(3, "little")
    webp = webp[:canvas] + claimed + claimed + webp[canvas + 6 :]
    tiff = encoded(draw(73, (16, 16)), "TIFF")
    for tag in (0x0100, 0x0101):  # width and height, one number each
        at = next(i for i in range(len(tiff)) if tiff[i : i + 2] == struct.pack("<H", tag) and tiff[i + 4] == 1)
        tiff = tiff[: at + 8] + struct.pack("<I", side) + tiff[at + 12 :]
    bmp = encoded(draw(74, (16, 16)), "BMP")
    bmp = bmp[:18] + struct.pack("<ii", side, side) + bmp[26:]
    return {"png": png, "jpeg": jpeg, "gif": gif, "webp": webp, "tiff": tiff, "bmp": bmp}


def test_points_are_those_of_the_model(encoder: Encoder, embedder: Embedder) -> None:
    assert encoder.info.model_hash == embedder.model_hash
    assert (encoder.info.runtime, encoder.info.precision, encoder.info.device) == ("openvino", "f32", "cpu")
    assert (encoder.info.c, encoder.info.embedding_dim) == (embedder.c, 16)
    photos = readable()
    found = points([encoder.submit(photo) for photo in photos.values()])
    side = embedder.preprocessing.draft_side
    expected = embedder.embed([read_image(photo, draft_side=side) for photo in photos.values()])
    assert found.dtype == np.float32
    assert geodesic(found, expected, embedder.c).max() <= TOLERANCE
    whole = embedder.embed([read_image(photos["large jpeg"])])
    assert geodesic(found[[*photos].index("large jpeg")][None], whole, embedder.c).max() > TOLERANCE  # it was drafted


def test_exif_turns_photos_upright(encoder: Encoder) -> None:
    photo = draw(50, (200, 150))
    upright = encoded(photo.transpose(Image.Transpose.ROTATE_270))
    turned, expected = points([encoder.submit(exif_turned(photo, "PNG")), encoder.submit(upright)])
    assert geodesic(turned[None], expected[None], encoder.info.c).max() <= NEIGHBOUR_BOUND


def test_neighbours_of_poison_get_the_points_they_have_alone(encoder: Encoder, embedder: Embedder) -> None:
    photos, bad = readable(), poison() | {f"{name} bomb": (data, "image_too_large") for name, data in bombs().items()}
    alone = np.stack([encoder.submit(photo).result(WAIT_S) for photo in photos.values()])
    rng = np.random.default_rng(0)
    for _ in range(3):
        names = [*photos, *bad]
        rng.shuffle(names)
        futures = {name: encoder.submit(photos[name] if name in photos else bad[name][0]) for name in names}
        together = points([futures[name] for name in photos])
        assert geodesic(together, alone, embedder.c).max() <= NEIGHBOUR_BOUND
        for name, (_, code) in bad.items():
            with pytest.raises(ImageError) as told:
                futures[name].result(WAIT_S)
            assert told.value.code == code, name
    assert max(encoder.state().batch_sizes) > 1
    assert encoder.state().restarts == 0


@pytest.mark.parametrize("name", bombs())
def test_bombs_are_refused_from_their_header(encoder: Encoder, name: str) -> None:
    """At most 64 MB more than before, and 50 ms on a quiet machine; ten times that here."""
    bomb = bombs()[name]
    assert len(bomb) < 5000
    encoder.submit(encoded(draw(1))).result(WAIT_S)
    process = psutil.Process(encoder.state().pid)
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak counts from here
    before = process.memory_info().rss
    started = time.perf_counter()
    with pytest.raises(ImageError, match=r"50000 x 50000|exceeds limit") as told:
        encoder.submit(bomb).result(WAIT_S)
    assert time.perf_counter() - started < 0.5
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    assert told.value.code == "image_too_large"
    assert peak - before < 64 * MiB


def test_limits_are_those_of_the_caller(encoder: Encoder) -> None:
    photo = encoded(draw(1, (40, 30)))
    for limits, code in (({"max_pixels": 1199}, "image_too_large"), ({"min_side": 31}, "image_too_small")):
        with pytest.raises(ImageError) as told:
            encoder.submit(photo, **limits).result(WAIT_S)
        assert told.value.code == code
    encoder.submit(photo, max_pixels=1200, min_side=30).result(WAIT_S)


def test_a_killed_worker_comes_back_with_the_same_points(encoder: Encoder) -> None:
    photos = [encoded(draw(seed), "JPEG") for seed in range(8)]
    expected = points([encoder.submit(photo) for photo in photos])
    restarts = encoder.state().restarts
    futures = [encoder.submit(photo) for photo in photos]
    pid = encoder.state().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert geodesic(points(futures), expected, encoder.info.c).max() <= NEIGHBOUR_BOUND
    assert (
        geodesic(points([encoder.submit(photo) for photo in photos]), expected, encoder.info.c).max() <= NEIGHBOUR_BOUND
    )
    assert encoder.state().restarts == restarts + 1
