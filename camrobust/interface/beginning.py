"""`camrobust init`: a commented configuration for the images and models that it is given."""

from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import yaml

from camrobust.contract.config_file import parse_config
from camrobust.contract.errors import UserError
from camrobust.contract.model_config import short_name
from camrobust.contract.plain_yaml import read_yaml
from camrobust.contract.quoting import shell_word, short
from camrobust.contract.registry import unknown
from camrobust.interface.config_schema import FILE, MODELINE, schema_text
from camrobust.interface.outputs import check_file, is_remote
from camrobust.io.manifest import list_dataset

MODEL = "torchvision:resnet50@IMAGENET1K_V2"
IMAGES = "photos"
TEMPLATE = """\
{modeline}
# A run of camrobust. `camrobust plan {name}` says what it costs, `camrobust run {name}` measures and resumes.

output: {output}  # the results: tables, and report/index.html

datasets:  # a folder with its folders, a pattern such as photos/*.jpg, s3://bucket/prefix, or a table with a column uri
{datasets}
    # labels: labels.csv  # table with the columns image_id (or file) and label, the number of the class; or folders

models:  # torchvision:NAME[@WEIGHTS], timm:NAME, hf:NAME or a function of your own: package.module:function
{models}
  # - {{name: mine, builder: "torchvision:resnet50", weights: mine.safetensors, target_layer: layer4}}

cams: [gradcam, gradcam++, xgradcam, layercam, hirescam, eigencam, ablationcam, random]
# `camrobust list cams` has more; random is the floor that the others must lie above.

perturbations:  # NAME:SEVERITIES, from `camrobust list perturbations`; or a preset, such as preset:imagenet-c
  - "gaussian_noise:1-5"
  - "gaussian_blur:1-5"
  - "brightness:1-5"
  - "jpeg_compression:1-5"

# What follows has the values that hold where a line is left out.
# seed: 0                                # of every random draw
# image: {{resize: 256, crop: 224}}        # px; default: as the models' published weights want
# segments: {{method: quickshift}}         # `camrobust list segments`
# metric: {{rbo_p: 0.9, average: macro}}
# gallery_images: 64                     # images whose maps are kept for the report
# max_failure_share: 0.01                # share of failed images above which the run fails
# cluster: {{batch: auto}}                 # workers and GPUs are chosen by themselves; `camrobust schema` has every key
"""


def shipped() -> dict[str, Traversable]:
    """The configurations that come with camrobust, by name: of the wheel, or of the repository that it runs from."""
    package = files("camrobust")
    for folder in (package / "configs", Path(str(package)).parent / "jobs" / "configs"):
        if folder.is_dir():
            found = {file.name.removesuffix(".yaml"): file for file in folder.iterdir() if file.name.endswith(".yaml")}
            return dict(sorted(found.items()))
    return {}


def begin(
    config: str, images: Sequence[str] = (), models: Sequence[str] = (), output: str | None = None,
    example: str | None = None,
) -> list[str]:  # fmt: skip
    """Write a configuration, and the schema for editors beside it where none is; nothing is overwritten.

    Args:
        config: file to write.
        images: folders, patterns or tables; each becomes a dataset.
        models: builders.
        output: folder of the results; None to name it after the first dataset.
        example: name of a shipped configuration, which is then copied as it is.

    Returns:
        What was written, and what to do next, in sentences.

    Raises:
        UserError: no such images or example, the file exists, it cannot be written, or an address holds a secret.
    """
    check_file(config, "init", "--config")
    path = Path(config)
    exists = UserError(f"init: '{short(config)}' exists already; choose another file with --config, or remove it")
    if path.exists() or path.is_symlink():
        raise exists
    said: list[str] = []
    if example is not None:
        if images or models or output is not None:
            raise UserError("init: --example copies a configuration as it is; leave images, --model and --output out")
        known = shipped()
        if example not in known:
            raise UserError(f"init: {unknown('example', example, known)}")
        text = known[example].read_text("utf-8")
    else:
        text = _filled(path.name, images or (IMAGES,), models or (MODEL,), output, said, given=bool(images))
    # A secret in an address, or a name that no configuration takes, is told before anything is written.
    parse_config(read_yaml(text, "init: what was given"))
    try:
        beside = f" and, for editors, {FILE} beside it" if _created(path.with_name(FILE), schema_text()) else ""
        if not _created(path, text):
            raise exists
    except OSError as error:
        raise UserError(f"init: cannot write '{short(config)}' ({error.strerror}); choose another --config") from error
    return [*said, f"wrote {config}{beside}", f"next: camrobust plan {shell_word(config)}"]


def _created(path: Path, text: str) -> bool:
    """Write a new file; False where there is one already, or a link. A file that cannot be written whole is removed."""
    try:
        with path.open("x", encoding="utf-8") as file:
            try:
                file.write(text)
                file.flush()
            except OSError:
                path.unlink()
                raise
    except FileExistsError:
        return False
    return True


def _filled(
    name: str, images: Sequence[str], models: Sequence[str], output: str | None, said: list[str], *, given: bool
) -> str:
    datasets, names = [], _names([_dataset_name(one) for one in images])
    for dataset, address in zip(names, images, strict=True):
        comment = "" if given else "  # your images"
        if given and not is_remote(address):
            count = list_dataset(dataset, address).images.height
            said.append(f"{dataset}: {count:,} image{'s' if count > 1 else ''} in {address}")
            comment = f"  # {count:,} image{'s' if count > 1 else ''}"
        datasets.append(f"  - name: {_scalar(dataset)}\n    images: {_scalar(address)}{comment}")
    short_names = [short_name(model) for model in models]
    entries = [
        f"  - {_scalar(model)}" if short_names.count(label) == 1
        else f"  - {{name: {_scalar(unique)}, builder: {_scalar(model)}}}"
        for model, label, unique in zip(models, short_names, _names(short_names), strict=True)
    ]  # fmt: skip
    return TEMPLATE.format(
        modeline=MODELINE,
        name=shell_word(name),
        output=_scalar(output or f"runs/{names[0]}"),
        datasets="\n".join(datasets),
        models="\n".join(entries),
    )


def _dataset_name(address: str) -> str:
    """The last part of an address without a suffix and without the marks of a pattern."""
    parts = [part for part in address.replace("\\", "/").split("/") if part and not set(part) & set("*?[]")]
    name = parts[-1].rpartition(".")[0] or parts[-1] if parts else IMAGES
    return Path.cwd().name or IMAGES if name.strip(".") == "" else name


def _names(names: Sequence[str]) -> list[str]:
    """The same names, numbered where one occurs again."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}-{number}" for number in range(2, 2 * len(names) + 2))
        found.append(name if name not in found else next(one for one in numbered if one not in {*found, *names}))
    return found


def _scalar(text: str) -> str:
    """Text as YAML on one line, quoted where it must be."""
    plain = yaml.safe_dump(text, width=float("inf"), allow_unicode=True, default_style=None)
    line = plain.removesuffix("\n...\n").strip()
    # Inside braces and in front of a comment, quotes are needed for more characters than alone.
    bare = line == text and not set(text) & set("{}[],#:&*!|>'\"%@` ")
    return line if bare or line[:1] in "'\"" else yaml.safe_dump(text, width=float("inf"), default_style='"').strip()
