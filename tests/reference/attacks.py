"""Attacks on maps written plainly: their differentiable forms in float64 loops, and exhaustive attacks in autograd."""

import math

import torch

from tests.reference import similarity
from tests.reference.ranks import contribution


def logistic(value):
    return 1 / (1 + math.exp(-value))


def deviation(values):
    mean = sum(values) / len(values)
    return (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5


def soft_overlap(clean, scores, p):
    """Rank-biased overlap of the tie rule b in which the second list has soft ranks."""
    m, spread, total = len(clean), deviation(scores), 0.0
    ranks = [0.5 + sum(logistic((other - own) / (0.3 * spread)) for other in scores) for own in scores]
    for d in range(1, m + 1):
        first = [contribution(clean, item, d) for item in range(m)]
        second = [logistic(d + 0.5 - rank) for rank in ranks]
        norms = math.sqrt(sum(c * c for c in first) * sum(c * c for c in second))
        weight = p ** (d - 1) * (1 if d == m else 1 - p)
        total += weight * sum(a * b for a, b in zip(first, second, strict=True)) / norms
    return total


def top_left(moved, clean):
    """Minus the share of mass in the clean map's top 20 %."""
    top = sorted(range(len(clean)), key=lambda place: -clean[place])[: math.ceil(0.2 * len(clean))]
    return -sum(moved[place] for place in top) / sum(moved)


def uncorrelated(moved, clean):
    return -similarity.pearson([moved], [clean])


def apart(moved, clean):
    return -similarity.cosine([moved], [clean])


def mass_moved(moved, clean):
    return similarity.l1([moved], [clean], None)


class PlainGradcam:
    """Grad-CAM of a model and the logits, by a hook and autograd, with a graph back to the pixels."""

    def __init__(self, model):
        self.model = model
        self.layer = model.network.layer

    def __call__(self, levels, classes=None):
        kept = []
        handle = self.layer.register_forward_hook(lambda *call: kept.append(call[-1]))
        try:
            logits = self.model.network.module(self.model.normalise(levels / 255))
        finally:
            handle.remove()
        (A,) = kept
        classes = logits.argmax(dim=1) if classes is None else classes
        score = logits.gather(1, classes[:, None]).sum()
        (g,) = torch.autograd.grad(score, A, create_graph=True)
        return (g.mean(dim=(2, 3), keepdim=True) * A).sum(dim=1).relu(), logits


def plain_attacks(cam, image, radius, climbs, done, steps, seeds, step=1 / 8):
    """Signed ascents within a ball, one for each climb and random start, all as one batch.

    Args:
        cam: a `PlainGradcam`.
        image: (1, 3, H, W) whole levels.
        radius: of the ball, levels.
        climbs: functions (map (h, w), clean map) to what is climbed.
        done: function (map, clean map) that is called on every iterate on the grid that keeps the class; the ascent
            ends where it is true.
        steps: of each ascent.
        seeds: of the random starts.
        step: size of a step, as a share of the radius.

    Returns:
        Whether `done` was ever true.
    """
    clean, logits = cam(image.clone().requires_grad_())
    clean, number = clean.detach()[0], logits.argmax(dim=1)
    goals = [climb for climb in climbs for _ in seeds]
    generators = [torch.Generator().manual_seed(seed) for _ in climbs for seed in seeds]
    starts = [(2 * torch.rand(image.shape[1:], generator=one) - 1) * radius for one in generators]
    at, classes = (image + torch.stack(starts)).clamp(0, 255), number.expand(len(goals))
    for _ in range(steps + 1):
        point = (image + (at - image).round().clamp(-radius, radius)).requires_grad_()
        maps, logits = cam(point, classes)
        kept = logits.argmax(dim=1) == classes
        if any(done(maps[row].detach(), clean) for row in torch.nonzero(kept)[:, 0].tolist()):
            return True
        own = logits.gather(1, classes[:, None])[:, 0]
        rest = logits.scatter(1, classes[:, None], -torch.inf).amax(dim=1)
        climbed = torch.stack([goal(one, clean) for goal, one in zip(goals, maps, strict=True)])
        (gradient,) = torch.autograd.grad(torch.where(kept, climbed, own - rest).sum(), point)
        at = image + (at + step * radius * gradient.sign() - image).clamp(-radius, radius)
        at = at.clamp(0, 255)
    return False


def share_in(top):
    """Climbs away from the share of mass in the clean map's highest positions, `top` of all."""

    def climb(moved, clean):
        count = max(1, round(top * clean.numel()))
        places = clean.flatten().topk(count).indices
        return -moved.flatten()[places].sum() / moved.sum().clamp(min=1e-12)

    return climb


def correlation(moved, clean):
    """Climbs away from the correlation with the clean map."""
    a, b = (one.flatten() - one.mean() for one in (moved, clean))
    return -(a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-12)


def threshold(moved, clean):
    """Climbs down from the threshold of the moved map's top 20 %, at the clean top's positions, within a deviation."""
    values = moved.flatten()
    count = math.ceil(0.2 * values.numel())
    falling = values.sort(descending=True).values
    spread = values.detach().std().clamp(min=1e-12)
    excess = (values - (falling[count - 1] + falling[count]) / 2) / spread
    return -excess[clean.flatten().topk(count).indices].clamp(-1, 1).sum()


STRONGEST = (share_in(0.1), share_in(0.2), correlation, threshold)


def topk_iou_below(share):
    """Whether the overlap of the top 20 % of positions is less than a share; never of a constant map."""

    def done(moved, clean):
        if moved.max() - moved.min() <= 1e-6 * moved.max():
            return False
        return similarity.topk_iou(moved.tolist(), clean.tolist(), None) < share

    return done
