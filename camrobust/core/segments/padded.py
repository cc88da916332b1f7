"""Images in one flat tensor with margins, in which a neighbour is at the same distance for every pixel."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class PaddedBatch:
    """The arrangement of images of one size in a flat tensor.

    The rows of all images follow one another, with margins as wide as the window reaches. Operations on neighbours are
    therefore shifts of the whole tensor, without a check for edges.

    Attributes:
        count: number of images.
        height: rows of an image.
        width: pixels of a row.
        reach: pixels from the middle of the window to its edge; also the width of every margin.
    """

    count: int
    height: int
    width: int
    reach: int

    @property
    def stride(self) -> int:
        """Distance from a pixel to the one below it."""
        return self.width + self.reach

    @property
    def start(self) -> int:
        """Index of the first pixel."""
        return self.reach * self.stride + self.reach

    @property
    def length(self) -> int:
        """Distance from the first pixel to the end of the margin below the last image."""
        return self.count * (self.height + self.reach) * self.stride

    def flatten(self, values: Tensor, margin: float) -> Tensor:
        """Values (B, …, H, W) as (…, n), with all margins set to one value."""
        rows = pad(values, (0, self.reach, 0, self.reach), value=margin).movedim(0, -3).flatten(-3)
        return pad(rows, (self.start, self.start), value=margin)

    def unflatten(self, values: Tensor) -> Tensor:
        """Values (`length`,), which begin at the first pixel, as (B, H, W)."""
        return values.view(self.count, self.height + self.reach, self.stride)[:, : self.height, : self.width]
