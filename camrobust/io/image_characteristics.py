"""Properties of a photo that may explain how stable its maps are."""

import numpy as np
from numpy.typing import NDArray

LUMA = (0.299, 0.587, 0.114)


def characteristics(pixels: NDArray[np.uint8]) -> dict[str, float]:
    """Brightness, contrast, colourfulness, edge density and share of high frequencies; names as in `schema.IMAGES`.

    Args:
        pixels: (3, H, W) uint8 RGB.
    """
    colour = pixels.astype(np.float64)
    luma = np.tensordot(np.array(LUMA), colour, axes=1) / 255
    red_green = colour[0] - colour[1]
    yellow_blue = (colour[0] + colour[1]) / 2 - colour[2]
    spread = np.hypot(red_green.std(), yellow_blue.std())
    offset = np.hypot(red_green.mean(), yellow_blue.mean())
    return {
        "brightness": float(luma.mean()),
        "contrast": float(luma.std()),
        "colourfulness": float(spread + 0.3 * offset),
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
