"""How much each stage takes at once."""

from camrobust.run.plan import Plan

IMAGES_PER_LOAD = 8
IMAGES_PER_PERTURB = {"cpu": 1, "cuda": 8}
"""On a GPU launch overhead dominates, so eight images cost little more than one; on a core each costs the same."""
PERTURB_BYTES = 256 * 2**20
"""Most bytes of variants that are made at a time."""
VARIANTS_PER_EXPLAIN = 32
"""Explain workers combine small parts until they hold about this many variants."""
COMMIT_BYTES = 64 * 2**20
"""Size of a score file to aim at when there are enough rows."""
COMMITS_PER_RUN = 100
"""A run has at least so many commits, so that little is lost when the driver dies."""


def images_per_load(pending: int, explainers: int) -> int:
    """Images that one task loads: few where few are pending, so that every Explain worker gets some.

    Args:
        pending: parts of images that are missing in the whole run.
        explainers: most Explain workers.
    """
    return max(1, min(IMAGES_PER_LOAD, pending // (4 * explainers)))


def images_per_perturb(plan: Plan, device: str, per_load: int) -> int:
    """Images that are perturbed at once: as many as memory holds, and no more than are loaded at once.

    Waiting for a larger batch than is loaded would leave workers idle.
    """
    bytes_per_image = 3 * plan.config.image.crop**2 * (len(plan.variants) + len(plan.parts))
    return max(1, min(IMAGES_PER_PERTURB[device], per_load, PERTURB_BYTES // bytes_per_image))


def parts_per_explain(plan: Plan) -> int:
    """Parts of images that an Explain worker takes at a time."""
    return max(1, VARIANTS_PER_EXPLAIN // (1 + len(plan.parts[0])))


def images_per_commit(plan: Plan, pending: int) -> int:
    """Images in one commit: files of a good size for an object store, but never much of the run at once."""
    bytes_per_image = plan.rows_per_image * plan.row_bytes
    return max(1, min(COMMIT_BYTES // bytes_per_image, -(-pending // COMMITS_PER_RUN)))
