"""A configuration resolved to what will be done, before anything is spent."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from camrobust.contract.config import RunConfig
from camrobust.contract.errors import UserError
from camrobust.contract.model_config import ModelConfig
from camrobust.contract.run_record import BuilderRecord, PluginRecord
from camrobust.contract.sharding import ShardRecord
from camrobust.core.channels import pixel_bytes
from camrobust.core.explain.cams import CAMS, COSTLY
from camrobust.core.perturb import PERTURBATIONS, Variant, size_warnings, variants
from camrobust.core.perturb import left_out as presets_without
from camrobust.io.objects import MissingObjectError, TooLargeObjectError
from camrobust.io.store import read_object
from camrobust.measure.built import ModelSpec
from camrobust.measure.kept_classes import choosing_among
from camrobust.measure.model import Model, load_model
from camrobust.measure.plugins import default_similarities, load_plugins, refuse_unnamed
from camrobust.measure.same_network import check_builder, check_readout, check_state
from camrobust.measure.settings import CertifySettings, MeasureSettings, pass_size
from camrobust.measure.weights import MOST_BYTES

if TYPE_CHECKING:
    # Workers build models and list no images, so they start without polars.
    import polars as pl

GROUP_BYTES = 32 * 2**20
"""Most bytes of variants in one part of an image; an image with more is measured in several parts."""
FORMER_SIZES = {"cpu": 8, "cuda": 64}
"""Images in the passes of runs whose run.json says nothing of them, which were these at most."""
ROW_BYTES, MEASURE_BYTES = 20, 6
"""Bytes of a score row without measures, and of each measure in it, in a compressed file of some hundred rows; larger
files need less."""


@dataclass(frozen=True)
class Plan:
    """A checked configuration, resolved to what will be done.

    Attributes:
        config: the configuration.
        variants: every perturbed variant of an image.
        parts: the variants in groups; each group of an image is measured and committed as a whole.
        manifest: one row per image of the run, whichever shard measures it, `schema.MANIFEST`.
        weights: SHA-256 of every model's weights file at the start of the run, where known.
        plugins: the modules of the user's own that register methods, as they are now.
        pass_sizes: images in every forward pass, on a CPU and on a GPU (cpu, cuda).
        shard: which of the images are measured; None for all. Nothing but the counts depends on it.
        states: hash of every model's network at the start of the run, where known (`measure.networks`).
        builders: where every model's builder was from, where known.
        readouts: every model's head and what it puts out, where known (`RunRecord.readouts`).
        kept: numbers of the classes between which a model chooses, where not all.
        left_out: for every dataset, how many files of its folder are not measured, by kind, if it was listed now.
        remarks: what is to be said of the images and labels, if they were listed now.
    """

    config: RunConfig
    variants: tuple[Variant, ...]
    parts: tuple[tuple[Variant, ...], ...]
    manifest: "pl.DataFrame"
    weights: Mapping[str, str | None]
    plugins: Mapping[str, PluginRecord] = field(default_factory=dict)
    pass_sizes: Mapping[str, int] = field(default_factory=dict)
    shard: ShardRecord | None = None
    states: Mapping[str, str] = field(default_factory=dict)
    builders: Mapping[str, BuilderRecord] = field(default_factory=dict)
    readouts: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    kept: Mapping[str, Sequence[int]] = field(default_factory=dict)
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def rows_per_image(self) -> int:
        """Score rows of one image under one model."""
        return len(self.variants) * len(self.config.cams)

    @property
    def certificates_per_image(self) -> int:
        """Rows of certificates of one image under one model."""
        asked = self.config.certify
        return 0 if asked is None else len(self.config.cams) * len(asked.sigma) * len(asked.radii)

    @property
    def noisy_copies(self) -> int:
        """Noisy copies of one image that certificates need under one model, those of the pilot included."""
        return 0 if self.config.certify is None else self.config.certify.copies

    @property
    def attack_passes(self) -> int:
        """Forward and backward passes of the attacks on one image under one model, those of certificates included."""
        asked, cams = self.config.certify, self.config.cams
        certifying = asked.attack_passes if asked and any(CAMS[name].differentiable for name in cams) else 0
        return certifying + sum(variant.attack_passes for variant in self.variants)

    @property
    def sources(self) -> dict[str, str]:
        """SHA-256 of the source of every plugin."""
        return {module: plugin.sha256 for module, plugin in self.plugins.items()}

    @property
    def row_bytes(self) -> int:
        """About how many bytes a score row takes in a file."""
        return ROW_BYTES + MEASURE_BYTES * len(settings_of(self.config, 1).measures())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences that the user should read before the numbers are made."""
        config = self.config
        without = presets_without(config.perturbations, config.channels)
        return (*without, *size_warnings(self.variants, config.image.crop), *self.remarks)

    @property
    def notes(self) -> tuple[str, ...]:
        """For every dataset, which files of its folder are not measured, in a sentence."""
        from camrobust.io.image_listing import in_words

        return tuple(f"dataset '{name}': {in_words(kinds)}" for name, kinds in self.left_out.items())

    @property
    def size(self) -> tuple[str, ...]:
        """How much is to be measured, in lines for the user."""
        counts = self.counts()
        lines = [
            f"images × models × variants × CAMs = {counts['images']} × {counts['models']} × {counts['variants']} × "
            f"{counts['cams']} = {counts['rows']:,} rows"
        ]
        if "certificates" in counts:
            passed, rows = counts["certificate_forwards"], counts["certificates"]
            lines.append(f"certificates: {passed:,} noisy copies of images pass, for {rows:,} rows")
        return tuple(lines)

    def counts(self) -> dict[str, int]:
        """Planned numbers, as run.json holds them."""
        from camrobust.results.folder import of_shard

        own = self.manifest if self.shard is None else of_shard(self.manifest, self.shard)
        images, models = own.height, len(self.config.models)
        return {
            "images": images,
            "models": models,
            "cams": len(self.config.cams),
            "variants": len(self.variants),
            "parts": len(self.parts),
            "attack_passes": images * models * self.attack_passes,
            "forwards": images * models * (len(self.variants) + len(self.parts)),
            "rows": images * models * self.rows_per_image,
            **(
                {}
                if self.config.certify is None
                else {
                    "certificates": images * models * self.certificates_per_image,
                    "certificate_forwards": images * models * self.noisy_copies,
                }
            ),
        }


