"""Rows, summaries and whole runs of networks whose heads are not a softmax."""

import json
import math
import re

import polars as pl
import pytest
import torch

import camrobust
from camrobust.contract.config_file import parse_config
from camrobust.contract.errors import UserError
from camrobust.contract.heads import HEADS, parse_head
from camrobust.measure.model import wrap
from tests import in_process
from tests.photos import write_photos
from tests.reference import heads
from tests.runs import report
from tests.toys import Pair, Pooled, pooled, seeded, turning_logit

NOISE = ["gaussian_noise:5", "contrast:3,5"]


def pictures(count, seed=0):
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def outputs_of(module, pixels):
    """Outputs of a module for the images of a batch, one at a time, as lists of numbers."""
    model = wrap(module, image_size=64)
    return [module(model.normalise(one[None]))[0].double().tolist() for one in pixels]


def centred(module, given):
    """The module with biases at which the decisions on some images lie around 0."""
    inputs = wrap(module, image_size=64).normalise(given)
    with torch.no_grad():
        module.fc.bias -= module(inputs).median(dim=0).values
    return module


def measured(module, given, **keywords):
    """Score rows of one CAM, and the outputs for the clean and perturbed image of every row."""
    from camrobust.core.perturb import make_variants, variants

    names = [str(number) for number in range(len(given))]
    result = camrobust.evaluate(
        module, given, ["gradcam"], NOISE, image_ids=names, segments={"method": "grid"}, **keywords
    )
    planned = variants(NOISE)
    levels = (given * 255).round().to(torch.uint8)
    stacks = make_variants(levels, planned, names, "images", 0)
    pairs = {}
    for name, stack in zip(names, stacks, strict=True):
        clean, *noisy = outputs_of(module, stack)
        for variant, outputs in zip(planned, noisy, strict=True):
            pairs[name, variant.perturbation, variant.strength] = (clean, outputs)
    rows = result.scores.to_dicts()
    assert len(rows) == len(pairs)
    return result, [(row, *pairs[row["image_id"], row["perturbation"], row["strength"]]) for row in rows]


def test_flips_of_one_logit_are_seen():
    given = pictures(8)
    _, rows = measured(centred(seeded(Pooled(1)), given), given)
    for row, clean, noisy in rows:
        before, after = heads.binary_head(clean, clean), heads.binary_head(noisy, clean)
        assert (row["predicted_clean"], row["predicted_perturbed"]) == (before[0], after[0])
        assert row["confidence_clean"] == pytest.approx(before[1], rel=1e-5)
        assert row["confidence_perturbed"] == pytest.approx(after[1], rel=1e-5)
        assert row["entropy_clean"] == pytest.approx(before[2], rel=1e-5)
        assert row["kept_class"] == after[3] == (before[0] == after[0])
        assert row["value_clean"] is row["value_perturbed"] is None
        assert row["ros"] is None or row["ros"] > 0
    assert {row["predicted_clean"] for row, _, _ in rows} == {0, 1}
    assert 0 < sum(not row["kept_class"] for row, _, _ in rows) < len(rows)


def test_a_planted_network_of_one_logit_has_its_robustness():
    given = pictures(10, seed=4)
    noise = ["gaussian_noise:2", {"gaussian_noise": [4], "replicates": 3}]
    found = camrobust.evaluate(turning_logit(), given, ["gradcam"], noise, target_layer="features", segments="grid")
    line = found.summary().row(0, named=True)
    assert min(line["n_same"], line["n_flipped"]) >= 10
    assert line["consistency"] == pytest.approx(1, abs=1e-6)
    # The map of -z is that of z upside down, up to a constant: cut off at 0, no segment ranks high in both.
    assert line["responsiveness_adjusted"] > 0.9
    assert line["robustness"] == pytest.approx(line["responsiveness"], abs=1e-6)


