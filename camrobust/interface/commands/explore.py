"""The commands that need no run: list, explain, sheet."""

import sys

from camrobust.contract.quoting import harmless
from camrobust.interface.command_line import Given, print_rows


def list_registry(given: Given) -> int:
    """`camrobust list`."""
    from camrobust.interface.listing import catalogue

    return print_rows(given, given.kind, catalogue(given.kind, given.plugins))


def explain(given: Given) -> int:
    """`camrobust explain`."""
    from camrobust.interface.arguments import certify_options
    from camrobust.interface.explain_grid import explain_picture
    from camrobust.interface.terminal import say
    from camrobust.measure.plugins import load_plugins

    load_plugins(given.plugins)
    explain_picture(
        given.image, given.output, model=given.model, weights=given.weights, target_layer=given.target_layer,
        mean=given.mean and tuple(given.mean), std=given.std and tuple(given.std), resize=given.resize, crop=given.crop,
        classes=given.classes, head=given.head, cams=given.cam, perturbations=given.perturb,
        certify=None if given.certify is None else certify_options(given.certify), say=say,
    )  # fmt: skip
    sys.stdout.write(f"{harmless(given.output)}\n")
    return 0


def sheet(given: Given) -> int:
    """`camrobust sheet`."""
    from camrobust.interface.contact_sheet import installed
    from camrobust.interface.contact_sheet import sheet as draw_sheet
    from camrobust.interface.terminal import say
    from camrobust.measure.plugins import load_plugins

    load_plugins(given.plugins)
    names = given.perturb
    if names is None:
        names, missing = installed(given.channels)
        for reason in missing:
            say(f"left out: {reason}")
    draw_sheet(
        given.image, given.output, perturbations=names, seed=given.seed, jpeg=given.resave_jpeg_quality,
        cell=given.cell, channels=given.channels,
    )  # fmt: skip
    sys.stdout.write(f"{harmless(given.output)}\n")
    return 0
