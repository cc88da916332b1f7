"""Proof that every worker measures the network that was checked when the run began.

A builder may draw random numbers, fetch weights that were replaced since, or belong to a package that has another
version on another machine. So run.json holds a hash of every network (`measure.networks`), and the version and source
of every builder, and whoever builds a network compares.
"""

from hashlib import sha256

from camrobust.contract.errors import UserError
from camrobust.contract.run_record import UNKNOWN, BuilderRecord
from camrobust.core.explain.readout import Readout
from camrobust.measure.built import ModelSpec
from camrobust.measure.plugin_imports import modules_of, source_of
from camrobust.measure.plugins import distribution

PUBLISHERS = {"torchvision": "torchvision", "timm": "timm", "hf": "transformers"}
"""The package of each kind of builder by name."""


def builder_record(spec: ModelSpec) -> BuilderRecord:
    """What run.json records of a model's builder; its module must have been imported.

    The version stands for the source of an installed package. A module of the user's own is recorded with its source:
    where no installed package has it, with that of all modules of its package that it imports.
    """
    module = spec.builder.partition(":")[0]
    package, version = distribution(PUBLISHERS.get(module, module))
    if module in PUBLISHERS:
        return BuilderRecord(package=package, version=version)
    names = {module} if package != UNKNOWN else modules_of(module)[0]
    source = b"".join(source_of(name) for name in sorted(names))
    return BuilderRecord(package=package, version=version, sha256=sha256(source).hexdigest())


def check_builder(spec: ModelSpec, began: BuilderRecord | None) -> None:
    """Refuse a builder that is not the one with which the run began.

    Builds of one version for another device (2.4.1+cpu, 2.4.1+cu124) are taken to be the same.

    Args:
        spec: of the model, which has been built.
        began: what run.json records; None in runs of earlier versions, which are not checked.

    Raises:
        UserError: its package has another version, or its source has changed.
    """
    if began is None:
        return
    now = builder_record(spec)
    if (began.package, _public(began.version)) != (now.package, _public(now.version)):
        raise UserError(
            f"model '{spec.name}': {spec.builder} is of {now.release} here, but the run began with {began.release}; "
            "install the same version everywhere, or use --fresh"
        )
    if began.sha256 != now.sha256:
        raise UserError(
            f"model '{spec.name}': the source of {spec.builder} is not as it was when this run began; put it back, "
            "submit the job with a working directory, or use --fresh"
        )


def _public(version: str) -> str:
    return version.partition("+")[0]


def check_state(spec: ModelSpec, began: str | None, now: str) -> None:
    """Refuse a network that is not the one with which the run began.

    Args:
        spec: of the model.
        began: its hash in run.json; None in runs of earlier versions, which are not checked.
        now: its hash here.

    Raises:
        UserError: it is another network.
    """
    if began is not None and began != now:
        raise UserError(
            f"model '{spec.name}': {spec.builder} does not build the network with which this run began, so it draws "
            "numbers of its own or has other weights; name a file with `weights:`, or seed what the builder draws"
        )


def check_readout(name: str, began: tuple[str, str | None] | None, now: Readout) -> None:
    """Refuse a network whose outputs are not read as they were when the run began.

    A head that the configuration leaves out follows from the network, by a rule of this version of camrobust.

    Args:
        name: of the model.
        began: its head and what it puts out, by run.json (`RunRecord.readouts`); None accepts any.
        now: how its outputs are read here.

    Raises:
        UserError: they are read otherwise.
    """
    head, outputs = began or (now.head, None)
    then, here = (head, outputs or now.outputs), (now.head, now.outputs)
    if then != here:
        raise UserError(
            f"model '{name}': its outputs are read as {' of '.join(here)} here, but as {' of '.join(then)} when this "
            "run began; finish it with the versions of camrobust and torch that began it, or use --fresh"
        )
