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
COMMIT_BATCH_BYTES = 256 * 2**20
"""Most bytes of score rows, of all models, in one batch for Commit; they are not compressed there."""
BATCH_ROW_BYTES = 200
"""About how many bytes a score row takes in a batch, besides its image_id."""
COMMITS_PER_RUN = 100
"""A run of more parts than this has at least about so many commits, so that little is lost when the driver dies."""


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
    """Images in one commit: files of a good size for an object store, but never much memory or much of the run at once.

    Args:
        plan: the run.
        pending: parts of images that are missing in the whole run.
    """
    by_file = COMMIT_BYTES // (plan.rows_per_image * plan.row_bytes)
    by_memory = COMMIT_BATCH_BYTES // batch_bytes_per_image(plan)
    return max(1, min(by_file, by_memory, -(-pending // COMMITS_PER_RUN)))


def batch_bytes_per_image(plan: Plan) -> int:
    """About how many bytes the score rows of one image take in a batch for Commit, all models together."""
    row_bytes = BATCH_ROW_BYTES + int(plan.manifest["image_id"].str.len_bytes().sum()) // plan.manifest.height
    return len(plan.config.models) * plan.rows_per_image * row_bytes
