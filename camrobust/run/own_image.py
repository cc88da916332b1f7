"""Size and filter of the images where the configuration says none: those of the models' published weights."""

from collections.abc import Mapping

from camrobust.contract.config import RunConfig
from camrobust.contract.errors import UserError
from camrobust.contract.image_config import OWN, ImageConfig
from camrobust.contract.run_record import RunRecord
from camrobust.measure.preprocessing import published_preprocessing
from camrobust.results.folder import open_run
from camrobust.results.shards import shards_record
from camrobust.run.plan import spec_of

WEIGHTS, DEFAULT, GIVEN = "weights", "default", "configuration"
"""Where the settings of the images come from."""


def with_own_image(config: RunConfig, *, fresh: bool = False) -> tuple[RunConfig, str]:
    """The configuration with the image settings that the run has.

    What the configuration says is kept. Otherwise they are those with which the run in the output began; for a new run
    those of its models' published weights, and 256, 224 and bilinear for a model whose weights say nothing.

    Args:
        config: the run.
        fresh: it does not go on with the run in the output.

    Returns:
        The configuration; and `WEIGHTS` if every model's weights say these settings, `GIVEN` or `DEFAULT`.

    Raises:
        UserError: the models of a new run want different images.
    """
    if not config.image.is_own:
        return config, GIVEN
    begun = None if fresh else _begun(config.output)
    if begun is not None:
        return _replaced(config, begun), GIVEN
    wanted = {model.name: published_preprocessing(spec_of(model)) for model in config.models}
    _check_alike({name: image or ImageConfig() for name, image in wanted.items()})
    known = [image for image in wanted.values() if image is not None]
    source = WEIGHTS if len(known) == len(wanted) else DEFAULT
    return (_replaced(config, known[0]) if known else config), source


def _begun(output: str) -> ImageConfig | None:
    """The settings of the run in a folder, if there is one."""
    folder = open_run(output)
    record: RunRecord | None = shards_record(folder) or folder.record()
    if record is None:
        return None
    plain = record.numbers.plain.get("image") or {}
    try:
        return ImageConfig(**{name: plain[name] for name in OWN if name in plain})
    except (ValueError, TypeError):
        return ImageConfig()


def _replaced(config: RunConfig, image: ImageConfig) -> RunConfig:
    whole = image.model_copy(update={"channels": config.image.channels})
    return config.model_copy(update={"image": whole})


def _check_alike(images: Mapping[str, ImageConfig]) -> None:
    (first, one), *others = images.items()
    for name, other in others:
        if other != one:
            raise UserError(
                f"models: '{first}' wants images of {one.in_words}, and '{name}' {other.in_words}, but a run perturbs "
                "its images once for all models; make a run of each, which camrobust aggregate pools, or set image for "
                "both"
            )
