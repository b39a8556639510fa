"""From a decoded photo to the tensor that an encoder takes."""

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from pydantic import BaseModel, ConfigDict
from torch import Tensor


class Preprocessing(BaseModel):
    """How a decoded photo becomes the encoder's input; stored in the checkpoint.

    Resize the shorter side to ``image_size / crop_fraction``, crop the centre square, scale to mean 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int
    crop_fraction: float
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 size size"]:
        """RGB photo -> normalised float32 tensor of the centre crop."""
        scale = self.image_size / self.crop_fraction / min(image.size)
        # Each side at least the crop: rounding a panorama must not leave a side one pixel short.
        width, height = (max(self.image_size, round(side * scale)) for side in image.size)
        left, top = (width - self.image_size) // 2, (height - self.image_size) // 2
        # Resizing only the region that is kept makes extreme panoramas as cheap as squares.
        box = (
            left / width * image.width,
            top / height * image.height,
            (left + self.image_size) / width * image.width,
            (top + self.image_size) / height * image.height,
        )
        return self.to_tensor(image.resize((self.image_size, self.image_size), self.resample, box=box))

    @property
    def resample(self) -> Image.Resampling:
        """Pillow's name of the interpolation."""
        return Image.Resampling.BICUBIC if self.interpolation == "bicubic" else Image.Resampling.BILINEAR

    def to_tensor(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        """RGB image of the final size -> normalised float32 tensor."""
        pixels = np.asarray(image)
        planes = np.empty((3, *pixels.shape[:2]), dtype=np.float32)
        # A look-up of the 256 values costs half of the arithmetic, and starts no threads in the threads that decode.
        for channel, levels in enumerate(_levels(self.mean, self.std)):
            np.take(levels, pixels[..., channel], out=planes[channel], mode="clip")
        return torch.from_numpy(planes)

    @property
    def draft_side(self) -> int:
        """Twice the side that the photo is scaled to: the size that JPEGs may be decoded at instead of their own.

        Pixels then differ by 2 of 255 levels in the mean at most (test_images.py::test_draft_decoding_keeps_its_bound).
        That bounds no point: see benchmarks/embed.py for how far they move.
        """
        return 2 * math.ceil(self.image_size / self.crop_fraction)


@lru_cache(maxsize=8)
def _levels(mean: tuple[float, float, float], std: tuple[float, float, float]) -> Float[np.ndarray, "3 256"]:
    """(level / 255 - mean) / std of each channel and level, in torch's float32."""
    levels = torch.arange(256, dtype=torch.float32) / 255.0
    return np.asarray(((levels - torch.tensor(mean).view(3, 1)) / torch.tensor(std).view(3, 1)).numpy())
