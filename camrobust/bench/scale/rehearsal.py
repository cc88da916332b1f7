"""`camrobust bench rehearsal N`: a run of N images from and to an S3 store, with workers and nodes lost at random.

Only the network is left out (`stubs.RehearsedExplain`): images are read from the store and decoded, cut into segments,
perturbed, and committed to the store by the run's own stages, under its own ledger and lease. The store is the one that
`AWS_ENDPOINT_URL` names, behind a relay that counts (`relay`).
"""

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from camrobust.bench.chaos.buckets import own_bucket
from camrobust.bench.chaos.ending import ending_cleanly, unwinding
from camrobust.bench.chaos.nodes import nodes
from camrobust.bench.scale.losses import Losses
from camrobust.bench.scale.pictures import ROOT, upload, write_manifest
from camrobust.bench.scale.relay import Requests, counting, reached_through
from camrobust.bench.scale.watched import Watched
from camrobust.contract.errors import RunFailed, UserError
from camrobust.contract.run_files import OTHERS, RESULTS
from camrobust.results.folder import RunFolder, open_run
from camrobust.results.scan import scan_scores
from camrobust.results.verify import Completeness, verify

NODES, CPUS = 2, 2
ATTEMPTS = 5
CAMS = ("gradcam", "random")
PERTURBATIONS = ({"gaussian_noise": {"sigma": [0.05, 0.1, 0.2]}},)
"""Two CAMs and three variants: six rows per image."""
PIXELS = 32
KEYS = ("dataset", "model", "image_id", "cam", "perturbation", "strength", "replicate")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Rehearsal:
    """What is rehearsed.

    Attributes:
        images: number of images.
        objects: number of different objects that they are read from.
        rounds: number of streams, see `run.pipeline.IMAGES_PER_ROUND`.
        kill_s: a worker is killed every so many seconds on average.
        lose_s: a node is lost every so many seconds on average.
        seed: decides when what is lost.
    """

    images: int
    objects: int
    rounds: int
    kill_s: float
    lose_s: float
    seed: int


