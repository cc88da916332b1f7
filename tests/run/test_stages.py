"""The stages as plain objects, without Ray: what goes in and out of each, and many variants in several parts."""

import weakref
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from camrobust.contract.config_file import parse_config
from camrobust.contract.errors import UserError
from camrobust.core.perturb import make_variants
from camrobust.io.store import open_store
from camrobust.measure.model import bytes_per_image
from camrobust.results.counted import pending_parts, read_committed
from camrobust.run import placement
from camrobust.run import plan as plans
from camrobust.run.batch_sizes import (
    batch_bytes_per_image,
    images_per_block,
    images_per_commit,
    images_per_pass,
    variant_bytes,
)
from camrobust.run.pipeline import COMMIT_CPUS, gallery
from camrobust.run.placement import check_room, explain_perturbs, place
from camrobust.run.stages import perturb as stage
from camrobust.run.stages.batches import PENDING, batch_of, pending_batch, tensors_of
from camrobust.run.stages.commit import Commit
from camrobust.run.stages.explain import Explain
from camrobust.run.stages.load import Load
from camrobust.run.stages.perturb import Perturb
from tests.photos import write_photos
from tests.runs import failures, scores

DATA = {
    "models": ["tests.toys:pooled"],
    "cams": ["gradcam", "random"],
    "perturbations": ["gaussian_noise:1-5", "salt_pepper:1-5"],
}


def pending(plan):
    """What no commit holds."""
    return pending_parts(plan.manifest, len(plan.parts), read_committed(open_store(plan.config.output)))


def measured(plan, images):
    """What Explain gives for these images."""
    loaded = Load(plan.config)(pending_batch(images))
    perturbed = Perturb(plan.config, plan.parts, "cpu")(loaded)
    return Explain(plan.config, plan.parts, gallery(plan), plan.weights, "cpu", plan.pass_sizes["cpu"])(perturbed)


@pytest.fixture
def plan_of(tmp_path, monkeypatch):
    """Plans runs over a folder of three photos and a broken one."""
    write_photos(tmp_path / "set", 3)
    (tmp_path / "set" / "broken.jpg").write_bytes(b"no")

    def make(name="out", variants_per_part=100, **changes):
        monkeypatch.setattr(plans, "GROUP_BYTES", variants_per_part * 3 * 224 * 224)
        datasets = [{"name": "d", "images": str(tmp_path / "set")}]
        return plans.make_plan(parse_config(DATA | {"output": str(tmp_path / name), "datasets": datasets} | changes))

    return make


@pytest.fixture
def run(tmp_path, plan_of):
    """Measures such a run; returns the output folder, the plan and the number of score rows."""

    def measure(name, variants_per_part, **changes):
        plan = plan_of(name, variants_per_part, **changes)
        counts = Commit(plan.config.output, 0)(measured(plan, pending(plan)))
        return tmp_path / name, plan, counts["rows"][0].as_py()

    return measure


def test_attacks_are_made_where_the_model_is_and_kept_for_the_gallery(run):
    perturbations = [
        "contrast:3",
        "fgsm:3",
        "pgd:epsilon=8,steps=3,step=4",
        {"cam_attack": {"epsilon": 8, "steps": 3, "step": 4, "cam": "each"}},
    ]
    models = [{"name": name, "builder": f"tests.toys:{name}"} for name in ("pooled", "dense")]
    one, plan, rows = run("one", 100, perturbations=perturbations, models=models, gallery_images=3)
    assert rows == 3 * 2 * 4 * 2
    assert plan.counts()["attack_passes"] == 4 * 2 * (2 + 4 + 4)
    several, _, again = run("several", 2, perturbations=perturbations, models=models, gallery_images=3)
    assert again == rows
    keys = ["model", "image_id", "cam", "perturbation"]
    first, second = (
        scores(folder).sort(keys).select(*keys, "confidence_perturbed", "rbo") for folder in (one, several)
    )
    assert first["confidence_perturbed"].to_numpy() == pytest.approx(
        second["confidence_perturbed"].to_numpy(), abs=0.02
    )
    maps = pl.read_parquet(one / "maps" / "**" / "*.parquet")
    photos = maps.filter(pl.col("image_id") == maps["image_id"][0]).select("model", "perturbation", "photo")
    by = {(row["model"], row["perturbation"]): row["photo"] for row in photos.to_dicts()}
    for attack in ("fgsm", "pgd", "cam_attack"):
        assert len({by["pooled", attack], by["dense", attack], by["pooled", "clean"]}) == 3
    assert by["pooled", "contrast"] == by["dense", "contrast"]
    attacked = scores(one).select("perturbation", "attacked_cam").unique().sort("perturbation").rows()
    assert attacked == [("cam_attack", "gradcam"), ("contrast", None), ("fgsm", None), ("pgd", None)]


