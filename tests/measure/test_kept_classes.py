"""Networks that choose between some classes, against networks that have only these outputs; the label explained."""

from importlib.resources import files

import numpy as np
import pytest
import torch
from torch import nn

from camrobust.contract.errors import UserError
from camrobust.contract.imagenet import wnids
from camrobust.core.explain.cams import CAMS, COSTLY
from camrobust.core.explain.evidence import collect
from camrobust.core.perturb import variants
from camrobust.measure.image import explain_variants, measure
from camrobust.measure.kept_classes import choosing_among, kept_numbers
from camrobust.measure.model import wrap
from camrobust.measure.settings import MeasureSettings
from tests.measure.test_image import images
from tests.toys import Pooled, seeded

SIDE, KEPT = 64, (1, 2, 5, 8)
CHEAP = tuple(cam.name for cam in CAMS if cam.needs not in ("attention", "head") and cam.cost not in COSTLY)
PLANS = [["gaussian_noise:3,5", "fgsm:3", "pgd_targeted:epsilon=4,steps=2,step=1,target=-1"], ["contrast:5"]]


def whole():
    return seeded(Pooled())


def cut():
    """The same network with only the outputs that are kept."""
    network, smaller = whole(), Pooled(len(KEPT))
    smaller.features.load_state_dict(network.features.state_dict())
    smaller.fc.weight.data, smaller.fc.bias.data = (value[list(KEPT)] for value in (network.fc.weight, network.fc.bias))
    return smaller


def given(plans=PLANS, labels=(5, 2)):
    found = images(plans, SIDE)
    return [
        type(image)(type(image.sample)(image.sample.dataset, image.sample.image_id, label, image.sample.segments),
                    image.pixels, image.variants)
        for image, label in zip(found, labels, strict=True)
    ]  # fmt: skip


def numbered(columns, cut_off):
    """Columns with the numbers that the classes have in the whole network."""
    return {
        name: np.array(KEPT)[values.astype(int)] if cut_off and name.startswith("predicted") else values
        for name, values in columns.items()
    }


@pytest.mark.parametrize("explained_class", ["predicted", "clean", "label"])
def test_all_that_follows_from_logits_is_that_of_a_network_without_the_others(explained_class):
    settings = MeasureSettings(CHEAP, explained_class=explained_class)
    found, maps = measure(choosing_among(wrap(whole(), image_size=SIDE), KEPT), given(), settings, keep={0})
    other = given(labels=[KEPT.index(5), KEPT.index(2)])
    wanted, theirs = measure(wrap(cut(), image_size=SIDE), other, settings, keep={0})
    wanted = numbered(wanted, cut_off=True)
    assert list(found) == list(wanted)
    assert {*found["predicted_clean"], *found["predicted_perturbed"]} <= {*KEPT}
    for name, values in wanted.items():
        if name == "label":
            continue
        if values.dtype == object:
            assert found[name].tolist() == values.tolist(), name
        else:
            np.testing.assert_allclose(found[name], values, rtol=2e-4, atol=2e-5, err_msg=name)
    assert maps[0].predictions.tolist() == [KEPT[place] for place in theirs[0].predictions.tolist()]


def test_confidence_and_entropy_are_those_of_a_softmax_over_the_kept_logits():
    (image, *_) = given([["contrast:3"], ["contrast:3"]])
    model = choosing_among(wrap(whole(), image_size=SIDE), KEPT)
    columns, _ = measure(model, [image], MeasureSettings(("gradcam",)))
    with torch.no_grad():
        logits = whole()(model.normalise(image.pixels[:1]))[0].double()
    share = [float(logits[number].exp()) for number in KEPT]
    share = [one / sum(share) for one in share]
    assert columns["confidence_clean"][0] == pytest.approx(max(share), abs=1e-5)
    assert columns["entropy_clean"][0] == pytest.approx(-sum(p * np.log(p) for p in share), abs=1e-5)
    assert columns["predicted_clean"][0] == KEPT[share.index(max(share))]