def test_the_change_of_one_logit_is_that_of_the_output():
    given = pictures(4)
    module = centred(seeded(Pooled(1)), given)
    found, wanted = (
        camrobust.evaluate(one, given, ["gradcam"], NOISE, segments="grid", similarities=["ros"], target_layer=layer)
        for one, layer in ((module, "features"), (Pair(module), "inner.features"))
    )
    assert found.scores["kept_class"].to_list() == wanted.scores["kept_class"].to_list()
    # Two logits -z and z move by the root of 2 as far as z.
    for one, other in zip(found.scores["ros"], wanted.scores["ros"], strict=True):
        assert one == pytest.approx(2**0.5 * other, rel=1e-4) if other is not None else one is None
    assert found.scores["ros"].drop_nulls().len() > 3


@pytest.mark.parametrize("label", [None, 2])
def test_a_label_is_kept_by_its_own_decision(label):
    given = pictures(8, seed=1)
    module = centred(seeded(Pooled(4)), given)
    head = "multilabel" if label is None else f"multilabel:explained={label}"
    _, rows = measured(module, given, head=head)
    for row, clean, noisy in rows:
        before, after = heads.multilabel_head(clean, clean, label), heads.multilabel_head(noisy, clean, label)
        assert (row["predicted_clean"], row["predicted_perturbed"]) == (before[0], after[0])
        assert row["confidence_clean"] == pytest.approx(before[1], rel=1e-5)
        assert row["confidence_perturbed"] == pytest.approx(after[1], rel=1e-5)
        assert row["entropy_clean"] == pytest.approx(before[2], rel=1e-5)
        assert row["kept_class"] == after[3]
    highest_moves = [clean.index(max(clean)) != noisy.index(max(noisy)) for _, clean, noisy in rows]
    assert any(moved and row["kept_class"] for (row, _, _), moved in zip(rows, highest_moves, strict=True))
    assert label is None or not all(row["kept_class"] for row, _, _ in rows)


def test_a_value_is_kept_within_its_tolerance():
    given = pictures(6, seed=2)
    module = seeded(Pooled(1))
    apart = sorted(abs(noisy[0] - clean[0]) for _, clean, noisy in measured(module, given)[1])
    tolerance = (apart[8] + apart[9]) / 2
    result, rows = measured(module, given, head=f"value:tolerance={tolerance!r}")
    for row, clean, noisy in rows:
        number, value, kept = heads.value_head(noisy, clean, tolerance)
        assert number == 0
        assert row["value_clean"] == pytest.approx(clean[0], rel=1e-5, abs=1e-6)
        assert row["value_perturbed"] == pytest.approx(value, rel=1e-5, abs=1e-6)
        assert row["kept_class"] == kept
        nothing = (
            "predicted_clean",
            "predicted_perturbed",
            "confidence_clean",
            "confidence_perturbed",
            "entropy_clean",
        )
        assert all(row[name] is None for name in nothing)
        assert row["status"] == "ok"
    line = result.summary().row(0, named=True)
    assert (line["n_same"], line["n_flipped"]) == (9, 9)
    assert line["robustness"] is not None
    assert result.stability().height >= 3


class Flat(Pooled):
    """Its output is no number for images without noise."""

    def forward(self, images):
        outputs = super().forward(images)
        return torch.where(images.std(dim=(2, 3)).amax(dim=1, keepdim=True) < 0.05, torch.nan, outputs)


def test_a_clean_value_that_is_no_number_marks_its_variants():
    given = torch.stack([torch.full((3, 64, 64), 0.4), pictures(1)[0]])
    result = camrobust.evaluate(seeded(Flat(1)), given, ["gradcam"], ["gaussian_noise:5"], head="value:tolerance=1",
                                segments="grid", image_ids=["flat", "noisy"])  # fmt: skip
    rows = {row["image_id"]: row for row in result.scores.to_dicts()}
    assert (rows["flat"]["status"], rows["noisy"]["status"]) == ("not_finite", "ok")
    assert math.isfinite(rows["flat"]["value_perturbed"])
    assert rows["flat"]["rbo"] is None


