"""Draw the pictures of docs/ that are made from a photo: `python docs/pictures.py` (needs the extra `demo`)."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from camrobust.core.perturb import make_variants, variants
from camrobust.core.segments import quickshift, segment_matrix
from camrobust.interface.certified_grid import certified_grid
from camrobust.interface.demo import efficientnet_lite0, photos
from camrobust.io.images import decode
from camrobust.measure.certificates import certificates
from camrobust.measure.image import measure
from camrobust.measure.model import wrap
from camrobust.measure.settings import CertifySettings, ImageVariants, MeasureSettings, Sample
from camrobust.report.pictures import overlay

HERE = Path(__file__).parent
CERTIFIED_AT = (0.12,)
SIDE, MARGIN, TEXT, RANKS = 336, 10, 44, 10


def metric_picture(noise: str = "gaussian_noise:1") -> Image.Image:
    """A photo, its noisy variant, both maps, and the ranks of the first segments on each."""
    (photo,) = [path for path in photos() if path.stem == "chelsea"]
    pixels = torch.from_numpy(decode(photo.read_bytes(), 256, 224).pixels)
    segments = quickshift(pixels[None])[0]
    planned, settings = variants([noise]), MeasureSettings(("gradcam",))
    model = wrap(efficientnet_lite0(), mean=(0.5,) * 3, std=(0.5,) * 3)
    sample = Sample("docs", photo.stem, None, segments)
    stack = make_variants(pixels[None], planned, [photo.stem], "docs", 0)[0]
    scores, kept = measure(model, [ImageVariants(sample, stack, planned)], settings, keep={0})
    explained = kept[0]
    weights = segment_matrix(segments, *explained.maps.shape[-2:])
    ranks = [(weights @ one.flatten()).argsort(descending=True).argsort().numpy() + 1 for one in explained.maps[:, 0]]
    change = "kept" if explained.predictions[0] == explained.predictions[1] else "flipped"
    captions = [
        f"1  the photo, cut into {int(segments.max()) + 1} segments",
        f"2, 3  its Grad-CAM, the first {RANKS} ranks",
        f"{planned[0].perturbation}, {planned[0].strength}: class {change}",
        f"4  its Grad-CAM: RBO {scores['rbo'][0]:.2f}, adjusted {scores['rbo_adjusted'][0]:.2f}",
    ]
    outlined = _outlined(stack[0].numpy(), segments.numpy())
    maps = explained.maps[:, 0].numpy()
    panels = [
        outlined,
        _ranked(overlay(_photo(stack[0]), maps[0]), segments.numpy(), ranks[0]),
        Image.fromarray(_photo(stack[1])),
        _ranked(overlay(_photo(stack[1]), maps[1]), segments.numpy(), ranks[1]),
    ]
    return _side_by_side(panels, captions)


def certificates_picture() -> Image.Image:
    """What is certain about three maps of a photo at one sigma."""
    (photo,) = [path for path in photos() if path.stem == "chelsea"]
    pixels = torch.from_numpy(decode(photo.read_bytes(), 256, 224).pixels)[None]
    model = wrap(efficientnet_lite0(), mean=(0.5,) * 3, std=(0.5,) * 3)
    image = ImageVariants(Sample("docs", photo.stem, None, quickshift(pixels)[0]), pixels, ())
    asked = CertifySettings(CERTIFIED_AT, 1000, 100, 0.01, (0.0, 0.02, 0.05, 0.1), "rank", 0.2)
    settings = MeasureSettings(("gradcam", "layercam", "random"), batch=10)
    (rows,) = certificates(model, [image], settings, asked, drawn={0})
    return certified_grid(rows, _photo(pixels[0]), ())


def _photo(pixels: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(pixels.numpy().transpose(1, 2, 0))


def _borders(segments: np.ndarray) -> np.ndarray:
    border = np.zeros(segments.shape, bool)
    border[:, 1:] |= segments[:, 1:] != segments[:, :-1]
    border[1:] |= segments[1:] != segments[:-1]
    return border


def _outlined(pixels: np.ndarray, segments: np.ndarray) -> Image.Image:
    picture = np.ascontiguousarray(pixels.transpose(1, 2, 0)).copy()
    picture[_borders(segments)] = 255
    return Image.fromarray(picture)


def _ranked(picture: Image.Image, segments: np.ndarray, ranks: np.ndarray) -> Image.Image:
    """The picture at full size, with the rank of each of the first segments at its middle pixel."""
    large = picture.resize((SIDE, SIDE))
    draw, font = ImageDraw.Draw(large), ImageFont.load_default(17)
    for segment in np.flatnonzero(ranks <= RANKS):
        rows, columns = np.nonzero(segments == segment)
        middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        place = (columns[middle] * SIDE / segments.shape[1], rows[middle] * SIDE / segments.shape[0])
        draw.text(place, str(ranks[segment]), "white", font, anchor="mm", stroke_width=2, stroke_fill="black")
    return large


def _side_by_side(panels: list[Image.Image], captions: list[str]) -> Image.Image:
    step = SIDE + MARGIN
    whole = Image.new("RGB", (2 * step - MARGIN, 2 * (SIDE + TEXT)), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(16)
    for number, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        left, top = number % 2 * step, number // 2 * (SIDE + TEXT)
        whole.paste(panel.resize((SIDE, SIDE)), (left, top))
        draw.text((left + 4, top + SIDE + 8), caption, "black", font)
    return whole


if __name__ == "__main__":
    metric_picture().save(HERE / "metric.jpg", quality=88)
    certified = certificates_picture()
    certified.resize((certified.width * 2 // 3, certified.height * 2 // 3)).save(HERE / "certificates.jpg", quality=80)
