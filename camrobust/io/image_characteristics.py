"""Properties of a photo that may explain how stable its maps are."""

import numpy as np
from numpy.typing import NDArray

from camrobust.contract.defaults import RGB

LUMA = (0.299, 0.587, 0.114)


def characteristics(pixels: NDArray[np.uint8] | NDArray[np.float32]) -> dict[str, float | None]:
    """Brightness, contrast, colourfulness, edge density and share of high frequencies; names as in `schema.IMAGES`.

    Args:
        pixels: (3, H, W) uint8 RGB; or (C, H, W) in [0, 1] for other numbers of channels, whose mean stands for the
            luminance and which have no colourfulness.
    """
    colour = pixels.astype(np.float64)
    if len(pixels) == RGB:
        return _grey_properties(np.tensordot(np.array(LUMA), colour, axes=1) / 255, _colourfulness(colour))
    return _grey_properties(colour.mean(axis=0), None)


def _colourfulness(colour: NDArray[np.float64]) -> float:
    """On the [0, 255] scale."""
    red_green = colour[0] - colour[1]
    yellow_blue = (colour[0] + colour[1]) / 2 - colour[2]
    spread = np.hypot(red_green.std(), yellow_blue.std())
    offset = np.hypot(red_green.mean(), yellow_blue.mean())
    return float(spread + 0.3 * offset)


def _grey_properties(luma: NDArray[np.float64], colourfulness: float | None) -> dict[str, float | None]:
    return {
        "brightness": float(luma.mean()),
        "contrast": float(luma.std()),
        "colourfulness": colourfulness,
        "edge_density": _edge_density(luma),
        "high_frequency": _high_frequency(luma),
    }


def _edge_density(luma: NDArray[np.float64]) -> float:
    """Share of pixels whose Sobel gradient (per pixel, of luminance in [0, 1]) exceeds 0.1."""
    padded = np.pad(luma, 1, mode="edge")
    smooth_rows = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    smooth_columns = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    across = (smooth_rows[:, 2:] - smooth_rows[:, :-2]) / 2
    down = (smooth_columns[2:] - smooth_columns[:-2]) / 2
    return float((np.hypot(across, down) > 0.1).mean())


def _high_frequency(luma: NDArray[np.float64]) -> float:
    """Share of the spectral energy, without the mean, above a quarter of the sampling rate."""
    energy = np.abs(np.fft.fft2(luma - luma.mean())) ** 2
    rows, columns = (np.fft.fftfreq(size) for size in luma.shape)
    radius = np.hypot(rows[:, None], columns[None, :])
    total = energy.sum()
    return float(energy[radius > 0.25].sum() / total) if total > 0 else 0.0
