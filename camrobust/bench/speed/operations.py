"""`camrobust bench passes --operations`: what one pass costs the host, in tensor operations, milliseconds and bytes.

A GPU that is fast enough waits for the host, whose time goes into starting operations. Their number is the same on
every machine. Like `passes`, this runs where ray and polars are not installed; then it leaves the tables out.
"""

import inspect
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from camrobust.bench.speed.available import check_device, machine
from camrobust.bench.speed.passes import MODEL, interleaved, random_model
from camrobust.core.explain.cams import CLASSIC
from camrobust.core.perturb import variants
from camrobust.measure.image import measure
from camrobust.measure.model import Model, wrap
from camrobust.measure.score_rows import Columns
from camrobust.measure.settings import ImageVariants, MeasureSettings, Sample

PASS = 128
"""Variants in one pass, the clean ones included."""
IMAGES = 8
"""Images in the pass whose operations are counted: 16 variants of each."""
HOST = {5: 64, 15: 32, 90: 16}
"""Perturbed variants of an image, and how many images are measured at once to time the host."""
SIDE = 224
HOST_SIDE = 56
"""Side of the images on which the host is timed, px: on a CPU, large ones would time the processor's memory."""
FORWARD = ("shared_pass", "network", "hooks", "layout", "tail", "target_layer", "compiled")
PARTS = (
    *((f"core/explain/{module}.py", "forward") for module in FORWARD),
    ("core/precision.py", "forward"),
    ("measure/model.py", "forward"),
    ("core/explain/", "CAMs"),
    ("core/draws.py", "CAMs"),
    ("core/", "comparison"),
    ("measure/comparison.py", "comparison"),
    ("measure/", "rows"),
)
"""Place in the package, and the part of a pass to which operations from there are counted; the first line that holds
counts. `forward` holds the inputs and the backward pass, `rows` all else that measure/ does."""
ORDER = ("forward", "CAMs", "comparison", "rows")
MOST_COMMON = 5


class Operations(TorchDispatchMode):
    """Counts tensor operations while it is entered, and bytes that go from one device to another.

    Attributes:
        counted: the number of operations by part of the pass and name.
        moved_bytes: by device type of the source.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counted: dict[str, Counter[str]] = {part: Counter() for part in ORDER}
        self.moved_bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: Mapping[str, Any] | None = None
    ) -> Any:
        """Count one operation and carry it out."""
        del types
        self.counted[_part(inspect.currentframe())][function.overloadpacket.__name__] += 1
        result = function(*arguments, **(keywords or {}))
        source = next((value for value in reversed(arguments) if isinstance(value, Tensor)), None)
        if isinstance(result, Tensor) and source is not None and source.device.type != result.device.type:
            self.moved_bytes[source.device.type] += source.nbytes
        return result

    @property
    def total(self) -> int:
        """All operations."""
        return sum(count.total() for count in self.counted.values())


def _part(frame: FrameType | None) -> str:
    """The part of a pass that an operation belongs to, from the innermost function of ours that led to it."""
    while frame is not None:
        _, inside, place = frame.f_code.co_filename.replace("\\", "/").rpartition("camrobust/")
        if inside and not place.startswith("bench/"):
            for start, part in PARTS:
                if place.startswith(start):
                    return part
        frame = frame.f_back
    # On a GPU the backward pass runs in a thread of autograd's, below none of our functions.
    return "forward"


def operations(device: str = "cpu", repeats: int = 5, precision: str = "fp32") -> dict[str, Any]:
    """Count the operations of a pass, time the host without a network to speak of, and add up bytes.

    Args:
        device: "cpu" or "cuda".
        repeats: number of timed turns; medians are reported.
        precision: of the layers.

    Returns:
        Facts about the machine, and rows named `operations`, `host` and `bytes`.

    Raises:
        UserError: this machine has no such device.
    """
    check_device(device)
    return {
        "machine": machine(device),
        "model": f"{MODEL}, random weights, {SIDE} px",
        "images": IMAGES,
        "variants": PASS // IMAGES,
        "precision": precision,
        "operations": count_pass(random_model(MODEL, device), precision, IMAGES),
        "host": _host(device, repeats),
        "bytes": [_bytes(device, count) for count in HOST],
    }


def count_pass(model: Model, precision: str = "fp32", images: int = IMAGES, side: int = SIDE) -> list[dict[str, Any]]:
    """Operations of one pass over some images with ten CAMs, ranks, RBO, the default similarities and rows.

    The pass is done twice and counted the second time, so that what is made once for a run does not count.

    Args:
        model: the classifier.
        precision: of its layers.
        images: number of images that share the 128 variants of the pass.
        side: of an image, px.

    Returns:
        One row per part of the pass, and their sum.
    """
    batch = _images(images, PASS // images - 1, side)
    settings = MeasureSettings(CLASSIC, batch=PASS, precision=precision)
    measure(model, batch, settings)
    with Operations() as counting:
        measure(model, batch, settings)
    rows = [_counted(part, counting.counted[part]) for part in ORDER]
    return [*rows, _counted("together", sum(counting.counted.values(), Counter()))]


def _counted(part: str, counted: Counter[str]) -> dict[str, Any]:
    return {
        "part": part,
        "operations": counted.total(),
        "most_common": ", ".join(f"{count} {name}" for name, count in counted.most_common(MOST_COMMON)),
    }


def tiny_network() -> nn.Module:
    """Four tiny layers with a 7 × 7 map of 32 channels at 56 px: nearly all time is the host's."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def tiny_model(device: str = "cpu", side: int = SIDE) -> Model:
    """The tiny network, ready to be measured."""
    return wrap(tiny_network().to(device), image_size=side)


