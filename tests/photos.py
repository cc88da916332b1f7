"""Small made-up photos: smooth colours with a few edges, the same every time for a seed."""

import numpy as np
from PIL import Image


def write_photos(folder, count, seed=0, size=(260, 240)):
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for number in range(count):
        coarse = generator.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        photo = np.array(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
        photo[60:140, 40 + 5 * number % 100 : 120] = generator.integers(0, 256, 3)
        Image.fromarray(photo).save(folder / f"photo-{number:03}.jpg", quality=92)
