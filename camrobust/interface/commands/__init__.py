"""The table of commands: for each its function, one line of help, and its arguments.

The functions live in the modules of this folder. They import what they need when they are called, so that the command
line starts fast.
"""

import argparse

from camrobust.contract.defaults import CROP, REPLACEMENT_S, RESIZE, RGB
from camrobust.interface.command_line import JSON, Command, argument, flag, positive, several, shard
from camrobust.interface.commands import begin, explore, results, runs
from camrobust.interface.commands.bench import BENCHMARKS

__all__ = ["BENCHMARKS", "COMMANDS"]

CONFIG = (
    argument("config", "YAML file; `camrobust init` writes one"),
    several("--set", "settings to override; each value is YAML", metavar="KEY=VALUE"),
    argument("--output", "override the output folder"),
)
RUNNING = (
    argument("--address", "local, auto, or the address of a Ray cluster", default="local"),
    flag("--quiet", "show no progress"),
)
RUN = argument("run", "output folder of a run")
SHARD = argument("--shard", "only the images of shard I of N, which has a driver of its own", type=shard, metavar="I/N")

MOST_IMAGES = 100_000_000
"""So many images can be planned without listing them; their ids take memory."""
PLUGINS = several("--plugins", "modules of your own that register methods", metavar="MODULE")

