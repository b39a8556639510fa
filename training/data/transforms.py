"""Random views of training photos, each drawn from its own seed."""

import math
import random

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hyperbolic.preprocessing import Preprocessing


def random_view(
    image: Image.Image, preprocessing: Preprocessing, scale_min: float, seed: int
) -> Float[Tensor, "3 size size"]:
    """Random-resized crop (area ``scale_min``..1, aspect 3/4..4/3) and random flip, as the encoder takes it.

    Deterministic in ``seed``, whichever worker draws it.
    """
    draw = random.Random(seed)
    width, height = image.size
    box = (0.0, 0.0, float(width), float(height))
    for _ in range(10):
        area = draw.uniform(scale_min, 1.0) * width * height
        aspect = math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)))
        crop_width, crop_height = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if crop_width <= width and crop_height <= height:
            left, top = draw.uniform(0, width - crop_width), draw.uniform(0, height - crop_height)
            box = (left, top, left + crop_width, top + crop_height)
            break
    size = preprocessing.image_size
    view = image.resize((size, size), preprocessing.resample, box=box)
    if draw.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return preprocessing.to_tensor(view)
