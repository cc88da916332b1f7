"""Photographs made on the spot, for trials and for machines without a network."""

from io import BytesIO

import torch
from PIL import Image

from camrobust.core.draws import Draws
from camrobust.io.objects import Store


def write_photos(store: Store, count: int, height: int = 72, width: int = 80) -> None:
    """Write JPEG files of smooth random colours, always the same."""
    for number in range(count):
        coarse = Draws.of(0, "", [str(number)], "chaos", "", 0).uniform((3, 5, 6))
        fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
        pixels = (fine[0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        sink = BytesIO()
        Image.fromarray(pixels).save(sink, "JPEG", quality=90)
        store.write(f"photo-{number:03}.jpg", sink.getvalue())