class Spoilt(Pooled):
    """Its output is no number for bright images."""

    def forward(self, images):
        outputs = super().forward(images)
        return torch.where(images.mean(dim=(1, 2, 3))[:, None] > 1, torch.nan, outputs)


def test_a_value_that_is_no_number_is_marked():
    given = torch.stack([torch.full((3, 64, 64), 0.3), torch.full((3, 64, 64), 0.95)])
    given[:, :, ::2] *= 0.9
    result = camrobust.evaluate(seeded(Spoilt(1)), given, ["gradcam"], ["contrast:1"], head="value:tolerance=1",
                                segments="grid", image_ids=["dark", "bright"])  # fmt: skip
    assert dict(result.scores.select("image_id", "status").iter_rows()) == {"dark": "ok", "bright": "not_finite"}
    assert result.scores["predicted_clean"].null_count() == 2


class Sigmoid(Pooled):
    def forward(self, images):
        return super().forward(images).sigmoid().flatten(1)


class OfTwo(Pooled):
    """The share of the second of two classes."""

    def forward(self, images):
        return super().forward(images).softmax(1)[:, 1]


class Narrow(Pooled):
    """One logit that is always small and above 0: no probability."""

    def forward(self, images):
        return super().forward(images).abs().tanh() * 0.3


@pytest.mark.parametrize(("build", "head"), [(Sigmoid, None), (Sigmoid, "multilabel"), (OfTwo, None)])
def test_outputs_of_a_sigmoid_are_decided_at_one_half(build, head):
    columns = {"multilabel": 3}.get(head, 2 if build is OfTwo else 1)
    model = wrap(seeded(build(columns)), image_size=64, head=head)
    readout = model.network.readout
    assert (readout.kind, readout.outputs) == (head or "binary", "sigmoids")
    assert len(model.remarks) == 1
    assert re.search("is a probability already|are probabilities already", model.remarks[0])
    low, high = torch.tensor([[0.4] * (columns if head else 1)]), torch.tensor([[0.6] * (columns if head else 1)])
    scores = [readout.scores(one) for one in (low, high)]
    explained = readout.predicted(scores[0])
    assert not readout.kept(scores[1], scores[0], explained).any()
    assert float(readout.confidence(scores[0], explained)) == pytest.approx(0.4 if head else 0.6)


class Hidden(Pooled):
    """Probabilities of a sigmoid, with a further step."""

    def __init__(self, classes, step):
        super().__init__(classes)
        self.step = step

    def forward(self, images):
        return self.step(super().forward(images).sigmoid())


HIDING = {
    "binary": lambda p: p.clamp(1e-6, 1 - 1e-6), "multilabel:explained=1": lambda p: torch.cat([p[:, :2], p[:, 2:]], 1),
    "multilabel": lambda p: p[:, [2, 0, 1]], "binary:outputs": lambda p: 1 - p,
}  # fmt: skip


@pytest.mark.parametrize("head", HIDING)
def test_a_sigmoid_behind_which_something_stands_is_refused_until_it_is_named(head):
    step, head = HIDING[head], head.removesuffix(":outputs")
    module = seeded(Hidden(1 if head == "binary" else 3, step))
    more = f"{head}{',' if ':' in head else ':'}outputs="
    sentence = (
        "model 'model': its outputs stay between 0 and 1, also for inputs 1000 times larger, but the last step is no "
        f"sigmoid; return the logits, or say which they are by head: {more}logits or {more}probabilities"
    )
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        wrap(module, image_size=64, head=head)
    named = wrap(module, image_size=64, head=f"{more}probabilities").network.readout
    assert (named.head, named.holds_probabilities) == (head, True)
    # A decision at 0 could not change.
    outputs = torch.tensor([[0.4] * module.fc.out_features, [0.6] * module.fc.out_features])
    low, high = (named.scores(one[None]) for one in outputs)
    assert not named.kept(high, low, named.predicted(low)).any()


