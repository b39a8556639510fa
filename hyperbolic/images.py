"""Photos from files and bytes: finding them, and decoding them safely.

The one way in for training, batch embedding and the service, so a photo means the same point everywhere. Imports no
torch: the service's main process does without it.
"""

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 50_000_000
MIN_SIDE = 3

ImageErrorCode = Literal[
    "empty_file",
    "image_too_large",
    "image_too_small",
    "unsupported_format",
    "undecodable_image",
    "unreadable_file",
    "crashed_decoder",
]


class ImageError(ValueError):
    """A photo that cannot become a tensor; ``code`` says which kind of failure, the text says why."""

    def __init__(self, code: ImageErrorCode, message: str) -> None:
        super().__init__(message)
        self.code: ImageErrorCode = code


def find_images(root: Path) -> list[Path]:
    """All image files below ``root`` by their ending, sorted by path; hidden files and folders are left out.

    Links are followed, but not to a folder that they lie in. Raises ``FileNotFoundError`` where ``root`` is no
    folder, and ``PermissionError`` for a folder that may not be read.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"expected a folder of photos, found none at {root}")

    def walk(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                target = entry.resolve() if entry.is_symlink() else above[-1] / entry.name
                if target not in above:
                    yield from walk(entry, (*above, target))
            elif entry.suffix.lower() in IMAGE_SUFFIXES:
                yield entry

    top = root.resolve()
    return list(walk(root, (*reversed(top.parents), top)))


def read_image(
    source: Path | bytes, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE, draft_side: int | None = None
) -> Image.Image:
    """Decode a photo to RGB: first frame, turned upright by EXIF, any mode (CMYK, 16-bit, palette, alpha on white).

    The size is checked from the header, before a pixel is decoded (a decompression bomb costs nothing).
    Truncated files are refused rather than filled with grey. Raises :class:`ImageError`.

    ``draft_side`` lets JPEG decode at 1/2, 1/4 or 1/8 of its size, as long as both sides keep so many pixels; see
    :attr:`~hyperbolic.preprocessing.Preprocessing.draft_side`.
    """
    if isinstance(source, Path):
        try:
            data = source.read_bytes()
        except OSError as error:
            raise ImageError("unreadable_file", f"{source.name}: {error.strerror or error}") from error
    else:
        data = source
    if not data:
        raise ImageError("empty_file", "the file is empty: expected an image")
    try:
        with warnings.catch_warnings():
            # Pillow's own bomb warning and metadata quirks: the pixel limit below is the guard.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise ImageError(
                        "image_too_large",
                        f"the image has {width} x {height} pixels, at most {max_pixels:,} are taken: scale it down",
                    )
                if min(width, height) < min_side:
                    raise ImageError(
                        "image_too_small",
                        f"the image has {width} x {height} pixels: expected {min_side} or more on the shorter side",
                    )
                if draft_side is not None:
                    image.draft(None, (draft_side, draft_side))  # only JPEG has one
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError("image_too_large", f"the image is too large: {error}") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            "unsupported_format", "not an image of a known format: expected JPEG, PNG, WebP, BMP, GIF or TIFF"
        ) from error
    except Exception as error:  # Pillow's decoders raise whatever a malformed file leads them to
        raise ImageError("undecodable_image", f"the image cannot be decoded: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # Pillow clips 16-bit grey to 255 in convert("RGB"); scale instead. Floating-point grey is 0..1 as a rule.
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        largest = values.max(initial=0.0)
        full = 65535.0 if largest > 255.0 else 1.0 if image.mode == "F" and largest <= 1.0 else 255.0
        grey = np.clip(values * (255.0 / full), 0, 255).round().astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