COMMANDS = {
    "init": Command(
        begin.init,
        "write a commented configuration for the images and models given",
        (
            argument("images", "folders, patterns or tables of images, each a dataset", nargs="*"),
            several("--model", "torchvision:NAME[@WEIGHTS], timm:NAME, hf:NAME or package.module:function"),
            argument("--output", "folder of the results, as the configuration will name it"),
            argument("--config", "file to write", default="run.yaml"),
            argument(
                "--example", "copy a configuration that comes with camrobust: accuracy, certificates, first, "
                "imagenet-c, imagenet-val, paper, signs or spot", metavar="NAME",
            ),
        ),
    ),
    "run": Command(
        runs.run,
        "measure, verify, aggregate and report; resumes a run that was interrupted",
        (
            *CONFIG,
            *RUNNING,
            flag("--fresh", "start in a new folder beside an existing run"),
            flag("--retry-failures", "measure again the images that failed"),
            SHARD,
            JSON,
        ),
    ),
    "demo": Command(
        runs.demo,
        "a small real run on photos and weights from installed packages",
        (argument("--output", "folder for the results", default="demo-run"), *RUNNING, JSON),
    ),
    "plan": Command(
        runs.plan,
        "count and estimate a run without starting it",
        (
            *CONFIG,
            argument(
                "--forwards-per-s", "forward passes per second and worker; default: measured here",
                type=positive(float),
            ),
            argument("--workers", "number of Explain workers that share the work", type=positive(int), default=1),
            argument("--images", "number of images to assume; default: list the datasets",
                     type=positive(int, MOST_IMAGES)),
            SHARD,
            argument(
                "--dollars-per-hour", "price of one Explain worker's machine, for example of a spot GPU",
                type=positive(float),
            ),
            argument(
                "--interruptions", "how often one such machine is taken away, per hour; says what that adds",
                type=positive(float),
            ),
            argument(
                "--replacement-s", "seconds until another machine works in its place (default: %(default)g)",
                type=positive(float), default=REPLACEMENT_S,
            ),
            JSON,
        ),
    ),
    "status": Command(results.status, "show how far a run is, whether it is running or stopped", (RUN, JSON)),
    "verify": Command(
        results.verify, "check that every planned row exists exactly once or its image is named in failures",
        (RUN, JSON),
    ),
    "report": Command(
        results.report, "draw the page and its figures",
        (
            RUN,
            argument("--format", "pdf is printed by an installed Chromium, Chrome, Edge or Brave (default: html)",
                     choices=("html", "pdf")),
            argument("--output", "another folder, or a file that ends in .html or .pdf; default: the run folder"),
            flag("--open", "show it in a browser"),
            JSON,
        ),
    ),
    "aggregate": Command(
        results.aggregate,
        "reduce the scores of a run, or of several runs with the same measurement settings, to summary tables",
        (
            argument("runs", "output folders of runs", nargs="+", metavar="RUN"),
            argument("--output", "folder for the tables of several runs"),
            argument(
                "--strengths", "of several runs: pool strengths of perturbations that everything was measured "
                "under (common), or all there are", choices=("common", "all"), default="common",
            ),
            argument("--intervals", "default: as the run was configured", choices=("delta", "bootstrap")),
            argument("--only", "images that each model gets right unperturbed, or all; default: as configured",
                     choices=("correct", "all")),
            JSON,
        ),
    ),
    "compare": Command(
        results.compare,
        "show what changed between two runs: scores with intervals and tests, and settings",
        (
            argument("first", "output folder of a run"),
            argument("second", "output folder of another run"),
            argument("--by", "compare each one alone; default: all together", choices=("perturbation",)),
            several("--map", "models to compare by their names in the first and in the second run", metavar="OLD=NEW"),
            flag("--raw", "also compare the measures that are not adjusted for chance"),
            flag("--exact", "check instead that all rows are equal bit for bit; exit code 1 if they are not"),
            JSON,
        ),
    ),
    "schema": Command(begin.schema, "print the JSON schema of a configuration, for editors"),
    "completion": Command(
        begin.completion,
        "print what makes the TAB key complete commands, options and names in a shell",
        (argument("shell", "the shell", choices=("bash", "zsh", "tcsh")),),
    ),
    "watch-spot": Command(
        runs.watch_spot,
        "drain this machine's Ray node when the cloud announces that it will take the machine back",
        (
            argument("--metadata", "address of the metadata service", default="http://169.254.169.254"),
            argument("--interval", "seconds between two requests", type=positive(float), default=5.0),
            argument("--node-id", "id of the Ray node; default: the node on this machine"),
            argument("--address", "address of the cluster; needs --node-id"),
        ),
    ),
    "list": Command(
        explore.list_registry,
        "list the known CAMs, perturbations, similarities, segmentation methods or models",
        (
            argument(
                "kind", "what to list", choices=("cams", "perturbations", "similarities", "segments", "models")
            ),
            PLUGINS,
            JSON,
        ),
    ),
    "explain": Command(
        explore.explain,
        "draw the CAMs of one photo, clean and perturbed",
        (
            argument("image", "image file"),
            argument(
                "--model", "torchvision:NAME[@WEIGHTS], timm:NAME, hf:NAME or package.module:function", required=True
            ),
            argument("--weights", ".safetensors or .pth file"),
            argument("--target-layer", "dotted name of a submodule; default: discovered"),
            argument(
                "--mean", "mean of the normalisation, one value for each channel of the image; default: the builder's",
                type=float, nargs="+",
            ),
            argument("--std", "deviation of the normalisation, likewise", type=float, nargs="+"),
            argument("--resize", "shorter side after resizing, px", type=int, default=RESIZE),
            argument("--crop", "side of the centre crop, px", type=int, default=CROP),
            argument("--classes", "class names: imagenet, or a text file with one name per line"),
            argument("--head", "how the outputs are read, as in a configuration, such as multilabel"),
            several("--cam", "CAMs to draw, see `camrobust list cams`", required=True, metavar="CAM"),
            several("--perturb", "perturbations to apply, one column each", metavar="NAME:LEVEL"),
            argument(
                "--certify", "also draw what is certain within a distance; keys as in a configuration, samples=500",
                nargs="*", metavar="KEY=VALUE",
            ),
            PLUGINS,
            argument("--output", "picture to write", default="explain.png"),
        ),
    ),
    "sheet": Command(
        explore.sheet,
        "draw one photo under perturbations at their five severities",
        (
            argument("image", "image file"),
            several("--perturb", "default: all perturbations that need no model", default=None, metavar="NAME"),
            argument("--seed", "seed of every random draw", type=int, default=0),
            argument(
                "--resave-jpeg-quality", "save images as JPEG of this quality and read them back; ImageNet-C used 85",
                type=int, metavar="QUALITY",
            ),
            argument(
                "--jpeg-after", argparse.SUPPRESS, type=int, dest="resave_jpeg_quality", default=argparse.SUPPRESS
            ),
            argument("--channels", "channels of the photo (default: %(default)d)", type=positive(int), default=RGB),
            PLUGINS,
            argument("--cell", "side of one picture, px", type=int, default=160),
            argument("--output", "picture to write", default="sheet.png"),
        ),
    ),
}  # fmt: skip