def test_many_variants_in_several_parts_give_the_same_rows(run):
    one, plan, rows = run("one", 100)
    assert len(plan.parts) == 1
    several, plan, again = run("several", 4)
    assert [len(part) for part in plan.parts] == [4, 4, 2]
    assert plan.counts()["forwards"] == 4 * (10 + 3)
    assert rows == again == 3 * 2 * 10
    a, b = scores(one), scores(several)
    exact = [name for name, kind in a.schema.items() if not kind.is_float()]
    assert a.select(exact).equals(b.select(exact))
    for name in ("rbo", "pearson", "confidence_perturbed"):
        np.testing.assert_allclose(a[name].to_numpy(), b[name].to_numpy(), atol=1e-4)
    for folder in (one, several):
        assert pl.read_parquet(f"{folder}/images/*.parquet").height == 3
        assert pl.read_parquet(f"{folder}/failures/*.parquet").height == 1


def test_images_are_cut_as_configured_and_each_ones_number_of_segments_is_recorded(run):
    for segments, wanted in (({"method": "grid", "cells": 6}, {36}), ({"method": "slic", "n_segments": 12}, None)):
        folder, _, _ = run(segments["method"], 100, segments=segments)
        images = pl.read_parquet(f"{folder}/images/*.parquet")
        by_image = scores(folder).group_by("image_id").agg(pl.col("n_segments").unique())
        assert {row["image_id"]: [row["n_segments"]] for row in images.iter_rows(named=True)} == dict(
            by_image.iter_rows()
        )
        assert wanted is None or set(images["n_segments"]) == wanted
        assert images["n_segments"].min() > 1


def test_a_part_that_is_missing_is_measured_alone(plan_of):
    plan = plan_of(variants_per_part=4)
    every = measured(plan, pending(plan))
    lost = pc.and_(pc.equal(every["image_id"], "photo-001.jpg"), pc.equal(every["part"], 1))
    commit = Commit(plan.config.output, 0)
    commit(every.filter(pc.invert(lost)))
    rest = pending(plan)
    assert rest.select("image_id", "parts").rows() == [("photo-001.jpg", [1])]
    commit(measured(plan, rest))
    assert pending(plan).is_empty()
    again = plan_of("again", variants_per_part=4)
    Commit(again.config.output, 0)(every)
    assert scores(plan.config.output).equals(scores(again.config.output))


def test_images_are_perturbed_together_as_alone(tmp_path):
    write_photos(tmp_path / "set", 3)
    (tmp_path / "set" / "broken.jpg").write_bytes(b"no")
    datasets = [{"name": name, "images": str(tmp_path / "set")} for name in ("one", "other")]
    perturbations = ["gaussian_noise:1-2", "motion_blur:1", "glass_blur:1", "fog+snow:1", "fgsm:1"]
    changes = {
        "datasets": datasets,
        "perturbations": perturbations,
        "resave_jpeg_quality": 85,
        "output": str(tmp_path / "out"),
    }
    config = parse_config(DATA | changes)
    every = plans.make_plan(config).variants
    parts = (every[:4], every[4:])
    manifest = plans.make_plan(config).manifest
    pending = manifest.with_columns(parts=pl.Series([[0, 1], [1]] * 4))
    loaded, perturb = Load(config)(pending_batch(pending)), Perturb(config, parts, "cpu")
    together = perturb(loaded)
    assert together["part"].to_pylist() == [0, 1, 1] * 4
    assert set(together["kind"].to_pylist()) == {None, "not_an_image"}
    assert pa.concat_tables([perturb(loaded.slice(row, 1)) for row in range(8)]).equals(together)
    # The two datasets draw differently, though the image is the same.
    images, variants = together["image_id"].to_pylist(), tensors_of(together["variants"], -1, 3, 224, 224)
    assert images[2] == images[8]
    one, other = variants[2], variants[8]
    assert np.array_equal(one[0], other[0])
    assert not np.array_equal(one[1], other[1])


