"""Whether the positions of a layer's output are those of the picture, tried by moving a bright patch over the input.

Shapes alone do not tell. Hiera, for one, keeps the tokens of its first stages in the order in which it will pool them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from camrobust.core.explain.hooks import hooked
from camrobust.core.explain.layout import Grid, Layout, tensor_in
from camrobust.core.explain.network import frozen
from camrobust.core.explain.tail import nearly_equal
from camrobust.core.precision import arithmetic

SIDE = 3
"""The patch is moved over SIDE x SIDE places."""
OWN = 0.5
"""Least effect on positions of the patch that covers each, as a share of the largest effect of any patch on it; not
reached where strides without padding shift positions by half a cell."""
CLEAR = 1 / 3
"""Least share of the strongest of the nine patches in all change, in the mean over positions, at which positions tell
anything. Not reached where every position sees the whole picture, as in deep networks on small images."""
FOLLOWING = 0.7
"""Least correlation, over positions, between a position and the middle of what patches change it. Not reached where all
patches change all positions nearly alike."""
SAME = 1e-5
"""Largest difference of two tokens, relative to the largest value, at which they count as the same."""


def layout_by_patches(module: nn.Module, sample: Tensor, name: str, layouts: Sequence[Layout]) -> Layout | None:
    """The first layout under which a patch in the input changes the layer's output where the patch is.

    A layer that does not depend on the input, or on all places alike, has any layout. Tokens in another order are
    reordered if the model's own feature maps (timm's `forward_intermediates`) tell how.

    Args:
        module: a classifier.
        sample: (B, C, H, W), normalised; B images are passed at once.
        name: of the layer.
        layouts: those that fit the shape of its output.

    Returns:
        The layout; None if the output is in an order that is not known.
    """
    pictures = _patched(sample[:1])
    with torch.no_grad(), frozen(module), arithmetic("fp32", sample.device):
        outputs = torch.cat([_outputs(module, some, [name])[name] for some in pictures.split(len(sample))])
        for layout in layouts:
            if in_order(outputs, layout):
                return layout
        for layout in layouts:
            for places in _orders(module, sample, layout):
                if in_order(outputs, replace(layout, places=places)):
                    return replace(layout, places=places)
    return None


def in_order(outputs: Tensor, layout: Layout) -> bool:
    """Whether patches change a layer's outputs where they are, given the outputs for the pictures of `_patched`.

    Where the effects of patches are not `CLEAR`, any order is taken. Otherwise one of two signs is enough, `OWN` and
    `FOLLOWING`. Tokens in another order, rows and columns exchanged, and a mirrored picture show neither.
    """
    changes = layout.to_map(outputs[1:] - outputs[:1]).double().square().sum(dim=1)
    # Of what all patches together change at a position; where none changes anything, which tells nothing, all the same.
    shares = (changes / changes.sum(dim=0)).nan_to_num(1 / SIDE**2)
    rows, columns = (_nearest_place(cells, changes.device) for cells in changes.shape[1:])
    own = shares.gather(0, (rows[:, None] * SIDE + columns)[None])
    strongest = shares.amax(dim=0)
    if float(strongest.mean()) < CLEAR or float(own.sum()) >= OWN * float(strongest.sum()):
        return True
    by_place = shares.unflatten(0, (SIDE, SIDE))
    places = torch.arange(SIDE, device=changes.device, dtype=torch.float64)
    down = torch.einsum("abhw,a->hw", by_place, places)
    across = torch.einsum("abhw,b->wh", by_place, places)
    return all(_follows(middles) for middles in (down, across) if len(middles) > 1)


def _follows(middles: Tensor) -> bool:
    """Whether values (n, m), those of n positions along a side, grow along it."""
    numbers = torch.arange(len(middles), device=middles.device, dtype=torch.float64)[:, None].expand_as(middles)
    return float(torch.corrcoef(torch.stack([middles.flatten(), numbers.flatten()]))[0, 1]) >= FOLLOWING


def _nearest_place(cells: int, device: torch.device) -> Tensor:
    """For every cell along a side, which of the places of the patch covers its middle, (cells,) int64."""
    return (torch.arange(cells, device=device) * 2 + 1) * SIDE // (2 * cells)


def _patched(image: Tensor) -> Tensor:
    """A dim image (1, C, H, W), then the same with a bright patch at every place, row by row."""
    dim = image / 2
    pictures = [dim]
    for rows in torch.arange(image.shape[2]).tensor_split(SIDE):
        for columns in torch.arange(image.shape[3]).tensor_split(SIDE):
            picture = dim.clone()
            picture[:, :, rows[:, None], columns] += 1
            pictures.append(picture)
    return torch.cat(pictures)


def _outputs(module: nn.Module, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """What some layers put out for images, by their names."""
    parts = {part: name for name, part in module.named_modules() if name in names}
    found: dict[str, Tensor] = {}

    def keep(part: nn.Module, _inputs: object, output: object) -> None:
        tensor = tensor_in(output)
        if tensor is not None:
            found[parts[part]] = tensor.clone()

    with hooked(parts, keep):
        module(images)
    return found


def _orders(module: nn.Module, sample: Tensor, layout: Layout) -> Iterator[tuple[int, ...]]:
    """Orders of tokens (see `Layout.places`) in which the model itself makes feature maps of the layout's grid."""
    intermediates: Any = getattr(module, "forward_intermediates", None)
    if layout.order != "tokens" or intermediates is None:
        return
    try:
        maps = intermediates(sample, intermediates_only=True)
    except Exception:  # noqa: BLE001 - the user's code, which may raise anything
        return
    of_grid = [one for one in maps if isinstance(one, Tensor) and _is_grid(one, layout.grid)]
    outputs = _outputs(module, sample, [name for name, _ in module.named_modules() if name])
    for one in of_grid:
        wanted = one[0].flatten(1).T
        for tokens in outputs.values():
            if tokens.ndim == 3 and tokens.shape[1:] == (layout.prefix + len(wanted), wanted.shape[1]):
                places = _same_rows(wanted, tokens[0, layout.prefix :])
                if places is not None:
                    yield places


def _is_grid(maps: Tensor, grid: Grid) -> bool:
    return maps.ndim == 4 and tuple(maps.shape[2:]) == grid


def _same_rows(wanted: Tensor, rows: Tensor) -> tuple[int, ...] | None:
    """For every wanted row, the number of the equal one among as many other rows; None if they are not the same."""
    direction = torch.randn(wanted.shape[1], 1, generator=torch.Generator().manual_seed(0)).to(wanted)
    rank, numbers = (wanted @ direction)[:, 0].argsort().argsort(), (rows @ direction)[:, 0].argsort()
    places = numbers[rank]
    return tuple(places.tolist()) if nearly_equal(rows[places], wanted, SAME) else None