def make_plan(
    config: RunConfig,
    manifest: "pl.DataFrame | None" = None,
    weights: Mapping[str, str | None] | None = None,
    sizes: Mapping[Any, int] | None = None,
    shard: ShardRecord | None = None,
) -> Plan:
    """Check names and list images.

    Args:
        config: the configuration.
        manifest: images listed before; None to list them now.
        weights: SHA-256 of the models' weights files as recorded in run.json.
        sizes: of forward passes, as recorded in run.json; a number in the configuration goes before them.
        shard: which of the images are measured; None for all.

    Raises:
        UserError: a plugin that cannot be loaded, an unknown CAM, perturbation or similarity, no images, a damaged
            manifest.
    """
    plugins = load_plugins(config.plugins)
    measures = settings_of(config, 1).measures()
    every = variants(config.perturbations, config.channels, config.cams)
    steps = {entry.name: entry for variant in every for entry in variant.entries}
    refuse_unnamed([*(CAMS[name] for name in config.cams), *steps.values(), *measures], config.plugins)
    size = max(1, GROUP_BYTES // (pixel_bytes(config.channels) * config.image.crop**2))
    parts = tuple(every[start : start + size] for start in range(0, len(every), size))
    left_out: Mapping[str, Mapping[str, int]] = {}
    remarks: tuple[str, ...] = ()
    if manifest is None:
        from camrobust.run.apart import list_apart

        manifest, left_out, remarks = list_apart(config)
    if sizes is None or config.cluster.batch != "auto":
        sizes = pass_sizes(config, parts)
    return Plan(
        config, every, parts, manifest, weights or {}, plugins, dict(sizes or FORMER_SIZES), shard,
        left_out=left_out, remarks=remarks,
    )  # fmt: skip


def pass_sizes(config: RunConfig, parts: Sequence[Sequence[Variant]], bytes_per_image: int = 0) -> dict[str, int]:
    """Images in every forward pass, on a CPU and on a GPU: as configured, or by the rule of `measure.settings`.

    Args:
        config: the configuration.
        parts: the variants of an image in groups.
        bytes_per_image: what the layers of the largest model put out for one image; 0 where that is unknown.
    """
    asked = config.cluster.batch
    costly = any(CAMS[name].cost in COSTLY for name in config.cams)
    return {
        device: pass_size(1 + len(parts[0]), device, bytes_per_image, costly=costly) if asked == "auto" else asked
        for device in ("cpu", "cuda")
    }


def settings_of(config: RunConfig, batch: int) -> MeasureSettings:
    """The settings of a configuration that measuring needs."""
    metric = config.metric
    return MeasureSettings(
        config.cams,
        config.seed,
        metric.rbo_p,
        metric.ties,
        metric.explained_class,
        batch,
        default_similarities(config.plugins) if metric.similarities is None else metric.similarities,
        config.precision,
        config.compile,
    )


def certify_of(config: RunConfig) -> CertifySettings | None:
    """What a configuration asks to certify, without pydantic; None for nothing."""
    return None if config.certify is None else CertifySettings(**config.certify.model_dump())


def spec_of(config: ModelConfig) -> ModelSpec:
    """A model's part of the configuration, without pydantic."""
    return ModelSpec(**config.model_dump(exclude={"classes", "classes_kept"}))


def fetch_weights(config: ModelConfig) -> bytes | None:
    """The content of a model's weights file; None if it names none.

    Raises:
        UserError: the file is missing, not a regular file, or too large.
    """
    try:
        return None if config.weights is None else read_object(config.weights, most=MOST_BYTES)
    except (MissingObjectError, TooLargeObjectError) as error:
        raise UserError(f"model '{config.name}': {error}; correct weights") from error


def build(
    config: ModelConfig,
    image_size: int,
    device: str = "cpu",
    *,
    sha256: str | None = None,
    state: str | None = None,
    builder: BuilderRecord | None = None,
    readout: tuple[str, str | None] | None = None,
    kept: Sequence[int] = (),
    seed: int = 0,
) -> Model:
    """Fetch a model's weights and load it.

    Args:
        config: the model.
        image_size: side of the crop, px.
        device: where to put it.
        sha256: of the weights file when the run began; None accepts any.
        state: hash of the network when the run began; None accepts any.
        builder: where its builder was from when the run began; None accepts any.
        readout: its head and what it put out when the run began; None accepts any.
        kept: numbers of the classes between which it chooses; none for all.
        seed: of the run.

    Raises:
        UserError: in one sentence, why the model cannot be built, or that it is not the one with which the run began.
    """
    weights = fetch_weights(config)
    check_file(config, weights, sha256)
    spec = spec_of(config)
    model = load_model(spec, weights, image_size, device, seed=seed)
    check_builder(spec, builder)
    check_state(spec, state, model.state_sha256)
    check_readout(spec.name, readout, model.network.readout)
    return choosing_among(model, kept)


def check_file(config: ModelConfig, weights: bytes | None, sha256: str | None) -> None:
    """Refuse a weights file whose hash is not the recorded one; None accepts any."""
    if sha256 is not None and fingerprint(weights) != sha256:
        raise UserError(
            f"model '{config.name}': {config.weights} has changed since this run began; put it back, or use --fresh"
        )


def fingerprint(weights: bytes | None) -> str | None:
    """SHA-256 of a weights file, in hexadecimal digits."""
    return None if weights is None else hashlib.sha256(weights).hexdigest()


def controls(cams: Sequence[str]) -> list[str]:
    """The CAMs of a list that serve as a floor for the others and explain nothing."""
    return [name for name in cams if CAMS[name].control]


def families(planned: Sequence[Variant]) -> dict[str, str]:
    """The family of every perturbation; a perturbation outside the registry is its own family."""
    names = dict.fromkeys(variant.perturbation for variant in planned)
    return {name: PERTURBATIONS[name].family if name in PERTURBATIONS else name for name in names}
