"""Results and photographs must lie apart, so that neither is taken for the other."""

from collections.abc import Mapping

import polars as pl

from camrobust.contract.config import RunConfig
from camrobust.contract.defaults import RGB
from camrobust.contract.errors import UserError
from camrobust.io.clouds import one_spelling
from camrobust.io.file_kinds import is_table_name
from camrobust.io.manifest import list_dataset
from camrobust.io.patterns import before_wildcard, depth, has_wildcard, matcher
from camrobust.io.picture_tables import Columns
from camrobust.io.store import open_store


def list_apart(config: RunConfig) -> tuple[pl.DataFrame, dict[str, Mapping[str, int]], tuple[str, ...]]:
    """List the images of all datasets, which lie apart from the results.

    Returns:
        The images; for every dataset that leaves files out, how many by kind; and sentences for the user.
    """
    check_apart(config)
    arrays = config.channels != RGB
    listed = {
        one.name: list_dataset(
            one.name,
            one.images,
            one.labels,
            one.access,
            one.exclude,
            arrays=arrays,
            label_names=one.label_names,
            columns=Columns(one.image_column, one.label_column),
        )
        for one in config.datasets
    }
    manifest = pl.concat([listing.images for listing in listed.values()])
    check_photos(config, manifest)
    left_out = {name: listing.left_out for name, listing in listed.items() if listing.left_out}
    return manifest, left_out, tuple(remark for listing in listed.values() for remark in listing.remarks)


def check_apart(config: RunConfig) -> None:
    """Refuse an output inside a dataset's images, or the reverse, before anything is listed or written.

    Figures would be taken for photographs there, and photographs would lie among results.

    Raises:
        UserError: naming both.
    """
    output = _folder(config.output)
    for dataset in config.datasets:
        images = _folder(dataset.images)
        around = images.startswith(output) and not is_table_name(dataset.images)
        if around or output.startswith(images) or (has_wildcard(dataset.images) and _among(dataset.images, output)):
            raise UserError(
                f"output: {config.output} and the images of dataset '{dataset.name}' ({dataset.images}) lie inside one "
                "another; choose an output beside them"
            )


def _among(images: str, output: str) -> bool:
    """Whether a pattern may name files inside the output."""
    folder, pattern = before_wildcard(images)
    root = _folder(folder or ".")
    if not output.startswith(root):
        return False
    if depth(pattern) is None:
        return True
    below = output.removeprefix(root).rstrip("/")
    names, levels = pattern.split("/"), below.count("/") + 1
    return levels < len(names) and matcher("/".join(names[:levels])).match(below) is not None


def check_photos(config: RunConfig, manifest: pl.DataFrame) -> None:
    """Refuse photographs inside the output, also where a manifest or a link to a folder leads there.

    Raises:
        UserError: naming one of them.
    """
    output = _folder(config.output)
    folders = manifest.with_columns(folder=pl.col("uri").str.replace(r"[^/]*$", "")).unique("folder")
    for uri, folder in folders.select("uri", "folder").iter_rows():
        if (one_spelling(folder) if "://" in folder else _folder(folder)).startswith(output):
            raise UserError(f"output: {config.output} contains the photograph {uri}; choose an output beside them")


def _folder(uri: str) -> str:
    """An address with links resolved and a slash at its end; addresses inside the folder begin with it."""
    return one_spelling(open_store(uri).locate("_").removesuffix("_"))
