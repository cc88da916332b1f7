"""Tie groups by a plain loop in float64: a group holds all that lie within 4 float32 ulp from its first."""


def groups_of(scores):
    """The first and the last rank, from 0 for the highest score, of every score's group."""
    allowed = 4 * 2.0**-23 * max(abs(score) for score in scores)
    order = sorted(range(len(scores)), key=lambda item: -scores[item])
    first, last = {}, {}
    begin = 0
    for rank, item in enumerate(order):
        if -scores[item] > -scores[order[begin]] + allowed:
            begin = rank
        first[item] = begin
    for item in order:
        last[item] = max(rank for rank, other in enumerate(order) if first[other] == first[item])
    return [first[item] for item in range(len(scores))], [last[item] for item in range(len(scores))]


def merged(scores):
    """The scores with every group at its first score, so that tied scores are equal."""
    first, _ = groups_of(scores)
    falling = sorted(scores, reverse=True)
    return [falling[rank] for rank in first]