def test_small_logits_are_named():
    narrow = seeded(Narrow(1))
    with pytest.raises(UserError, match=r"or say which they are by head: binary:outputs=logits or binary:outputs=prob"):
        wrap(narrow, image_size=64)
    model = wrap(narrow, image_size=64, head="binary:outputs=logits")
    assert (model.network.readout.outputs, model.remarks) == ("logits", ())
    small = seeded(Pooled(1))
    with torch.no_grad():
        small.fc.weight *= 1e-6
        small.fc.bias.fill_(0.5)
    # Those of a linear layer are logits, as small as they may be.
    assert wrap(small, image_size=64).network.readout.outputs == "logits"
    assert wrap(small, image_size=64).remarks == ()
    assert wrap(narrow, image_size=64, head="value:tolerance=1").remarks == ()


class Alone(Pooled):
    """Loses the dimension of the images where there is one."""

    def forward(self, images):
        return super().forward(images).squeeze()


def test_a_network_that_loses_a_single_image_is_told():
    sentence = (
        "model: its output must have one row for each image, got 10 for 1; do not squeeze the dimension of the images"
    )
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        wrap(seeded(Alone()), image_size=64)
    assert wrap(seeded(Alone(1)), image_size=64).network.readout.kind == "binary"


FOR = "model 'model': head: "


@pytest.mark.parametrize(
    ("head", "classes", "sentence"),
    [
        ("softmax", 1, f"{FOR}softmax needs two or more outputs, got 1; leave head out, or set head: binary"),
        ("binary", 3, f"{FOR}binary needs one output, got 3; leave head out, or set head: multilabel"),
        ("multilabel:explained=3", 3, f"{FOR}explained must be from 0 to 2 (number of the output), got 3"),
        (
            "multilabel:explained=dog", 3,
            f"{FOR}explained must be the number of an output, or a name in a list under classes, got 'dog'",
        ),
        (
            "value:tolerance=0.5", 3,
            f"{FOR}value must name one of 3 outputs; write head: value:tolerance=0.5,explained=0",
        ),
        (
            "value", 1,
            "head: value needs the largest change that counts as kept, in the output's unit; write "
            "head: value:tolerance=0.5",
        ),
        ("value:tolerance=-1", 1, "head: tolerance must be a number from 0 (in the output's unit), got '-1'"),
        ("value:tolerance=nan", 1, "head: tolerance must be a number from 0 (in the output's unit), got 'nan'"),
        ("multilabel:tolerance=1", 3, "head: multilabel has no setting 'tolerance'; it has explained and outputs"),
        (
            "binary:outputs=probabilities", 1,
            f"{FOR}outputs=probabilities, but some outputs are not between 0 and 1, or all are 0; leave it out",
        ),
        ("binary:outputs=logit", 1,
         "unknown outputs of a head 'logit'; did you mean 'logits'? known: logits, probabilities"),
        (3, 1, "head: must be a text, one of softmax, binary, multilabel, value, got 3; quote it"),
        (
            "value:tolerance=0.5,tolerance=9", 1,
            "head: 'value:tolerance=0.5,tolerance=9' gives a setting twice; give each once",
        ),
        ("multilabel:explained=1234567890", 3, "head: explained must have at most 9 digits, got '1234567890'"),
        ("softmax:explained=1", 3, "head: softmax has no setting 'explained'; write head: softmax"),
        (
            "multilable", 3,
            "unknown head 'multilable'; did you mean 'multilabel'? known: binary, multilabel, softmax, value",
        ),
    ],
)  # fmt: skip
def test_a_head_that_does_not_fit_is_one_sentence(head, classes, sentence):
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        camrobust.explain(pooled(classes), pictures(1), head=head)