def _images(count: int, perturbed: int, side: int = SIDE) -> list[ImageVariants]:
    """Images of noise, which are as good as photographs where only time counts, with 25, 36 or 49 segments."""
    planned = variants([f"gaussian_noise:sigma={(step + 1) / 1000:g}" for step in range(perturbed)])
    generator = torch.Generator().manual_seed(0)
    shape = (perturbed + 1, 3, side, side)
    return [
        ImageVariants(
            Sample("bench", f"image-{number}", None, _grid(side, 5 + number % 3)),
            torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
            planned,
        )
        for number in range(count)
    ]


def _grid(side: int, cells: int) -> Tensor:
    row = torch.arange(side) * cells // side
    return row[:, None] * cells + row[None, :]


def _host(device: str, repeats: int) -> list[dict[str, Any]]:
    """Milliseconds of one thread per image and model, for the measuring and for the tables.

    On a CPU they are milliseconds of its time, so that other work on the machine does not count.
    """
    model = tiny_model(device, HOST_SIDE)
    clock = time.process_time if device == "cpu" else time.perf_counter
    rows = []
    with _one_thread():
        for perturbed, count in HOST.items():
            batch, settings = _images(count, perturbed, HOST_SIDE), MeasureSettings(CLASSIC, batch=PASS)
            work: dict[str, Callable[[], object]] = {"measure": partial(measure, model, batch, settings)}
            to_table = _to_table(settings)
            if to_table is not None:
                work["tables"] = partial(to_table, measure(model, batch, settings)[0])
            seconds = interleaved(work, repeats, device, clock)
            ms = {name: statistics.median(times) * 1000 / count for name, times in seconds.items()}
            shown = {f"{name}_ms": round(ms[name], 3) if name in ms else None for name in ("measure", "tables")}
            rows.append({"variants": perturbed, "images": count, **shown, "together_ms": round(sum(ms.values()), 3)})
    return rows


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for torch, as a worker of a run has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _to_table(settings: MeasureSettings) -> Callable[[Columns], Any] | None:
    """The conversion of score columns to Arrow; None where polars or pyarrow are not installed."""
    try:
        from camrobust.results.arrow import make_table
    except ImportError:
        return None
    return partial(make_table, settings.columns())


def _bytes(device: str, perturbed: int) -> dict[str, Any]:
    """KiB that one image moves with so many variants; between host and device counted on a GPU, computed elsewhere."""
    (image,) = _images(1, perturbed)
    settings = MeasureSettings(CLASSIC, batch=PASS)
    model = tiny_model(device)
    with Operations() as counting:
        columns, _ = measure(model, [image], settings)
    if device == "cuda":
        there, back = counting.moved_bytes["cpu"], counting.moved_bytes["cuda"]
    else:
        there = image.pixels.nbytes + image.sample.segments.nbytes
        back = sum(values.nbytes for values in columns.values() if values.dtype != object)
    to_table = _to_table(settings)
    # The crop and its segments (int32) from Load, the segments and the variants from Perturb, the rows from Explain.
    stored = image.pixels[0].nbytes + 2 * image.sample.segments.numel() * 4 + image.pixels.nbytes
    stored += to_table(columns).nbytes if to_table is not None else 0
    kib = {"host_to_device": there, "device_to_host": back, "object_store": stored}
    return {"variants": perturbed, **{f"{name}_kib": round(size / 1024, 1) for name, size in kib.items()}}


def show(results: Mapping[str, Any]) -> None:
    """Print the results as plain Markdown tables."""
    facts = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    lines = [
        f"{facts}; {results['model']}, {results['precision']}; operations of one pass: {results['images']} images × "
        f"{results['variants']} variants",
        "",
        *_markdown(results["operations"]),
        "",
        f"Per image and model, one thread, four tiny layers at {HOST_SIDE} px; variants without the clean one:",
        "",
        *_markdown(results["host"]),
        "",
        *_markdown(results["bytes"]),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def _markdown(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"| {' | '.join(name.replace('_', ' ') for name in rows[0])} |"
    yield "|" + "---|" * len(rows[0])
    for row in rows:
        yield f"| {' | '.join('–' if value is None else str(value) for value in row.values())} |"
