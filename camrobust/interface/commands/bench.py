"""`camrobust bench BENCHMARK`: the table of benchmarks and the functions that run and print them."""

from typing import Any

from camrobust.contract.defaults import PRECISIONS
from camrobust.contract.errors import UserError
from camrobust.interface.command_line import (
    JSON,
    Argument,
    Command,
    Given,
    argument,
    flag,
    positive,
    print_json,
    several,
)
from camrobust.interface.command_line import print_rows as show


def _speed(given: Given, *, peers: bool, only_maps: bool = False) -> int:
    from camrobust.bench.speed.passes import bench
    from camrobust.bench.speed.passes import show as show_markdown

    results = bench(
        given.device, peers=peers, repeats=given.repeats, precision=given.precision, only_maps=only_maps
    )  # fmt: skip
    if given.json:
        print_json(results)
    else:
        show_markdown(results)
    return 0


def _passes(given: Given) -> int:
    return _operations(given) if given.operations else _speed(given, peers=False, only_maps=given.only_maps)


def _operations(given: Given) -> int:
    from camrobust.bench.speed.operations import operations
    from camrobust.bench.speed.operations import show as show_markdown

    results = operations(given.device, given.repeats, given.precision)
    if given.json:
        print_json(results)
    else:
        show_markdown(results)
    return 0


def _peers(given: Given) -> int:
    return _speed(given, peers=True)


def _perturbations(given: Given) -> int:
    from camrobust.bench.speed.perturbing import BATCH, perturbing

    rows = perturbing(given.device, given.repeats, peers=given.peers)
    return show(given, f"Severities 1 to 5 of one 224 px image, batch {BATCH[given.device]}", rows)


def _formats(given: Given) -> int:
    from camrobust.bench.speed.formats import formats

    return show(given, "Plain forward pass of one batch, ms", formats(given.device, given.repeats))


def _certificate_cost(given: Given) -> int:
    from camrobust.bench.speed.certifying import certifying

    rows = certifying(given.device, given.samples, given.repeats)
    return show(given, "Certificates of ten CAMs on a ResNet-50 against plain forward passes of as many images", rows)


def _zoo(given: Given) -> int:
    from camrobust.bench.speed.zoo import zoo
    from camrobust.interface.terminal import say

    rows = zoo(say=(lambda _: None) if given.json else say)
    show(given, f"{len(rows)} architectures", rows)
    return 0 if all(row["verdict"] == "ok" for row in rows) else 1


def _signs(given: Given) -> int:
    from camrobust.bench.signs import signs

    return show(given, f"pairs of opposite maps in {given.run}", signs(given.run))


def _overhead(given: Given) -> int:
    from camrobust.bench.scale.overhead import overhead, variants_of
    from camrobust.interface.terminal import say

    title = f"{given.count} images, {variants_of(given.preset)} variants, resnet18, 4 CAMs"
    return show(given, title, overhead(given.count, given.preset, say))


def _job(given: Given) -> int:
    from camrobust.bench.scale.job import VARIANTS, job
    from camrobust.interface.terminal import say

    for count in given.variants or VARIANTS:
        if count not in VARIANTS:
            raise UserError(f"bench: variants must be {' or '.join(map(str, VARIANTS))}, got {count}")
    counts = given.variants or list(VARIANTS)
    rows = job(given.device, given.precision, given.model, counts, given.segments, given.seconds, say)
    return show(given, f"The job with one Explain worker against plain forward passes of {given.model}", rows)


def _scale(given: Given) -> int:
    from camrobust.bench.scale.images import scale
    from camrobust.bench.scale.throughput import throughput
    from camrobust.interface.terminal import say

    tables = {} if given.count is None else {f"{given.count:,} images": scale(given.count, say)}
    tables["The stream without the science; ms are of a processor, per image"] = throughput(given.seconds, say)
    if given.json:
        print_json(dict(zip(("steps", "stream")[-len(tables) :], tables.values(), strict=True)))
    else:
        for title, rows in tables.items():
            show(given, title, rows)
    return 0