def test_perturb_holds_the_variants_of_one_pass_besides_its_result(plan_of, monkeypatch):
    plan = plan_of(variants_per_part=4)
    loaded = Load(plan.config)(pending_batch(pending(plan)))
    made, alive = [], []

    def watched(*args):
        alive.append(sum(group() is not None for group in made))
        variants = make_variants(*args).numpy().copy()
        made.append(weakref.ref(variants))
        return torch.from_numpy(variants)

    monkeypatch.setattr(stage, "make_variants", watched)
    before = pa.total_allocated_bytes()
    perturbed = Perturb(plan.config, plan.parts, "cpu")(loaded)
    # On a core each image is perturbed alone, in three parts.
    assert alive == [0] * 3 * len(plan.parts) == [0] * 9
    assert not any(group() is not None for group in made)
    # Arrow has copied no tensor: all lie in the buffers into which they were written.
    assert perturbed["segments"].nbytes > 3 * 3 * 224 * 224 * 4
    assert pa.total_allocated_bytes() - before < perturbed.nbytes + 224 * 224


def test_perturbing_in_halves_gives_the_same_rows(plan_of, monkeypatch):
    plan = plan_of(variants_per_part=4)
    loaded, perturb = Load(plan.config)(pending_batch(pending(plan))), Perturb(plan.config, plan.parts, "cpu")
    whole = perturb(loaded)

    def small(images, *args):
        if len(images) > 1:
            raise torch.cuda.OutOfMemoryError
        return make_variants(images, *args)

    monkeypatch.setattr(stage, "make_variants", small)
    assert perturb(loaded).equals(whole)


def test_an_image_that_perturb_refuses_leaves_the_others_as_they_are(plan_of, monkeypatch):
    plan = plan_of(variants_per_part=4)
    loaded, perturb = Load(plan.config)(pending_batch(pending(plan))), Perturb(plan.config, plan.parts, "cpu")
    whole = perturb(loaded)

    def over_all(items, work, refuse):
        innocent = [place for place, item in enumerate(items) if item.image_id != "photo-001.jpg"]
        results = dict(zip(innocent, work(innocent), strict=True))
        return [results[place] if place in results else refuse("it died") for place in range(len(items))]

    monkeypatch.setattr(perturb.watch, "over_all", over_all)
    refused = perturb(loaded)
    rest = pc.not_equal(whole["image_id"], "photo-001.jpg")
    assert refused.filter(rest).equals(whole.filter(rest))
    lost = refused.filter(pc.invert(rest))
    assert lost.select(["part", "stage", "kind", "message", "variants"]).to_pylist() == [
        {"part": part, "stage": "perturb", "kind": "quarantined", "message": "it died", "variants": None}
        for part in range(3)
    ]


def test_what_failed_in_loading_is_said_once_with_the_first_part_that_is_left(tmp_path):
    write_photos(tmp_path / "set", 1)
    config = parse_config(DATA | {"datasets": [{"name": "d", "images": str(tmp_path / "set")}], "output": "out"})
    every = plans.make_plan(config).variants
    parts = (every[:4], every[4:8], every[8:])
    uris = [str(tmp_path / "set" / name) for name in ("photo-000.jpg", "gone.jpg", "left.jpg")]
    pending = batch_of(PENDING, {
        "uri": uris, "dataset": ["d"] * 3, "image_id": ["photo", "gone", "left"], "label": [None] * 3,
        "place": [None] * 3, "parts": [[0, 1, 2], [0, 1, 2], [1, 2]],
    })  # fmt: skip
    loaded = Load(config)(pending)
    assert loaded["pixels"].is_null().to_pylist() == [False, True, True]
    explained = Explain(config, parts, frozenset(), {}, "cpu", 8)(Perturb(config, parts, "cpu")(loaded))
    rows = explained.select(["image_id", "part", "failures", "images"]).to_pylist()
    assert [(row["image_id"], row["part"], len(row["failures"]), len(row["images"])) for row in rows] == [
        ("photo", 0, 0, 1), ("photo", 1, 0, 0), ("photo", 2, 0, 0), ("gone", 0, 1, 0), ("gone", 1, 0, 0),
        ("gone", 2, 0, 0), ("left", 1, 1, 0), ("left", 2, 0, 0),
    ]  # fmt: skip


def test_models_that_raise_or_leave_become_failure_rows_and_the_others_go_on(run):
    models = [{"name": name, "builder": f"tests.toys:{name}"} for name in ("crashing", "pooled", "quitting")]
    folder, _, rows = run("raising", 100, models=models)
    assert rows == scores(folder).height == 3 * 2 * 10
    assert set(scores(folder)["model"]) == {"pooled"}
    named = failures(folder).filter(pl.col("stage") == "explain")
    assert named.height == 2 * 3
    assert set(named.select("model", "kind", "message").rows()) == {
        ("crashing", "error", "RuntimeError: this model does not like your image"),
        ("quitting", "error", "SystemExit: 3"),
    }