def rehearse(wanted: Rehearsal, say: Say = lambda _: None) -> dict[str, list[dict[str, Any]]]:
    """Carry out the rehearsal, check every row, and delete what was written.

    Returns:
        Tables by name: run, rounds, phases, requests, files, lost.

    Raises:
        UserError: no store is named.
        RunFailed: the run cannot be completed.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if not endpoint:
        raise UserError("bench: the rehearsal needs an S3 store on this machine; set AWS_ENDPOINT_URL")
    requests = Requests()
    with (
        ending_cleanly(),
        tempfile.TemporaryDirectory(prefix="camrobust-rehearsal-") as folder,
        own_bucket("camrobust-rehearsal") as bucket,
        unwinding(),
    ):
        say(f"writing {wanted.objects:,} pictures …")
        start = time.monotonic()
        upload(bucket, wanted.objects)
        uploaded_s = time.monotonic() - start
        with counting(endpoint, requests) as address, reached_through(address):
            config = _config(Path(folder), bucket, wanted)
            watched, lost = _carry_out(config, address, wanted, say)
            counts = requests.take()
        output = open_run(f"s3://{bucket}/out")
        verdict = verify(output)
        return {
            "run": [_run_row(wanted, output, verdict, watched, uploaded_s)],
            "rounds": watched.rows(),
            "phases": _phases(output, watched),
            "requests": request_rows(counts, bucket, wanted.images),
            "files": _files(output),
            "lost": [{"what": what, "times": times} for what, times in sorted(lost.items())],
        }


def _config(folder: Path, bucket: str, wanted: Rehearsal) -> Path:
    images = f"s3://{bucket}/{ROOT}"
    if wanted.objects < wanted.images:
        images = write_manifest(bucket, wanted.objects, wanted.images)
    data = {
        "output": f"s3://{bucket}/out",
        "datasets": [{"name": "rehearsal", "images": images}],
        "models": ["camrobust.bench.chaos.model:build"],
        "cams": list(CAMS),
        "perturbations": list(PERTURBATIONS),
        "image": {"resize": PIXELS, "crop": PIXELS},
        "segments": {"method": "grid"},
        "gallery_images": 0,
        "cluster": {"explainers": [1, 2], "perturbers": [1, 1]},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def _carry_out(config: Path, address: str, wanted: Rehearsal, say: Say) -> tuple[Watched, Counter[str]]:
    """Run until complete, while workers and nodes are lost."""
    per_round = -(-wanted.images // wanted.rounds)
    with nodes(NODES, {"AWS_ENDPOINT_URL": address}, CPUS) as cluster:
        losses = Losses(cluster, random.Random(wanted.seed), wanted.kill_s, wanted.lose_s)
        watched = Watched([str(config), cluster.address, str(per_round)], cluster.environment, say)
        for _ in range(ATTEMPTS):
            with losses.while_measuring(watched):
                code = watched.run()
            if code == 0:
                return watched, losses.counts
    raise RunFailed(f"bench: the rehearsal was not complete after {ATTEMPTS} attempts ({watched.last})")


def _run_row(
    wanted: Rehearsal, output: RunFolder, verdict: Completeness, watched: Watched, uploaded_s: float
) -> dict[str, Any]:
    rows = scan_scores(*output.score_files(output.committed()))
    there, once = rows.select(pl.len().alias("rows"), pl.struct(KEYS).n_unique().alias("once")).collect().row(0)
    return {
        "images": wanted.images,
        "objects": wanted.objects,
        "upload_s": round(uploaded_s, 1),
        "rows_planned": verdict.planned_rows,
        "rows": there,
        "rows_once": once,
        "failed_rows": verdict.failed_rows,
        "complete": verdict.complete,
        "attempts": len(watched.exits),
        "seconds": round(watched.seconds, 1),
        "driver_kib_per_image": watched.slope_kib(),
    }


def _phases(output: RunFolder, watched: Watched) -> list[dict[str, Any]]:
    done = output.done()
    seconds = {"list and check": watched.listed_s, **(done.seconds if done else {})}
    return [{"phase": name, "seconds": round(value, 1)} for name, value in seconds.items()]


def request_rows(counts: Mapping[tuple[str, str], int], bucket: str, images: int) -> list[dict[str, Any]]:
    """Requests by verb and by what they were for, the most frequent first, and all of them.

    Args:
        counts: by verb and path.
        bucket: that the paths begin with.
        images: number of images.
    """
    kinds: Counter[tuple[str, str]] = Counter()
    for (verb, path), times in counts.items():
        kinds[verb, _purpose(path.removeprefix(f"/{bucket}").lstrip("/"))] += times
    rows = [(verb, what, times) for (verb, what), times in kinds.most_common()]
    return [
        {"request": verb, "for": what, "times": times, "per_image": round(times / images, 4)}
        for verb, what, times in [*rows, ("all", "", sum(kinds.values()))]
    ]


def _purpose(key: str) -> str:
    """The folder of a run that a key belongs to, or that it is a picture."""
    folder, _, rest = key.partition("/")
    if folder == ROOT.rstrip("/"):
        return "pictures"
    name = rest.partition("/")[0]
    return name if f"{name}/" in (*RESULTS, *OTHERS) else rest or "bucket"


def _files(output: RunFolder) -> list[dict[str, Any]]:
    sizes: dict[str, list[int]] = {}
    for entry in output.store.list():
        sizes.setdefault(entry.key.partition("/")[0] if "/" in entry.key else "run.json", []).append(entry.size_bytes)
    rows = [*sorted(sizes.items()), ("all", [size for each in sizes.values() for size in each])]
    return [{"folder": name, "files": len(each), "mib": round(sum(each) / 2**20, 2)} for name, each in rows]
