"""The original ImageNet-C's formulas, slowly, with the random numbers given: float64, loops, scipy, Pillow."""

import math

import numpy as np
from PIL import Image
from scipy import ndimage


def _rgb(image):
    return np.moveaxis(image, 0, -1)


def pixelate(image, scale):
    """8-bit (3, H, W) in [0, 255]: Pillow's BOX both ways."""
    H, W = image.shape[1:]
    small = Image.fromarray(_rgb(image)).resize((int(W * scale), int(H * scale)), Image.Resampling.BOX)
    return np.moveaxis(np.asarray(small.resize((W, H), Image.Resampling.BOX)), -1, 0)


def glass_blur(image, sigma, delta, down, across):
    """The overwriting loop; down and across (iterations, rows, columns) hold the displacements of visited pixels."""
    first = ndimage.gaussian_filter(image, (0, sigma, sigma), mode="nearest", truncate=4)
    levels = np.floor(first * 255 + 1e-6)
    H, W = image.shape[1:]
    for dy, dx in zip(down, across, strict=True):
        for h in range(H - delta, delta, -1):
            for w in range(W - delta, delta, -1):
                place = (h - delta - 1, w - delta - 1)
                levels[:, h, w] = levels[:, h + dy[place], w + dx[place]]
    return ndimage.gaussian_filter(levels / 255, (0, sigma, sigma), mode="nearest", truncate=4).clip(0, 1)


def motion_blur(planes, radius, sigma, degrees):
    """A one-sided normal curve along a line, tap by tap; planes (C, H, W)."""
    count = 2 * radius + 1
    weights = [math.exp(-(place**2) / (2 * sigma**2)) for place in range(count)]
    out = np.zeros(planes.shape)
    H, W = planes.shape[1:]
    for place, weight in enumerate(weights):
        dy = math.ceil(place * math.sin(math.radians(degrees)) - 0.5)
        dx = math.ceil(place * math.cos(math.radians(degrees)) - 0.5)
        rows, columns = (np.arange(H) + dy).clip(0, H - 1), (np.arange(W) + dx).clip(0, W - 1)
        out += weight / sum(weights) * planes[:, rows][:, :, columns]
    return out


def snow(image, loc, scale, zoom, threshold, radius, sigma, mix, normal, degrees):
    H, W = image.shape[1:]
    flakes = ndimage.zoom(loc + scale * normal, zoom, order=1)
    top, left = (flakes.shape[0] - H) // 2, (flakes.shape[1] - W) // 2
    flakes = flakes[top : top + H, left : left + W]
    flakes = np.floor(np.where(flakes < threshold, 0, flakes).clip(0, 1) * 255)
    layer = np.floor(motion_blur(flakes[None], radius, sigma, degrees)[0] + 0.5) / 255
    grey = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
    whitened = mix * image + (1 - mix) * np.maximum(image, grey * 1.5 + 0.5)
    return (whitened + layer + np.rot90(layer, 2)).clip(0, 1)


def frost(image, weight, ice, path, down, across):
    """down and across are shares of the room that the photograph leaves."""
    photograph = np.moveaxis(np.asarray(Image.open(path).convert("RGB")), -1, 0) / 255
    H, W = image.shape[1:]
    top, left = int(down * (photograph.shape[1] - H)), int(across * (photograph.shape[2] - W))
    return (weight * image + ice * photograph[:, top : top + H, left : left + W]).clip(0, 1)


def elastic_transform(image, alpha, sigma, affine, corners, field):
    """corners (3, 2) and field (2, H, W), all in [-1, 1)."""
    H, W = image.shape[1:]
    centre, reach = np.array([H // 2, W // 2]), min(H, W) // 3
    before = np.array([centre + reach, centre + np.array([reach, -reach]), centre - reach], dtype=float)
    after = before + affine * 244 * corners
    # after = M · before for three points; what stood at a place came from the inverse.
    forward = np.vstack((np.linalg.solve(np.column_stack((before, np.ones(3))), after).T, [0, 0, 1]))
    y, x = np.mgrid[0:H, 0:W]
    from_x, from_y, _ = np.tensordot(np.linalg.inv(forward), np.stack((x, y, np.ones((H, W)))), axes=1)
    mapped = [ndimage.map_coordinates(plane, (from_y, from_x), order=1, mode="mirror") for plane in image]
    dx, dy = (ndimage.gaussian_filter(one, sigma * 244, mode="reflect", truncate=3) * alpha * 244 for one in field)
    moved = [ndimage.map_coordinates(plane, (y + dy, x + dx), order=1, mode="reflect") for plane in mapped]
    return np.stack(moved).clip(0, 1)