def test_images_perturbed_at_once_are_bounded():
    assert images_per_pass(224, 95, "cpu") == 1
    assert images_per_pass(224, 95, "cuda") == 8
    assert images_per_pass(1024, 47, "cuda") == 1
    assert images_per_pass(4096, 1, "cuda") == 2


def test_a_block_holds_64_images_unless_bytes_work_or_the_number_of_workers_forbid_it(plan_of):
    plan = plan_of()
    assert images_per_block(plan, 10**6, 2, "cpu") == images_per_block(plan, 10**6, 2, "cuda") == 64
    assert [images_per_block(plan, images, 4, "cuda") for images in (3, 64, 640, 10**4)] == [1, 2, 20, 64]
    models = [{"name": f"m{number}", "builder": "tests.toys:pooled"} for number in range(3)]
    assert images_per_block(plan_of(models=models), 10**6, 2, "cpu") == 768 // (3 * 11) == 23
    assert images_per_block(plan_of(cams=["gradcam", "finercam"]), 10**6, 2, "cpu") == 768 // (5 * 11) == 13
    assert images_per_block(plan_of(cams=["scorecam"]), 10**6, 2, "cuda") == 32_768 // (513 * 11) == 5
    attacked = plan_of(perturbations=["pgd:epsilon=8,steps=98,step=1"])
    assert images_per_block(attacked, 10**6, 2, "cpu") == 768 // (2 + attacked.variants[0].attack_passes) == 7
    # Ray Data cuts blocks of more than 128 MiB; 95 variants of 224 px have 13.8.
    many = replace(plan, variants=plan.variants * 9 + plan.variants[:5], parts=(plan.variants * 10,))
    assert (len(many.variants), images_per_block(many, 10**6, 2, "cuda")) == (95, 9)
    assert 9 * variant_bytes(many) <= 128 * 2**20 < 10 * variant_bytes(many)
    image = plan.config.image.model_copy(update={"resize": 4096, "crop": 4096})
    large = replace(plan, config=plan.config.model_copy(update={"image": image}))
    assert images_per_block(large, 10**6, 2, "cuda") == 1


def test_a_block_for_explain_weighs_what_was_estimated(plan_of):
    plan = plan_of(variants_per_part=4)
    perturbed = Perturb(plan.config, plan.parts, "cpu")(Load(plan.config)(pending_batch(pending(plan))))
    tensors = perturbed["variants"].nbytes + perturbed["segments"].nbytes
    assert 3 * variant_bytes(plan) <= tensors < 1.001 * 3 * variant_bytes(plan)


def test_weights_that_changed_since_the_run_began_are_refused(tmp_path, plan_of):
    from safetensors.torch import save_file

    from tests.toys import pooled

    file = tmp_path / "w.safetensors"
    save_file(pooled().state_dict(), file)
    plan = plan_of(models=[{"name": "m", "builder": "tests.toys:pooled", "weights": str(file)}])
    config = plan.config.models[0]
    known = plans.fingerprint(plans.fetch_weights(config))
    assert plans.build(config, 224, sha256=known).name == "m"
    save_file({name: value + 1 for name, value in pooled().state_dict().items()}, file)
    sentence = "has changed since this run began; put it back, or use --fresh"
    with pytest.raises(UserError, match=sentence):
        plans.build(config, 224, sha256=known)


def test_the_gallery_is_the_same_on_every_attempt_and_as_large_as_asked(plan_of):
    plan = plan_of(gallery_images=2)
    assert len(gallery(plan)) == 2
    assert gallery(plan) == gallery(replace(plan, manifest=plan.manifest.reverse()))
    assert len({gallery(plan_of(gallery_images=2, seed=seed)) for seed in range(5)}) > 1


