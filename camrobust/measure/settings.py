"""What is measured, and how: the settings that change numbers, and the images with their variants."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from camrobust.contract.columns import Column
from camrobust.contract.schema import SCORES
from camrobust.core.perturb import Variant
from camrobust.core.similarity import SIMILARITIES, Similarity

SMALLEST_PASS, LARGEST_PASS = 8, 16
"""Images in a pass on a CPU, where more of them save next to nothing."""
LARGEST_GPU_PASS = 128
PASS_BYTES = {"cpu": 2 * 2**30, "cuda": 16 * 2**30}
"""Most bytes that all layers together put out in one pass."""


@dataclass(frozen=True)
class MeasureSettings:
    """The settings that change numbers, beside model, image and variants.

    Attributes:
        cams: names of the methods, K of them.
        seed: of the CAMs that draw random numbers.
        rbo_p: persistence of rank-biased overlap.
        ties: tie rule of rank-biased overlap.
        explained_class: "predicted" explains each variant's own class, "clean" the clean image's class on all, "label"
            the true class on all.
        batch: images in every forward pass; short passes are filled up, and the number is halved when the device runs
            out of memory. Another number changes the last bits of the results.
        similarities: names of the measures beside rank-biased overlap; None for all cheap ones.
        precision: of the layers, one of `defaults.PRECISIONS`; maps are float32 in all of them.
        compile: torch compiles the layers up to the target layer.
    """

    cams: tuple[str, ...]
    seed: int = 0
    rbo_p: float = 0.9
    ties: str = "b"
    explained_class: str = "predicted"
    batch: int = SMALLEST_PASS
    similarities: tuple[str, ...] | None = None
    precision: str = "fp32"
    compile: bool = False

    def measures(self) -> list[Similarity]:
        """The measures beside rank-biased overlap; raises UserError for an unknown name."""
        if self.similarities is None:
            return [similarity for similarity in SIMILARITIES if similarity.default]
        return [SIMILARITIES[name] for name in self.similarities]

    def columns(self) -> tuple[Column, ...]:
        """Of the score rows: those of every run, then one for each measure from a user's own package."""
        known = {column.name for column in SCORES}
        return (*SCORES, *(one.column for one in self.measures() if one.name not in known))


@dataclass(frozen=True)
class CertifySettings:
    """What is certified; the keys of `contract.certify_config.CertifyConfig`.

    Attributes:
        sigma: S standard deviations of the noise, shares of the pixel range.
        samples: noisy copies of an image for each of them.
        pilot: other copies, which choose the class.
        alpha: probability of an error.
        radii: R distances, shares of sigma.
        item: "rank" or "top".
        top: share of the segments that counts as the top.
        tries: images at each radius where the samples are drawn again.
    """

    sigma: tuple[float, ...]
    samples: int
    pilot: int
    alpha: float
    radii: tuple[float, ...]
    item: str
    top: float
    tries: int = 0


def pass_size(images: int, device: str, bytes_per_image: int = 0, *, costly: bool = False) -> int:
    """Images in every forward pass, by a rule that looks at no machine, so that a resumed run uses the same number.

    On a CPU it is the number from 8 to 16 that leaves fewest places empty when one image's variants are alone in their
    passes. On a GPU it is 128. Models with large layers get fewer.

    Args:
        images: variants of one image, the clean one included.
        device: cpu or cuda.
        bytes_per_image: what the layers of the largest model put out for one image; 0 for a small model.
        costly: a CAM takes hundreds of passes for every image, so that on a GPU, too, empty places cost much.

    Examples:
        >>> from camrobust.measure.settings import pass_size
        >>> pass_size(10, "cpu"), pass_size(16, "cpu"), pass_size(96, "cpu"), pass_size(96, "cuda")
        (10, 8, 8, 128)
    """
    kind = "cpu" if device == "cpu" else "cuda"
    most = max(1, PASS_BYTES[kind] // max(1, bytes_per_image))
    if kind == "cuda" and not costly:
        return min(LARGEST_GPU_PASS, most)
    sizes = range(min(SMALLEST_PASS, most), min(LARGEST_PASS, most) + 1)
    return min(sizes, key=lambda size: (-images % size, size))


@dataclass(frozen=True)
class Sample:
    """One image: its key, and the segments over which its maps are ranked.

    Attributes:
        dataset: name of its dataset.
        image_id: unique within the dataset.
        label: true class, None where unknown.
        segments: (H, W) integers, 0 … m-1.
    """

    dataset: str
    image_id: str
    label: int | None
    segments: Tensor

    @cached_property
    def count(self) -> int:
        """The number m of segments."""
        return int(self.segments.numpy().max()) + 1


@dataclass(frozen=True)
class ImageVariants:
    """An image and some of its variants.

    Attributes:
        sample: the image.
        pixels: (V+1, C, H, W), the clean image first: uint8 photos, or other images as `core.channels.held` makes them.
            They are never written to.
        variants: the V perturbed variants. Those that attack a model are made later, and their pixels here are ignored.

    Raises:
        ValueError: pixels and variants differ in number.
    """

    sample: Sample
    pixels: Tensor
    variants: Sequence[Variant]

    def __post_init__(self) -> None:
        if len(self.pixels) != len(self.variants) + 1:
            raise ValueError(
                f"measure: pixels must hold {len(self.variants) + 1} variants, got {len(self.pixels)}; clean comes "
                "first"
            )