def _rehearsal(given: Given) -> int:
    from camrobust.bench.scale.rehearsal import Rehearsal, rehearse
    from camrobust.interface.terminal import say

    wanted = Rehearsal(
        given.count or 200_000, given.objects or given.count or 200_000, given.rounds, given.kill_every,
        given.lose_every, given.seed,
    )  # fmt: skip
    tables = rehearse(wanted, say)
    if given.json:
        print_json(tables)
    else:
        for title, rows in tables.items():
            show(given, title, rows)
    (run,) = tables["run"]
    return 0 if run["complete"] and run["rows_planned"] == run["rows"] == run["rows_once"] else 1


def _shards(given: Given) -> int:
    from camrobust.bench.scale.shards import SHARDS, passed, shards
    from camrobust.interface.terminal import say

    rows = shards(given.count or 50_000, say)
    show(given, f"Images in {SHARDS} files on S3; memory is of this process, MiB", rows)
    return 0 if passed(rows) else 1


def _rows(given: Given) -> int:
    from camrobust.bench.scale.rows import volume
    from camrobust.interface.terminal import say

    return show(given, f"{given.count:,} score rows", volume(given.count, say))


def _chaos(given: Given) -> int:
    from camrobust.bench.chaos.harness import chaos, passed, summary
    from camrobust.interface.terminal import say, show_table

    def show_trial(line: dict[str, Any]) -> None:
        end = "exact" if line["exact"] else f"NOT EXACT {line['last']}"
        end += "" if line["counts"] else ", but nothing struck: no trial"
        missed = f" (missed: {', '.join(line['missed'])})" if line["missed"] else ""
        say(
            f"{line['trial']:3} {line['config']} {line['store']}: {', '.join(line['injected']) or 'nothing'}{missed}; "
            f"exits {line['exits']}, {line['seconds']} s, {end}"
        )

    lines = chaos(given.count, given.seed, show_trial, given.clock)
    if given.json:
        print_json(lines)
    else:
        counted = [line for line in lines if line["counts"]]
        titles = ["injected", "times", "done at once", "most attempts", "rows lost", "doubled", "different", "images",
                  "maps", "summaries", "touched"]  # fmt: skip
        show_table(f"{len(counted)} trials, seed {given.seed}", titles, summary(lines))
        seconds = sum(line["seconds"] for line in lines)
        say(
            f"{sum(line['exact'] for line in counted)} of {len(counted)} trials exact in the end, {seconds:.0f} s; "
            f"{len(lines) - len(counted)} more do not count, because nothing struck"
        )
    return 0 if passed(lines, given.count) else 1


def _fuzz(given: Given) -> int:
    from camrobust.bench.chaos.fuzz import BUDGET_MIB, fuzz
    from camrobust.interface.terminal import say

    outcome = fuzz(given.images, given.seed, say)
    show(given, f"{given.images:,} damaged pictures, seed {given.seed}", outcome.rows())
    for line in outcome.wrong:
        say(line)
    say(
        f"a worker used at most {outcome.peak_mib:.0f} MiB more than when idle, {BUDGET_MIB} MiB are allowed; "
        f"{len(outcome.wrong)} pictures ended wrongly"
    )
    return 0 if outcome.passed else 1


def _certificates(given: Given) -> int:
    from camrobust.bench.certificates import check

    tables, sound = check(given.simulations, given.tries, given.boxes, given.images, given.seed)
    if given.json:
        print_json(tables)
    else:
        for title, rows in tables.items():
            show(given, title, rows)
    return 0 if sound else 1


def _count(text: str) -> Argument:
    return argument("count", text, type=positive(int), metavar="N")