def test_commits_are_large_but_never_much_of_the_run(plan_of):
    plan = plan_of()
    assert images_per_commit(plan, 4) == 1
    assert images_per_commit(plan, 50_000) == 500
    assert images_per_commit(plan, 50_000, 64) == 8 * 64
    assert images_per_commit(plan, 5_000, 64) == 64
    assert images_per_commit(plan, 10**9, 64) % 64 == 0
    assert images_per_commit(plan, 10**9, 10**9) == images_per_commit(plan, 10**9)
    rows = images_per_commit(plan, 10**9) * plan.rows_per_image
    assert 0.99 * 64 * 2**20 < rows * plan.row_bytes <= 64 * 2**20
    models = [{"name": f"m{number}", "builder": "tests.toys:pooled"} for number in range(8)]
    several = plan_of(models=models)
    images = images_per_commit(several, 10**9)
    assert 0.99 * 256 * 2**20 < images * batch_bytes_per_image(several) <= 256 * 2**20


def test_score_rows_take_about_as_much_memory_as_estimated(plan_of):
    plan = plan_of()
    rows = measured(plan, pending(plan))["scores"]
    estimate = 3 * batch_bytes_per_image(plan)
    assert 0.8 * estimate < rows.nbytes <= estimate


@pytest.mark.parametrize(
    ("resources", "cluster", "device", "explain", "perturb", "load"),
    [
        ({"CPU": 2.0}, {}, "cpu", {"num_cpus": 0.3}, {"num_cpus": 0.15}, {"num_cpus": 0.5}),
        ({"CPU": 64.0, "GPU": 4.0}, {}, "cuda", {"num_gpus": 0.8, "num_cpus": 1}, {"num_gpus": 0.2, "num_cpus": 1},
         {"num_cpus": 1}),
        ({"CPU": 8.0, "GPU": 1.0}, {"gpus_per_explainer": 0}, "cpu", {"num_cpus": 0.353}, {"num_cpus": 0.176},
         {"num_cpus": 0.5}),
        # An autoscaling cluster has no GPU yet: what the configuration asks for decides, so that it scales up.
        ({"CPU": 0.0}, {"gpus_per_explainer": 0.5, "gpus_per_perturber": 0.25, "accelerator": "A10G",
                        "loader_labels": {"role": "cpu"}, "cpus_per_loader": 2},
         "cuda", {"num_gpus": 0.5, "num_cpus": 1, "accelerator_type": "A10G"},
         {"num_gpus": 0.25, "num_cpus": 1, "accelerator_type": "A10G"},
         {"num_cpus": 2, "label_selector": {"role": "cpu"}}),
        ({"CPU": 2.0}, {"gpu_labels": {"role": "gpu"}, "gpu_resources": {"slot": 1}}, "cpu",
         {"num_cpus": 0.3, "label_selector": {"role": "gpu"}, "resources": {"slot": 1}},
         {"num_cpus": 0.15, "label_selector": {"role": "gpu"}, "resources": {"slot": 1}}, {"num_cpus": 0.5}),
    ],
)  # fmt: skip
def test_each_stage_asks_for_what_the_configuration_and_the_cluster_say(
    plan_of, monkeypatch, resources, cluster, device, explain, perturb, load
):
    plan = plan_of(cluster={"perturb": "own", **cluster})
    monkeypatch.setattr(placement.ray, "cluster_resources", lambda: resources)
    found = place(plan)
    assert (found.device, found.explain, found.perturb, found.load) == (device, explain, perturb, load)
    assert found.explainers[0] >= 1


def test_the_size_of_passes_is_decided_by_the_plan_and_kept(plan_of):
    plan = plan_of()
    model = plans.build(plan.config.models[0], 224)
    # Pooled: four layers of 8 × 56 × 56 and 8 × 14 × 14 values, a pooled vector, ten logits.
    need = 4 * (2 * 8 * 56 * 56 + 2 * 8 * 14 * 14 + 8 + 10)
    assert bytes_per_image(model, 224) == need
    # Ten variants and the clean image fill a pass of eleven.
    assert plan.pass_sizes == plans.pass_sizes(plan.config, plan.parts, need) == {"cpu": 11, "cuda": 128}
    assert plans.pass_sizes(plan.config, plan.parts, 2**30) == {"cpu": 2, "cuda": 16}
    recorded = {"cpu": 5, "cuda": 7}
    assert plans.make_plan(plan.config, plan.manifest, sizes=recorded).pass_sizes == recorded
    asked = plan_of(cluster={"batch": 3})
    assert asked.pass_sizes == {"cpu": 3, "cuda": 3}
    assert plans.make_plan(asked.config, plan.manifest, sizes=recorded).pass_sizes == {"cpu": 3, "cuda": 3}