def test_a_target_that_is_not_kept_is_refused():
    from camrobust.core.perturb.apply import refuse_target

    model = choosing_among(wrap(whole(), image_size=SIDE), KEPT)
    planned = [variants([f"pgd_targeted:epsilon=4,steps=1,step=1,target={number}"])[0] for number in (8, 3, -1)]
    kept, left_out, least_likely = planned
    for variant in (kept, least_likely):
        refuse_target(model, model.classes, variant)
    with pytest.raises(UserError, match="target 3 of pgd_targeted is not among the classes_kept of this"):
        refuse_target(model, model.classes, left_out)
    places = model.network.readout.positions(torch.tensor([5, 1, 8]))
    assert places.tolist() == [2, 0, 3]
    assert model.network.readout.numbers(places).tolist() == [5, 1, 8]


@pytest.mark.parametrize(
    ("module", "head", "sentence"),
    [
        (nn.Sequential(whole(), nn.Softmax(1)), None, "classes_kept needs logits, and it puts out probabilities; "
         "leave out its softmax"),
        (whole(), "multilabel", "classes_kept is for a softmax over classes, got head: multilabel; leave it out"),
    ],
)  # fmt: skip
def test_other_heads_and_probabilities_are_refused(module, head, sentence):
    with pytest.raises(UserError) as caught:
        choosing_among(wrap(module, name="m", image_size=SIDE, head=head), KEPT)
    assert str(caught.value) == f"model 'm': {sentence}"


NAMES = ["crane", "dog", "crane", "", "7"]
MISTAKES = {
    ("9", "1"): " must be from 0 to 4 (number of the class), got 9",
    ("1" * 30, "1"): " must be from 0 to 4 (number of the class), got " + "1" * 30,
    ("crane", "dog"): ": 'crane' is the name of the classes 0, 2; give numbers",
    ("dig", "dog"): ": unknown class 'dig'; did you mean 'dog'? known: 7, crane, crane, dog",
    ("1", "dog", "1"): " must name two classes or more, got 1; name more",
    ("n01440764", "dog"): ": 'n01440764' is a wnid of ImageNet-1k, but the network has 5 classes; give numbers",
}


def test_classes_are_kept_by_number_name_or_wnid():
    assert kept_numbers("m", ["4", "dog", "0"], NAMES, 5) == (0, 1, 4)
    own = sorted(wnids())
    assert kept_numbers("m", [own[998], "3", own[7]], [], 1000) == (3, 7, 998)
    for texts, sentence in MISTAKES.items():
        with pytest.raises(UserError) as caught:
            kept_numbers("m", texts, NAMES, 5)
        assert str(caught.value) == f"model 'm': classes_kept{sentence}"
    with pytest.raises(UserError, match="the names of its classes are not known, got 'dog'; give numbers, or classes"):
        kept_numbers("m", ["dog", "0"], [], 5)


def test_imagenet_r_and_a_keep_the_classes_that_timm_says():
    pytest.importorskip("timm")
    whole_order = sorted(wnids())
    for name in ("imagenet_r", "imagenet_a"):
        theirs = files("timm.data").joinpath(f"_info/{name}_synsets.txt").read_text().split()
        kept = kept_numbers("m", theirs, [], 1000)
        assert [whole_order[number] for number in kept] == sorted(theirs)
        assert len(kept) == 200


def test_the_label_is_explained_on_the_clean_and_on_the_perturbed_image():
    model, settings = wrap(whole(), image_size=SIDE), MeasureSettings(("gradcam", "layercam"), explained_class="label")
    (image, *_) = given([["contrast:3"], ["contrast:3"]], labels=(7, 0))
    (found,) = explain_variants(model, [image], settings)
    inputs = model.normalise(image.pixels)
    evidence = collect(model.network, inputs, lambda logits: torch.full_like(logits[:, 0], 7, dtype=torch.int64))
    for place, name in enumerate(settings.cams):
        torch.testing.assert_close(found.maps[:, place], CAMS[name].function(evidence), rtol=1e-4, atol=1e-6)
    assert found.predictions.tolist() == model.network.logits(inputs).argmax(dim=1).tolist()
    assert 7 not in found.predictions


def test_an_image_without_a_label_cannot_be_explained_at_its_label():
    model, settings = wrap(whole(), image_size=SIDE), MeasureSettings(("gradcam",), explained_class="label")
    with pytest.raises(UserError) as caught:
        measure(model, given([["contrast:3"], ["contrast:3"]], labels=(1, None)), settings)
    assert str(caught.value) == (
        "explained_class: label needs the label of every image, and '1' has none; add it, or explain the predicted "
        "class"
    )
