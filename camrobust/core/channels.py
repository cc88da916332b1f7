"""The pixels of an image by its number of channels: three are a photo of 256 levels, all others have 65,536 levels.

As they are measured ("held"), photos are uint8, and images of any other number of channels float32 multiples of
1/65535. So radiographs of 8, 12 and 16 bits keep their depth: v/255 = 257·v/65535.
"""

import torch
from torch import Tensor

from camrobust.contract.defaults import RGB

DEEP = 65535
"""The highest level of an image that does not have three channels."""


def pixel_bytes(channels: int) -> int:
    """Bytes of one pixel as it is measured."""
    return RGB if channels == RGB else 4 * channels


def held(images: Tensor) -> Tensor:
    """Pixels as they are measured.

    Args:
        images: (…, C, H, W), uint8, uint16, or a float type in [0, 1]; values beyond are clipped.

    Returns:
        (…, C, H, W): uint8 for three channels, else float32 multiples of 1/65535.

    Raises:
        ValueError: three channels of 16 bits.

    Examples:
        >>> import torch
        >>> from camrobust.core.channels import held
        >>> held(torch.full((3, 1, 1), 0.5)).flatten(), held(torch.full((1, 1, 1), 0.5)).mul(65535).flatten()
        (tensor([128, 128, 128], dtype=torch.uint8), tensor([32768.]))
    """
    whole = {torch.uint8: 255, torch.uint16: DEEP}.get(images.dtype)
    if images.shape[-3] == RGB:
        if images.dtype == torch.uint16:
            raise ValueError("images: three channels must be uint8 or in [0, 1], got uint16; divide by 65535")
        return images if whole else (images * 255).round().clamp(0, 255).to(torch.uint8)
    if whole:
        return _quotient(images.float(), whole)
    return _quotient((images.float() * DEEP).round().clamp(0, DEEP), DEEP)


def unit(pixels: Tensor) -> Tensor:
    """Held pixels as float32 in [0, 1]."""
    return _quotient(pixels.float(), 255) if pixels.dtype == torch.uint8 else pixels


def _quotient(levels: Tensor, highest: int) -> Tensor:
    # Divided by a tensor: a GPU multiplies by the reciprocal of a plain number, which differs in the last place.
    return levels / torch.tensor(float(highest), device=levels.device)


def as_photo(pixels: Tensor) -> Tensor:
    """A picture of an image, (…, 3, H, W) uint8: a photo as it is, others as the grey of their channels' mean.

    Args:
        pixels: (…, C, H, W) as for `held`.
    """
    if pixels.shape[-3] == RGB:
        return held(pixels)
    mean = held(pixels).mean(dim=-3, keepdim=True)
    return (mean * 255).round().clamp(0, 255).to(torch.uint8).expand(*pixels.shape[:-3], RGB, -1, -1)


def noise(images: int, channels: int, side: int) -> Tensor:
    """Images of noise to try something with, (B, C, side, side) as they are measured; always the same."""
    shape = (images, channels, side, side)
    drawn = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return held(drawn)


def check_channels(where: str, images: Tensor) -> None:
    """Raise ValueError unless images are (B, C, H, W) with at least one channel."""
    if images.ndim != 4 or not images.shape[1]:
        raise ValueError(
            f"{where}: images must have the shape (B, C, H, W), got {tuple(images.shape)}; add the batch axis"
        )


def spoken(count: int) -> str:
    """A number of channels in words."""
    return f"{count} channel" if count == 1 else f"{count} channels"