def test_workers_that_are_always_there_leave_room_to_load(plan_of, monkeypatch):
    plan = plan_of(cluster={"explainers": [2, 2], "perturbers": [2, 2]})
    for cores in (2.0, 1.0, 64.0):
        monkeypatch.setattr(placement.ray, "cluster_resources", lambda cores=cores: {"CPU": cores})
        found = place(plan)
        workers = 2 * (found.explain["num_cpus"] + found.perturb["num_cpus"])
        assert 0 < workers <= 0.375 * cores + 0.01


def test_all_workers_fit_on_two_cores_at_once(plan_of, monkeypatch):
    """Otherwise a stage would wait for ever."""
    monkeypatch.setattr(placement.ray, "cluster_resources", lambda: {"CPU": 2.0})
    found = place(plan_of(cluster={"perturb": "own"}))
    standing = found.explainers[1] * found.explain["num_cpus"] + found.perturbers[1] * found.perturb["num_cpus"]
    assert standing + found.load["num_cpus"] + COMMIT_CPUS <= 2


@pytest.mark.parametrize(
    ("cluster", "sentence"),
    [
        (
            {"perturb": "own", "cpus_per_loader": 100, "loader_labels": {"market": "!spot"}},
            "cluster: a worker of load, 1 of perturb and 2 of explain together ask for 100.75 CPU, this machine has 2; "
            "ask for less under `cluster`, or name a cluster by --address",
        ),
        (
            {"gpu_labels": {"role": "gpu"}},
            "cluster: workers ask for nodes with the label role=gpu, which this machine does not have; leave it out "
            "here, or name a cluster by --address",
        ),
    ],
)
def test_workers_that_this_machine_has_no_room_for_are_refused(plan_of, monkeypatch, cluster, sentence):
    monkeypatch.setattr(placement.ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(placement.ray, "nodes", lambda: [{"Labels": {}}])
    with pytest.raises(UserError) as error:
        check_room(plan_of(cluster=cluster))
    assert str(error.value) == sentence


def test_explain_workers_that_perturb_give_the_same_rows(plan_of):
    """To the bit: in several parts, some of them missing, with a broken image, and with maps for the gallery."""
    plan = plan_of(variants_per_part=4, gallery_images=4)
    every = pending(plan)
    some = every.with_columns(parts=pl.Series([[0, 1, 2], [0, 2], [1], [2]]))
    loaded = Load(plan.config)(pending_batch(some))
    arguments = (plan.config, plan.parts, gallery(plan), plan.weights, "cpu", plan.pass_sizes["cpu"])
    own = Explain(*arguments)(Perturb(plan.config, plan.parts, "cpu")(loaded))
    with_explain = Explain(*arguments, perturbs=True)(loaded)
    assert own["part"].to_pylist() == [0, 1, 2, 0, 2, 1, 2]
    assert sum(map(len, own["failures"].to_pylist())) == 1
    assert sum(map(len, own["maps"].to_pylist())) > 0
    assert with_explain.equals(own)


@pytest.mark.parametrize(
    ("perturb", "device", "models", "variants", "wanted"),
    [
        ("auto", "cpu", 3, 5, True), ("own", "cpu", 1, 95, False), ("with_explain", "cpu", 5, 5, True),
        ("auto", "cuda", 1, 5, True), ("auto", "cuda", 3, 12, False), ("auto", "cuda", 3, 13, True),
        ("own", "cuda", 1, 95, False),
    ],
)  # fmt: skip
def test_explain_workers_perturb_where_the_trip_would_cost_more(plan_of, perturb, device, models, variants, wanted):
    named = [{"name": f"m{number}", "builder": "tests.toys:pooled"} for number in range(models)]
    plan = plan_of(models=named, cluster={"perturb": perturb})
    assert explain_perturbs(replace(plan, variants=plan.variants[:1] * variants), device) == wanted


def test_perturb_workers_that_are_asked_for_on_cores_are_made(plan_of):
    plan = plan_of(cluster={"perturbers": [1, 1]})
    assert (explain_perturbs(plan, "cpu"), explain_perturbs(plan, "cuda")) == (False, True)


def test_where_explain_workers_perturb_no_others_are_asked_for(plan_of, monkeypatch):
    monkeypatch.setattr(placement.ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(placement.ray, "nodes", lambda: [{"Labels": {}}])
    plan = plan_of(cluster={"cpus_per_loader": 100})
    found = place(plan)
    assert (found.perturbers, found.explainers, found.explain) == (None, (2, 2), {"num_cpus": 0.375})
    with pytest.raises(UserError, match="a worker of load, 0 of perturb and 2 of explain together ask for 100"):
        check_room(plan)
