"""Results and photographs must lie apart, so that neither is taken for the other."""

import polars as pl

from camrobust.contract.config import RunConfig
from camrobust.contract.errors import UserError
from camrobust.io.manifest import TABLES
from camrobust.io.store import open_store


def check_apart(config: RunConfig) -> None:
    """Refuse an output inside a dataset's images, or the reverse, before anything is listed or written.

    Figures would be taken for photographs there, and photographs would lie among results.

    Raises:
        UserError: naming both.
    """
    output = _folder(config.output)
    for dataset in config.datasets:
        images = _folder(dataset.images)
        if not dataset.images.lower().endswith(TABLES) and (output.startswith(images) or images.startswith(output)):
            raise UserError(
                f"output: {config.output} and the images of dataset '{dataset.name}' ({dataset.images}) lie inside one "
                "another; choose an output beside them"
            )


def check_photos(config: RunConfig, manifest: pl.DataFrame) -> None:
    """Refuse photographs inside the output, also where a manifest or a link to a folder leads there.

    Raises:
        UserError: naming one of them.
    """
    output = _folder(config.output)
    folders = manifest.with_columns(folder=pl.col("uri").str.replace(r"[^/]*$", "")).unique("folder")
    for uri, folder in folders.select("uri", "folder").iter_rows():
        if (folder if "://" in folder else _folder(folder)).startswith(output):
            raise UserError(f"output: {config.output} contains the photograph {uri}; choose an output beside them")


def _folder(uri: str) -> str:
    """An address with links resolved and a slash at its end; addresses inside the folder begin with it."""
    return open_store(uri).locate("_").removesuffix("_")
