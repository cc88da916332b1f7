"""Random streams: a draw depends on its names alone, never on the batch, the order, the worker or the machine.

The generator is Philox-4x32-10 (Salmon et al. 2011) in integer tensor operations. Its key for each image is a hash of
(run seed, dataset, image id, purpose, strength, replicate). No global generator is touched.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor
from torch.cuda import jiterator

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
FACTORS = [torch.from_numpy(np.array(order)[:, None, None]) for order in (MULTIPLIERS, MULTIPLIERS[::-1])]
CACHED_BLOCKS = 2**16
CUDA_SOURCE = """
template <typename T> T number(T place, T key0, T key1, T word2, T word3, T call) {
  unsigned int c0 = place / 4, c1 = call, c2 = word2, c3 = word3, k0 = key0, k1 = key1;
  for (int round = 0; round < 10; ++round) {
    unsigned long long first = 0xD2511F53ULL * c0, second = 0xCD9E8D57ULL * c2;
    c0 = (unsigned int)(second >> 32) ^ c1 ^ k0;
    c2 = (unsigned int)(first >> 32) ^ c3 ^ k1;
    c1 = (unsigned int)second;
    c3 = (unsigned int)first;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  unsigned int words[4] = {c0, c1, c2, c3};
  return (T)words[place % 4];
}
"""


def philox4x32(counters: Tensor, key: tuple[int, int]) -> Tensor:
    """Philox-4x32-10.

    Args:
        counters: (N, 4) int64, each value in [0, 2**32).
        key: two values in [0, 2**32).

    Returns:
        (N, 4) int64, each value in [0, 2**32): 128 random bits per counter.

    References:
        Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", SC'11.
    """
    words = _rounds([*counters.T[:, None]], _round_keys(np.array([key])))
    return torch.stack([word[0] for word in words], dim=1)


def _round_keys(keys: np.ndarray) -> Tensor:
    """Both keys of every round, (ROUNDS, 2, B, 1) int64, for the keys (B, 2) of the first round.

    The second key comes first in rounds 0, 2, 4, …; `_rounds` tells why.
    """
    every = (keys + np.arange(ROUNDS)[:, None, None] * np.array(WEYL)) & MASK
    every[::2] = every[::2, :, ::-1].copy()
    return torch.from_numpy(np.moveaxis(every, -1, 1)[..., None])


def _rounds(counters: Sequence[Tensor], keys: Tensor) -> tuple[Tensor, ...]:
    """The ten rounds on four words that broadcast to (B, N), with the keys (ROUNDS, 2, B, 1): four words (B, N).

    Words 0 and 2 are multiplied, words 1 and 3 are not; each pair is one tensor, which halves the operations. A round
    exchanges the words of a pair. Here they keep their places in memory, and the multipliers and keys are exchanged.
    """
    shape = (3, 2, *torch.broadcast_shapes(*(word.shape for word in counters)))
    multiplied, added, product = torch.empty(shape, dtype=torch.int64).unbind()
    first, second, spare = multiplied.unbind(), added.unbind(), product.unbind()
    for place, word in zip((first[0], second[0], first[1], second[1]), counters, strict=True):
        place.copy_(word)
    for number, key in enumerate(keys.unbind()):
        # The 64-bit products wrap around in int64, but their lower 32 bits and, shifted, their upper 32 bits are right.
        # Bits above 32 in words 1 and 3 are cut off at their next use.
        torch.mul(multiplied, FACTORS[number % 2], out=product)
        torch.bitwise_right_shift(product, 32, out=multiplied)
        first[0].bitwise_xor_(second[1])
        first[1].bitwise_xor_(second[0])
        multiplied.bitwise_xor_(key).bitwise_and_(MASK)
        added, product, second, spare = product, added, spare, second
    added.bitwise_and_(MASK)
    return first[0], second[0], first[1], second[1]


@cache
def _kernel() -> Callable[..., Tensor]:
    """The same generator as one CUDA kernel, compiled by torch; as tensor operations it would take 130 launches."""
    kernel: Callable[..., Tensor] = jiterator._create_jit_fn(CUDA_SOURCE, call=0)  # noqa: SLF001 - it has no public name
    return kernel


def _words(fields: Sequence[object]) -> tuple[int, int, int, int]:
    """128 bits that name a stream. Each field is hashed after its length, so that no two lists collide."""
    digest = hashlib.blake2b(digest_size=16)
    for field in fields:
        text = str(field).encode()
        digest.update(len(text).to_bytes(8, "little") + text)
    value = digest.digest()
    first, second, third, fourth = (int.from_bytes(value[place : place + 4], "little") for place in (0, 4, 8, 12))
    return first, second, third, fourth


class Draws:
    """One random stream per image; every call takes the next numbers of each stream.

    Uniform numbers have 24 bits and are exact. Normal numbers are computed in float64 and rounded to float32. Another
    machine or a GPU may compute a logarithm or cosine with another last place; this survives the rounding in about one
    of 10**8 numbers, and then changes its last place only.

        draws = Draws.of(0, "val", ["a.jpg", "b.jpg"], "gaussian_noise", "sigma=0.08", 0)
        noise = draws.normal((3, 224, 224))  # (2, 3, 224, 224)

    Args:
        words: for each image, the 128 bits that name its stream.
        device: of the numbers.
    """

    def __init__(self, words: Sequence[tuple[int, int, int, int]], device: str | torch.device = "cpu") -> None:
        self._words = list(words)
        self.device = torch.device(device)
        self._call = 0

    @cached_property
    def _keys(self) -> Tensor:
        """(B, 4, 1) int64: the words of every stream, on the device."""
        keys = torch.tensor(self._words).reshape(-1, 4, 1)
        # From pinned memory the copy waits for nothing; torch keeps that memory until the copy is done.
        if self.device.type == "cuda":
            keys = keys.pin_memory()
        return keys.to(self.device, non_blocking=True)

    @classmethod
    def of(
        cls,
        seed: int,
        dataset: str,
        image_ids: Sequence[str],
        purpose: str,
        strength: str,
        replicate: int,
        device: str | torch.device = "cpu",
    ) -> "Draws":
        """Streams of images for one purpose, for example a perturbation at one strength."""
        words = [_words((seed, dataset, image, purpose, strength, replicate)) for image in image_ids]
        return cls(words, device)

    @classmethod
    def join(cls, parts: Sequence["Draws"]) -> "Draws":
        """The streams of several `Draws` in their order, from their beginning."""
        joined = cls([words for part in parts for words in part._words], parts[0].device)  # noqa: SLF001 - its own class
        # Copied to the device now; a later copy would wait for all work queued on the GPU in between.
        joined._keys  # noqa: B018
        return joined

    def apart(self, purpose: str) -> "Draws":
        """New streams of the same images for another purpose; the streams of this object do not advance."""
        return Draws([_words((*words, purpose)) for words in self._words], self.device)

    def __len__(self) -> int:
        return len(self._words)

    def bits(self, shape: Sequence[int]) -> Tensor:
        """(B, *shape) int64 with 32 random bits each, bit-equal on every device."""
        count = math.prod(shape)
        self._call += 1
        if self.device.type == "cuda":
            places = torch.arange(count, device=self.device)[None]
            return _kernel()(places, *self._keys.unbind(dim=1), call=self._call - 1).reshape(len(self), *shape)
        blocks = torch.arange(-(-count // 4), device=self.device)[None]
        # Small groups of blocks stay in the processor's cache.
        step = max(1, CACHED_BLOCKS // max(1, blocks.shape[1]))
        numbers = torch.empty(len(self), blocks.shape[1], 4, dtype=torch.int64, device=self.device)
        call, keys = torch.full_like(blocks, self._call - 1), _round_keys(np.array(self._words).reshape(-1, 4)[:, :2])
        for start in range(0, len(self), step):
            images = slice(start, start + step)
            _, _, c2, c3 = self._keys[images].unbind(dim=1)
            words = _rounds((blocks, call, c2, c3), keys[:, :, images])
            for place, word in zip(numbers[images].unbind(dim=2), words, strict=True):
                place.copy_(word)
        return numbers.flatten(1)[:, :count].reshape(len(self), *shape)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """(B, *shape) float32 in [0, 1), multiples of 2**-24, bit-equal on every device."""
        return self.bits(shape).bitwise_right_shift_(8).float().mul_(2.0**-24)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """(B, *shape) float32, mean 0, standard deviation 1 (Box-Muller)."""
        count = math.prod(shape)
        half = (count + 1) // 2
        bits = self.bits((2 * half,)).bitwise_right_shift_(8).double()
        radius = (bits[:, :half] + 1).mul_(2.0**-24).log_().mul_(-2).sqrt_()
        angle = bits[:, half:].mul_(2.0**-24 * 2 * math.pi)
        values = torch.empty(len(self), 2 * half, dtype=torch.float32, device=self.device)
        values[:, :half] = angle.cos().mul_(radius)
        values[:, half:] = angle.sin_().mul_(radius)
        return values[:, :count].reshape(len(self), *shape)