def test_a_sigmoid_is_not_named_logits():
    sentence = f"{FOR}outputs=logits, but the last step is a sigmoid or a softmax; leave it out"
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        wrap(seeded(Sigmoid(1)), image_size=64, head="binary:outputs=logits")


def test_very_many_digits_and_no_numbers_are_one_sentence():
    with pytest.raises(UserError, match=r"^head: explained must have at most 9 digits, got '999"):
        parse_head("multilabel:explained=" + "9" * 5000)
    for mean in ("a", 3, ("a", 1, 1)):
        with pytest.raises(
            UserError, match=r"^model 'model': mean must be a list of numbers, one for each channel, got"
        ):
            wrap(pooled(), mean=mean, image_size=64)


@pytest.mark.parametrize(
    ("own", "same", "others"),
    [
        (None, ["binary", "binary:outputs=logits"], ["multilabel", "softmax", "binary:outputs=probabilities"]),
        ("value:tolerance=1", ["value:tolerance=1.0", "value:tolerance=1,explained=0"], ["value:tolerance=2"]),
        ("multilabel:explained=0", ["multilabel:explained=0"], ["multilabel", "binary"]),
    ],
)
def test_a_model_that_is_ready_has_its_own_head(own, same, others):
    model = wrap(pooled(1), image_size=64, head=own)
    for head in same:
        camrobust.explain(model, pictures(1), head=head)
    kind = model.network.readout.head
    for head in others:
        sentence = (
            f"model: one that is ready has its own head, {kind} of logits, got '{head}'; leave it "
            "out, or make the model anew"
        )
        with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
            camrobust.explain(model, pictures(1), head=head)
    with pytest.raises(UserError, match="unknown head 'nonsense'"):
        camrobust.explain(model, pictures(1), head="nonsense")


def test_heads_are_written_as_they_are_read():
    for text in ("softmax", "binary", "multilabel", "multilabel:explained=3", "value:tolerance=0.5",
                 "value:tolerance=2.0,explained=1", "binary:outputs=logits",
                 "multilabel:explained=3,outputs=probabilities"):  # fmt: skip
        assert str(parse_head(text)) == text
    assert {parse_head(kind + ":tolerance=1" * (kind == "value")).kind for kind in HEADS} == set(HEADS)


def test_labels_are_classes():
    with pytest.raises(UserError, match=r"^labels: must be class numbers from 0 to 1, got 2; number them"):
        camrobust.evaluate(pooled(1), pictures(1), labels=[2])
    with pytest.raises(UserError, match=r"^labels: must be None for a model that puts out values, got 1; leave labels"):
        camrobust.evaluate(pooled(1), pictures(1), labels=[1], head="value:tolerance=1")


def configuration(output, photos, *models):
    return {
        "output": str(output), "datasets": [{"name": "d", "images": str(photos)}], "models": list(models),
        "image": {"resize": 72, "crop": 64}, "segments": {"method": "grid"}, "cams": ["gradcam", "random"],
        "perturbations": ["gaussian_noise:2,4"], "gallery_images": 4, "cluster": {"explainers": [1, 1]},
    }  # fmt: skip


LOGIT = {"builder": "tests.toys:turning_logit", "target_layer": "features"}
MODELS = (
    LOGIT | {"name": "sign", "classes": ["benign", "malignant"]},
    LOGIT | {"name": "label", "head": "multilabel:explained=tumour", "classes": ["tumour"]},
    LOGIT | {"name": "value", "head": "value:tolerance=50"},
)


