"""How many images a stage takes at once."""

from camrobust.run.plan import Plan

IMAGES_PER_LOAD = 8
IMAGES_PER_PERTURB = {"cpu": 1, "cuda": 8}
"""A core needs as long for each image alone; a GPU needs for eight of them hardly longer than for one."""
PERTURB_BYTES = 256 * 2**20
"""Most bytes of variants that are made at a time."""
COMMIT_BYTES = 64 * 2**20
"""Size of a score file to aim at when there is enough of it."""
COMMIT_SHARE = 100
"""No commit holds more than this fraction of the run, so that little is lost when the driver dies."""


def images_per_commit(plan: Plan, pending: int) -> int:
    """Images in one commit: files of a good size for an object store, but never much of the run at once."""
    bytes_per_image = plan.rows_per_image * plan.row_bytes
    return max(1, min(COMMIT_BYTES // bytes_per_image, -(-pending // COMMIT_SHARE)))


def images_per_perturb(plan: Plan, device: str, images_per_load: int) -> int:
    """Images that are perturbed at once: no more than memory holds, or than are loaded, as else workers stay idle."""
    bytes_per_image = 3 * plan.config.image.crop**2 * (len(plan.variants) + len(plan.parts))
    return max(1, min(IMAGES_PER_PERTURB[device], images_per_load, PERTURB_BYTES // bytes_per_image))