STEPS = argument(
    "count", "also plan, commit, resume and verify a run of so many images", type=positive(int), nargs="?", metavar="N"
)
SECONDS = argument("--seconds", "about how long each stream is timed", type=positive(float), default=25.0)
MODEL = argument("--model", "name in torchvision", default="resnet50")
VARIANTS = several("--variants", "variants of an image, 15 or 95; both unless given", type=positive(int), metavar="N")
SEGMENTS = argument("--segments", "method that cuts images into segments", default="quickshift")
PRESET = argument("--preset", "variants of an image: full has 15, quick 8", choices=("full", "quick"), default="full")
DEVICE = argument("--device", "device of the models", choices=("cpu", "cuda"), default="cpu")
REPEATS = argument("--repeats", "interleaved repetitions", type=positive(int), default=15)
PRECISION = argument("--precision", "precision of the layers", choices=PRECISIONS, default=PRECISIONS[0])
SAMPLES = argument("--samples", "noisy copies of an image", type=positive(int), default=48)
PEERS = flag("--peers", "also time imagecorruptions")
IMAGES = argument("--images", "number of pictures", type=positive(int), default=1000, metavar="N")
ONLY_MAPS = flag("--only-maps", "leave out the perturbations and the segments")
OPERATIONS = flag("--operations", "count tensor operations, host milliseconds and bytes instead")
REHEARSED = (
    argument("count", "images; 200,000 unless given", type=positive(int), nargs="?", metavar="N"),
    argument("--objects", "different objects that they are read from; N unless given", type=positive(int)),
    argument("--rounds", "streams, one after the other", type=positive(int), default=4),
    argument("--kill-every", "mean seconds between two workers killed", type=positive(float), default=45.0),
    argument("--lose-every", "mean seconds between two nodes lost", type=positive(float), default=240.0),
)
CLOCK = argument(
    "--clock", "seconds of an outage of the store, and of the patience with it, in one second", type=positive(float),
    default=40.0,
)  # fmt: skip
SIMULATIONS = argument("--simulations", "simulated images of each kind", type=positive(int), default=10_000)
TRIES = argument("--tries", "attacks on certified maps", type=positive(int), default=1000)
BOXES = argument("--boxes", "random bounds that are compared with all orders", type=positive(int), default=400)
CERTIFIED = argument("--images", "images of each small network", type=positive(int), default=10, metavar="N")
RUN = argument("run", "run folder", metavar="RUN")
SEED = argument("--seed", "seed of every random draw", type=int, default=0)

BENCHMARKS = {
    "passes": Command(
        _passes, "time maps against a plain forward pass", (DEVICE, REPEATS, PRECISION, ONLY_MAPS, OPERATIONS, JSON)
    ),
    "peers": Command(
        _peers, "the same, and each method in grad-cam, torchcam and captum", (DEVICE, REPEATS, PRECISION, JSON)
    ),
    "perturbations": Command(
        _perturbations, "time every perturbation at every severity", (DEVICE, REPEATS, PEERS, JSON)
    ),
    "formats": Command(
        _formats, "time plain forward passes by memory format, and compiled", (DEVICE, REPEATS, JSON)
    ),
    "certificate-cost": Command(
        _certificate_cost, "time certificates against plain forward passes", (DEVICE, REPEATS, SAMPLES, JSON)
    ),
    "zoo": Command(
        _zoo, "try architectures of torchvision, timm and transformers", (JSON,)
    ),
    "signs": Command(
        _signs, "count the pairs of a run whose maps are opposites", (RUN, JSON)
    ),
    "overhead": Command(
        _overhead, "time the job against a bare loop over N images", (_count("number of images"), PRESET, JSON)
    ),
    "job": Command(
        _job, "time the job with one Explain worker against plain forward passes",
        (DEVICE, PRECISION, MODEL, VARIANTS, SEGMENTS, SECONDS, JSON),
    ),
    "scale": Command(
        _scale, "time everything but the science, beside Ray Data alone", (STEPS, SECONDS, JSON)
    ),
    "rehearsal": Command(
        _rehearsal, "run N images from and to the S3 store of AWS_ENDPOINT_URL while workers and nodes are lost",
        (*REHEARSED, SEED, JSON),
    ),
    "certificates": Command(
        _certificates, "try certificates by simulation, by attack and against all orders",
        (SIMULATIONS, TRIES, BOXES, CERTIFIED, SEED, JSON),
    ),
    "shards": Command(
        _shards, "list and load N small images in 64 tars, zips and parquet files of the S3 store of AWS_ENDPOINT_URL",
        (argument("count", "images; 50,000 unless given", type=positive(int), nargs="?", metavar="N"), JSON),
    ),
    "rows": Command(
        _rows, "time all summaries of N synthetic score rows", (_count("number of rows"), JSON)
    ),
    "chaos": Command(
        _chaos, "run N jobs on a local cluster under injected faults", (_count("number of runs"), CLOCK, SEED, JSON)
    ),
    "fuzz": Command(
        _fuzz, "load damaged pictures of every format, in separate processes", (IMAGES, SEED, JSON)
    ),
}  # fmt: skip
