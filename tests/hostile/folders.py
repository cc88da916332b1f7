"""Small real run folders, made without Ray: in the format of version 0.1 and in today's."""

import json
from functools import partial

import polars as pl
import pyarrow.parquet as pq

from camrobust.contract.run_record import RunRecord
from camrobust.contract.schema import COMMITS
from camrobust.results.arrow import empty_frame
from camrobust.results.commits import put_commit
from camrobust.results.counted import FILES_KEY
from camrobust.results.folder import open_run
from camrobust.results.lease import held
from camrobust.results.progress import Progress, Stage, write_progress
from camrobust.run.summarise import aggregate
from camrobust.run.workflow import finish
from tests.documents import run_document, write_json
from tests.synthetic import failures, images, maps, scores

CAMS, LEVELS = ("gradcam", "random"), (1, 3)
NAMES = {"dataset": "d", "model": "m"}


def variants():
    return [{"perturbation": "gaussian_noise", "severity": n, "strength": f"sigma={n / 10:g}", "replicate": 0}
            for n in LEVELS]  # fmt: skip


def rows(count, dataset="d", model="m"):
    return scores(images=count, datasets=(dataset,), models=(model,), cams=CAMS, levels=LEVELS, bad=0, flip=0.3)


def write(folder, count=4, number=1, dataset="d", model="m", identity=None):
    """Write a complete run of some images and one failed image; number 0 means version 0.1."""
    run, table = open_run(str(folder)), rows(count, dataset, model)
    if identity is not None:
        table = table.with_columns(image_id=pl.col("image_id").replace("image-0", identity))
    photos, pictures = images(table), maps(table, CAMS)
    broken = failures("broken").with_columns(dataset=pl.lit(dataset))
    listed = pl.concat([photos, broken.with_columns(label=pl.lit(None, pl.Int32))], how="diagonal")
    listed = listed.select("dataset", "image_id", uri="image_id", label="label")
    document = run_document(listed.height, (model,), CAMS, variants())
    if number:
        run.begin(RunRecord.model_validate(document), listed)
    else:
        run.write_table("manifest.parquet", listed)
        write_json(
            run, "run.json", {key: value for key, value in document.items() if key not in ("format", "warnings")}
        )
    commit = partial(_commit, run, table, photos, pictures, broken)
    if not number:
        commit(0)
        aggregate(run)
        write_json(run, "done.json", {"complete": True, "score_rows": table.height})
        return run
    with held(run.store, lambda _: run.committed().commits) as lease:
        commit(lease.number)
        write_progress(run.store, lease.number, _progress(count), "2026-01-01T00:00:00+00:00")
        finish(run, lease, 1.0, measured=count)
    return run


def _progress(count):
    return Progress(count, count, 1, 2.5, {name: Stage(count, 1.5, 0) for name in ("load", "perturb", "explain")})


def _commit(run, table, photos, pictures, broken, number):
    """Write two commits: half of the images, and the rest with the failure."""
    ids = photos["image_id"].to_list()
    for half, some in enumerate((ids[: len(ids) // 2], ids[len(ids) // 2 :])):
        here = pl.col("image_id").is_in(some)
        units = table.filter(here).group_by("dataset", "image_id", maintain_order=True).agg(rows=pl.len())
        units = units.with_columns(part=pl.lit(0), failures=pl.lit(0))
        small = {"images": photos.filter(here), "maps": pictures.filter(here)}
        if half:
            failed = broken.select("dataset", "image_id", part=pl.lit(0), rows=pl.lit(0), failures=pl.lit(1))
            units = pl.concat([units, failed], how="diagonal_relaxed")
            small["failures"] = broken
        units = units.select(empty_frame(COMMITS).columns)
        put_commit(run.store, units, table.filter(here), {name: one.to_arrow() for name, one in small.items()}, number)


def repair(folder):
    """Update run.json and the commits to the present manifest and data files, as a forger would."""
    for path in sorted(folder.glob("commits/*.parquet")):
        try:
            table = pq.ParquetFile(path).read()
            files = json.loads(table.schema.metadata[FILES_KEY])
            sizes = {key: (folder / key).stat().st_size if (folder / key).is_file() else size
                     for key, size in files.items()}  # fmt: skip
        except Exception:  # noqa: BLE001 - damaged itself, and left as it is
            continue
        if sizes != files:
            told = table.schema.metadata | {FILES_KEY: json.dumps(sizes).encode()}
            pq.write_table(table.replace_schema_metadata(told), path)
    document = folder / "run.json"
    try:
        found = json.loads(document.read_text())
        found["manifest"]["sha256"] = ""
    except Exception:  # noqa: BLE001
        return
    document.write_text(json.dumps(found))