def test_heads_are_in_the_configuration_and_its_digest():
    plain = parse_config(configuration("o", "p", LOGIT | {"name": "m"}))
    assert "head" not in plain.numbers()["models"][0]
    label, value = parse_config(configuration("o", "p", *MODELS[1:])).models
    assert (label.head, value.head) == ("multilabel:explained=0", "value:tolerance=50.0")
    other = parse_config(configuration("o", "p", LOGIT | {"name": "m", "head": "multilabel"}))
    assert other.numbers()["models"][0]["head"] == "multilabel"
    assert other.digest() != plain.digest()
    sentence = "config: model 'm': unknown name in classes 'cat'; known: dog"
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        parse_config(
            configuration("o", "p", LOGIT | {"name": "m", "head": "multilabel:explained=cat", "classes": ["dog"]})
        )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    write_photos(folder / "photos", 6)
    config = configuration(folder / "out", folder / "photos", *MODELS)
    assert in_process.run(parse_config(config)).exit_code == 0
    return folder, config


def test_a_run_records_its_heads_and_scores_by_them(runs):
    folder, _ = runs
    record = json.loads((folder / "out" / "run.json").read_text())
    assert record["heads"] == {
        "sign": "binary", "label": "multilabel:explained=0", "value": "value:tolerance=50.0,explained=0",
    }  # fmt: skip
    scores = camrobust.load_run(folder / "out").scores.filter(pl.col("cam") == "gradcam")
    keys = ["image_id", "perturbation", "strength"]
    by_model = {str(name): rows.sort(keys) for (name,), rows in scores.partition_by("model", as_dict=True).items()}
    sign, label, value = (by_model[name] for name in ("sign", "label", "value"))
    # All three flip at the same variants, where the one output changes its sign.
    assert sign["kept_class"].to_list() == label["kept_class"].to_list() == value["kept_class"].to_list()
    assert 0 < sign["kept_class"].sum() < len(sign)
    assert set(sign["predicted_clean"]) == {0, 1}
    assert set(label["predicted_clean"]) == set(label["predicted_perturbed"]) == {0}
    assert value["predicted_clean"].null_count() == value["confidence_clean"].null_count() == len(value)
    assert value["value_perturbed"].abs().is_between(98, 102).all()
    assert [math.isclose(one, 1) for one in sign["confidence_clean"]] == [True] * len(sign)


def test_a_report_speaks_of_the_heads(runs):
    folder, _ = runs
    page = report(folder / "out").read_text()
    assert "of the perturbed images changed the decision" in page
    assert "variants that kept their decision, with the variants that agree most" in page
    assert "value:tolerance=50.0,explained=0 (a number (regression); kept: it moves by the tolerance at most)" in page
    assert ("benign</bdi> became" in page) or ("malignant</bdi> became" in page)
    assert ("tumour</bdi> became" in page) == ("not tumour" in page)
    assert "class None" not in page


def test_a_run_goes_on_with_its_own_heads_only(runs):
    from camrobust.results.folder import open_run
    from camrobust.results.reduce import check_combinable

    folder, config = runs
    other = [MODELS[0] | {"head": "multilabel"}, *MODELS[1:]]
    sentence = r"holds a run of another configuration \(different: models.0.head\); choose another output"
    with pytest.raises(UserError, match=sentence):
        in_process.run(parse_config(config | {"models": other}))
    with pytest.raises(UserError, match=r"\(different: models.2.head\)"):
        in_process.run(parse_config(config | {"models": [*MODELS[:2], MODELS[2] | {"head": "value:tolerance=40"}]}))
    began = open_run(str(folder / "out")).run()
    later = began.model_copy(update={"heads": began.heads | {"sign": "softmax"}})
    with pytest.raises(UserError, match=r"cannot be combined \(different: heads.sign\)"):
        check_combinable({"one": began, "two": later})


