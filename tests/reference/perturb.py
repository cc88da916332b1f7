"""Float64 loops over pixels, and a Philox in plain Python integers."""

import math

import numpy as np

MASK = 0xFFFFFFFF


def philox4x32(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(second >> 32) ^ c[1] ^ k[0], second & MASK, (first >> 32) ^ c[3] ^ k[1], first & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def _each(image, change):
    out = np.empty(image.shape)
    for place in np.ndindex(image.shape):
        out[place] = min(1.0, max(0.0, change(float(image[place]), place)))
    return out


def gaussian_noise(image, sigma, normal):
    return _each(image, lambda x, place: x + sigma * float(normal[place]))


def speckle_noise(image, sigma, normal):
    return _each(image, lambda x, place: x + x * sigma * float(normal[place]))


def uniform_noise(image, half_width, uniform):
    return _each(image, lambda x, place: x + half_width * (2 * float(uniform[place]) - 1))


def impulse_noise(image, amount, uniform):
    def change(x, place):
        u = float(uniform[place])
        return 0.0 if u < amount / 2 else 1.0 if u < amount else x

    return _each(image, change)


def salt_pepper(image, amount, uniform):
    return impulse_noise(image, amount, np.broadcast_to(uniform, image.shape))


def shot_noise(image, rate, uniform):
    def change(x, place):
        mean, u, count = round(x * 255) / 255 * rate, float(uniform[place]), 0
        chance = total = math.exp(-mean)
        while total <= u:
            count += 1
            chance *= mean / count
            total += chance
        return count / rate

    return _each(image, change)


def gaussian_blur(image, sigma):
    radius = int(4 * sigma + 0.5)
    kernel = [math.exp(-0.5 * (o / sigma) ** 2) for o in range(-radius, radius + 1)]
    kernel = [value / sum(kernel) for value in kernel]
    _, H, W = image.shape
    down, out = np.zeros(image.shape), np.zeros(image.shape)
    for y in range(H):
        for place, weight in enumerate(kernel):
            down[:, y] += weight * image[:, min(H - 1, max(0, y + place - radius))]
    for x in range(W):
        for place, weight in enumerate(kernel):
            out[:, :, x] += weight * down[:, :, min(W - 1, max(0, x + place - radius))]
    return out


def brightness(image, shift):
    import colorsys

    out = np.empty(image.shape)
    for y, x in np.ndindex(image.shape[1:]):
        h, s, v = colorsys.rgb_to_hsv(*image[:, y, x])
        out[:, y, x] = colorsys.hsv_to_rgb(h, s, min(1.0, max(0.0, v + shift)))
    return out


def contrast(image, factor):
    means = [float(np.mean(plane)) for plane in image]
    return _each(image, lambda x, place: (x - means[place[0]]) * factor + means[place[0]])
