"""How much each stage takes at once."""

from camrobust.contract.defaults import RGB
from camrobust.core.channels import pixel_bytes
from camrobust.core.explain.cams import CAMS
from camrobust.run.plan import Plan

IMAGES_PER_BLOCK = 64
"""Messages and tasks cost the same for one image as for many; with more than this they cost next to nothing."""
BLOCK_BYTES = 128 * 2**20
"""Most bytes of variants in a block. Ray Data cuts blocks that are larger than this."""
PASSES_PER_BLOCK = {"cpu": 768, "cuda": 32_768}
"""Most passes that a block needs: about a minute of work, which is lost when its worker is. For the largest networks on
a core it is half an hour, and a run may stand still for 40 minutes (`cluster.image_timeout_s`)."""
PASS_S = 2.5
"""Seconds of a pass through the largest networks on a core."""
PASSES_OF_CAM = {"shared": 0, "tail": 4, "passes": 4, "many passes": 512, "thousands of passes": 5120}
"""About how many passes a CAM adds for each variant, by its cost."""
BLOCKS_PER_EXPLAINER = 8
"""A run has at least so many blocks per Explain worker, if it has the images: no worker waits long for the last one."""
IMAGES_PER_PASS = {"cpu": 1, "cuda": 8}
"""Images that Perturb perturbs together. On a GPU launch overhead dominates, so eight images cost little more than one;
on a core each costs the same."""
PASS_BYTES = 256 * 2**20
"""Most bytes of variants that Perturb makes together."""
COMMIT_BYTES = 64 * 2**20
"""Size of a score file to aim at when there are enough rows."""
COMMIT_BATCH_BYTES = 256 * 2**20
"""Most bytes of score rows, of all models, in one batch for Commit; they are not compressed there."""
BATCH_ROW_BYTES = 200
"""About how many bytes a score row takes in a batch, besides its image_id."""
COMMITS_PER_RUN = 100
"""A run of more blocks than this has about so many commits or more, so that little is lost when the driver dies."""


def images_per_block(plan: Plan, pending: int, explainers: int, device: str) -> int:
    """Images that pass from stage to stage together: few where few are pending, so that every Explain worker gets some.

    Args:
        plan: the run.
        pending: parts of images that are missing in the whole run.
        explainers: most Explain workers.
        device: where they compute, cpu or cuda.
    """
    by_work = PASSES_PER_BLOCK[device] // passes_per_image(plan)
    by_bytes = BLOCK_BYTES // variant_bytes(plan)
    return max(1, min(IMAGES_PER_BLOCK, by_bytes, by_work, pending // (BLOCKS_PER_EXPLAINER * explainers)))


def passes_per_image(plan: Plan) -> int:
    """About how many passes an image takes under all models, those of attacks and of noisy copies included."""
    each = 1 + sum(PASSES_OF_CAM[CAMS[name].cost] for name in plan.config.cams)
    passed = len(plan.variants) + len(plan.parts) + plan.noisy_copies
    return len(plan.config.models) * (each * passed + plan.attack_passes)


def longest_image_s(plan: Plan) -> float:
    """How long the passes of one image may take under all models, s, if they are as slow as they ever are."""
    return PASS_S * passes_per_image(plan) if plan.noisy_copies else 0.0


def variant_bytes(plan: Plan) -> int:
    """Bytes of the variants of one image, its segments included, as they pass from Perturb to Explain."""
    pixels = plan.config.image.crop**2
    each = pixel_bytes(plan.config.channels)
    return pixels * (each * (len(plan.variants) + len(plan.parts)) + 4 * len(plan.parts))


def images_per_pass(crop: int, variants: int, device: str, channels: int = RGB) -> int:
    """Images that Perturb perturbs together, as many as memory holds.

    Args:
        crop: side of the images, px.
        variants: of each image, in one part.
        device: cpu or cuda.
        channels: of the images.
    """
    image_bytes = pixel_bytes(channels) * crop**2
    return max(1, min(IMAGES_PER_PASS[device], PASS_BYTES // (image_bytes * (1 + variants))))


def images_per_commit(plan: Plan, pending: int, block: int = 1) -> int:
    """Images in one commit: files of a good size for an object store, but never much memory or much of the run at once.

    Args:
        plan: the run.
        pending: parts of images that are missing in the whole run.
        block: images in a block; a commit holds whole blocks where it can.
    """
    by_file = COMMIT_BYTES // (plan.rows_per_image * plan.row_bytes)
    by_memory = COMMIT_BATCH_BYTES // batch_bytes_per_image(plan)
    # A block arrives as a whole, so that cutting it would only make more files.
    of_the_run = -(-pending // (COMMITS_PER_RUN * block)) * block
    most = max(1, min(by_file, by_memory, of_the_run))
    return most - most % block if most >= block else most


def batch_bytes_per_image(plan: Plan) -> int:
    """About how many bytes the rows of one image take in a batch for Commit, all models together."""
    row_bytes = BATCH_ROW_BYTES + int(plan.manifest["image_id"].str.len_bytes().sum()) // plan.manifest.height
    return len(plan.config.models) * (plan.rows_per_image + plan.certificates_per_image) * row_bytes