def test_a_run_goes_on_only_where_outputs_are_read_as_before(runs):
    """A run from before there were heads has none, and took a softmax of everything."""
    from camrobust.results.folder import open_run
    from camrobust.results.reduce import check_combinable
    from camrobust.run.stages.explain import Explain
    from camrobust.run.unchanged import check_networks
    from camrobust.run.workflow import _recorded_plan

    folder, config = runs
    run = open_run(str(folder / "out"))
    began, config = run.run(), parse_config(config)
    assert began.outputs == dict.fromkeys(began.models, "logits")
    plan = _recorded_plan(config, run)
    assert plan.readouts["label"] == ("multilabel:explained=0", "logits")
    check_networks(config, began)
    check_networks(config, began.model_copy(update={"outputs": {}}))
    before = began.model_copy(update={"heads": {}, "outputs": {}})
    sentence = (
        "^model 'sign': its outputs are read as binary of logits here, but as {} when this run began; finish it with "
        "the versions of camrobust and torch that began it, or use --fresh$"
    )
    with pytest.raises(UserError, match=sentence.format("softmax of logits")):
        check_networks(config, before)
    other = began.model_copy(update={"outputs": began.outputs | {"sign": "sigmoids"}})
    with pytest.raises(UserError, match=sentence.format("binary of sigmoids")):
        check_networks(config, other)
    with pytest.raises(UserError, match=r"cannot be combined \(different: outputs.sign\)"):
        check_combinable({"one": began, "two": other})
    with pytest.raises(UserError, match=sentence.format("softmax of logits")):
        Explain(config, plan.parts, frozenset(), {}, "cpu", 4, readouts=before.readouts())


TARGETED = "pgd_targeted:epsilon=4,steps=1,step=1,target="


@pytest.mark.parametrize(
    ("models", "target", "sentence"),
    [
        (MODELS[:1], 1, None),
        (MODELS[:1], 2, "target of pgd_targeted must be below 2 (number of classes of this model), got 2; choose "
         "another class"),
        (MODELS[:2], 1, "target of pgd_targeted must be below 1 (number of classes of this model), got 1; choose "
         "another class"),
        (MODELS[2:], 0, "pgd_targeted wants a class, and this model puts out values; leave it out for a model with "
         "head: value"),
    ],
)  # fmt: skip
def test_a_target_that_a_model_lacks_is_told_before_anything_is_written(runs, tmp_path, models, target, sentence):
    """The attack that wants it need not be the first."""
    from camrobust.run.plan import make_plan
    from camrobust.run.tried_models import check_models

    raw = configuration(tmp_path / "out", runs[0] / "photos", *models)
    config = parse_config(raw | {"perturbations": ["fgsm:1", f"{TARGETED}{target}"]})
    if sentence is None:
        assert check_models(make_plan(config))["sign"]["classes"] == 2
        return
    sentence, name = f"perturbations: {sentence}", models[-1]["name"]
    with pytest.raises(UserError, match=f"^{re.escape(f'model {name!r}: {sentence}')}$"):
        in_process.run(config)
    assert not (tmp_path / "out").exists()
    head = models[-1].get("head", "binary").replace("explained=tumour", "explained=0")
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        camrobust.evaluate(turning_logit(), pictures(1), ["gradcam"], ["fgsm:1", f"{TARGETED}{target}"],
                           target_layer="features", head=head)  # fmt: skip


@pytest.mark.parametrize("head", ["", "multilabel", "value:tolerance=50"])
def test_the_command_explains_by_the_head(tmp_path, capsys, head):
    write_photos(tmp_path, 1)
    arguments = ["explain", tmp_path / "photo-000.jpg", "--model", "tests.toys:turning_logit", "--cam", "gradcam",
                 "--target-layer", "features", "--crop", 64, "--resize", 72, "--output", tmp_path / "grid.png",
                 "--perturb", "gaussian_noise:2,3,4,5"]  # fmt: skip
    code, out, _ = in_process.camrobust(capsys, *arguments, *(["--head", head] if head else []))
    assert code == 0
    assert out.strip().endswith("grid.png")
    code, _, err = in_process.camrobust(capsys, *arguments, "--head", "softmax")
    assert code == 2
    assert err == (
        "camrobust: model 'turning_logit': head: softmax needs two or more outputs, got 1; leave head out, or set "
        "head: binary\n"
    )
