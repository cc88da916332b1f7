import math

import numpy as np
import pytest
import torch

from camrobust.contract.schema import STABILITY
from camrobust.core.similarity import SIMILARITIES
from camrobust.core.similarity.sensitivity import InputChange, PassOutput, change_between
from tests.reference import similarity as reference
from tests.toys import pooled

SIZE = (24, 24)
VARIANTS = 5
RATIOS = [name for name in STABILITY if name != "sensitivity"]


def pixels(seed=0):
    """A clean photo and its variants, no pixel at 0."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (VARIANTS + 1, 3, *SIZE), generator=generator, dtype=torch.uint8)


def maps(seed=0, low=0.1):
    """Of the same variants, none of them near 0."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(VARIANTS + 1, 6, 6, generator=generator) * (1 - low) + low


def classifier():
    """A small model whose activations at features.2 are far from 0."""
    module = pooled()
    module.features[2].bias.data += 4
    return module.eval()


def seen(photos, layer="features.2"):
    """What the model gives for them."""
    module, caught = classifier(), []
    handle = module.get_submodule(layer).register_forward_hook(lambda _module, _inputs, output: caught.append(output))
    logits = module(photos.double().float() / 255)
    handle.remove()
    return PassOutput(photos, logits.detach(), caught[0].detach().clone())


def change_of(photos):
    everything = seen(photos)
    clean = PassOutput(everything.pixels[:1], everything.logits[:1], everything.activations[:1])
    return change_between(clean, everything).rows(slice(1, None))


def ratios(name, values, change):
    clean, noisy = values[:1].flatten(1)[None], values[1:].flatten(1)[:, None]
    entry = SIMILARITIES[name]
    arguments = (clean, noisy, change) if entry.takes == "change" else (clean, noisy)
    return entry(*arguments)[:, 0]


@pytest.mark.parametrize("name", RATIOS)
@pytest.mark.parametrize("low", [0.1, -0.5])
def test_equals_the_slow_reference(name, low):
    """At the image's size, each cell repeated over its pixels; also for signed maps and dark pixels."""
    photos, values = pixels(), maps(low=low)
    photos[0, :, :5] = 0
    found = ratios(name, values, change_of(photos))
    everything = seen(photos)
    for variant in range(VARIANTS):
        pairs = [
            (both[0].flatten().tolist(), both[variant + 1].flatten().tolist())
            for both in (photos.long(), everything.logits, everything.activations)
        ]
        wanted = reference.stability(name, values[0].tolist(), values[variant + 1].tolist(), pairs, SIZE)
        assert float(found[variant]) == pytest.approx(wanted, rel=1e-5)


def repeated(values):
    """Maps as large as the photo, each cell repeated: (…, 1, H, W) float64."""
    return values[:, None].repeat_interleave(4, 2).repeat_interleave(4, 3).numpy().astype(np.float64)


def quantus_scores(name, photos, *explanations, **settings):
    """What Quantus gives the photo for the same variants, once for every list of maps, all in one batch."""
    quantus = pytest.importorskip("quantus", exc_type=ImportError)
    metric = {
        "max": quantus.MaxSensitivity, "mean": quantus.AvgSensitivity, "lipschitz": quantus.LocalLipschitzEstimate,
        "ris": quantus.RelativeInputStability, "ros": quantus.RelativeOutputStability,
        "rrs": quantus.RelativeRepresentationStability,
    }[name]  # fmt: skip
    count = len(explanations)
    inputs = photos.numpy().astype(np.float32) / 255
    large = np.stack([repeated(values) for values in explanations], axis=1)
    order = iter(range(1, VARIANTS + 1))
    current = []

    def perturbed(arr, **_keywords):
        current[:] = [next(order)]
        return np.stack([inputs[current[0]]] * count).reshape(arr.shape)

    measure = metric(
        nr_samples=VARIANTS, perturb_func=perturbed, disable_warnings=True, return_nan_when_prediction_changes=False,
        **settings,
    )  # fmt: skip
    scores = measure(
        model=classifier(), x_batch=np.stack([inputs[0]] * count), y_batch=np.zeros(count, dtype=int),
        a_batch=large[0], explain_func=lambda **_keywords: large[current[0]], batch_size=count,
    )  # fmt: skip
    return np.ravel(scores).tolist()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "column", "settings"),
    [
        ("max", "sensitivity", {"normalise": False, "perturb_func_kwargs": {}}),
        ("mean", "sensitivity", {"normalise": False, "perturb_func_kwargs": {}}),
        ("lipschitz", "lipschitz", {}),
        ("ris", "ris", {}),
        ("ros", "ros", {}),
        ("rrs", "rrs", {"layer_names": ["features.2"]}),
    ],
)
def test_maximum_and_mean_over_the_variants_equal_quantus(name, column, settings):
    photos, values = pixels(), maps()
    found = ratios(column, values, change_of(photos))
    wanted = quantus_scores(name, photos, values, **settings)
    of_image = found.mean() if name == "mean" else found.max()
    assert [float(of_image)] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_continuity_equals_quantus_on_the_shifts_that_it_makes():
    quantus = pytest.importorskip("quantus", exc_type=ImportError)
    from quantus.functions.perturb_func import batched_translation

    photos, values = pixels(), maps()
    inputs = photos[:1].numpy().astype(np.float32)
    step = (2 * SIZE[1] + 1) // VARIANTS
    shifted = [
        batched_translation(inputs, "black", step * (number + 1) - SIZE[1], direction="x") for number in range(VARIANTS)
    ]
    photos = torch.cat([photos[:1], *(torch.from_numpy(one).round().to(torch.uint8) for one in shifted)])
    large = repeated(values)
    order = iter([0, *range(VARIANTS + 1)])  # it explains the clean image twice

    measure = quantus.Continuity(nr_steps=VARIANTS, disable_warnings=True)
    wanted = measure(
        model=classifier(), x_batch=inputs / 255, y_batch=np.array([0]), a_batch=None, batch_size=1,
        explain_func=lambda **_keywords: large[next(order)][None],
    )  # fmt: skip
    found = ratios("continuity", values, change_of(photos))
    assert float(found.max()) == pytest.approx(float(np.ravel(wanted)[0]), rel=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_flat_maps_are_undefined_where_quantus_calls_them_perfectly_stable():
    photos, values = pixels(), torch.full((VARIANTS + 1, 6, 6), 0.3)
    for name in ("max", "lipschitz", "ris"):
        varied, flat = quantus_scores(name, photos, maps(), values, normalise=False)
        assert varied > 0
        assert flat == 0
    for name in STABILITY:
        assert ratios(name, values, change_of(photos)).isnan().all()


@pytest.mark.parametrize("name", STABILITY)
def test_properties(name):
    photos, values = pixels(), maps()
    change = change_of(photos)
    found = ratios(name, values, change)
    assert (found > 0).all()
    torch.testing.assert_close(ratios(name, values * 7, change), found, rtol=1e-5, atol=0)
    still = values[:1].expand_as(values)
    assert ratios(name, still, change).tolist() == [0] * VARIANTS
    kept = ratios(name, values[[0, 3]], InputChange(*(getattr(change, field)[2:3] for field in vars(change))))
    torch.testing.assert_close(kept, found[2:3])
    finer = values.repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(ratios(name, finer, change), found, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", RATIOS)
def test_a_variant_that_changed_nothing_has_no_ratio(name):
    photos = pixels()
    photos[2] = photos[0]
    found = ratios(name, maps(), change_of(photos))
    assert found.isnan().tolist() == [False, True, False, False, False]


def test_a_map_that_lights_up_where_the_clean_one_is_0_changes_a_lot_and_not_without_end():
    values = maps()
    values[0, 0] = 0
    found = ratios("ris", values, change_of(pixels()))
    assert found.isfinite().all()
    assert (found > 10 * ratios("ris", maps(), change_of(pixels()))).all()


def test_a_layer_that_is_silent_on_the_clean_image_gives_no_ratio():
    photos, everything = pixels(), seen(pixels())
    silent = PassOutput(photos, everything.logits, everything.activations * 0)
    silent.activations[1:] = 1
    clean = PassOutput(silent.pixels[:1], silent.logits[:1], silent.activations[:1])
    change = change_between(clean, silent).rows(slice(1, None))
    assert ratios("rrs", maps(), change).isnan().all()
    assert ratios("ros", maps(), change).isfinite().all()


def test_what_changed_by_hand():
    photos = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    photos[1, :, 0, 0] = 255
    everything = PassOutput(photos, torch.tensor([[0.0, 3.0], [4.0, 0.0]]), torch.ones(2, 1, 2, 2))
    clean = PassOutput(everything.pixels[:1], everything.logits[:1], everything.activations[:1])
    change = change_between(clean, everything)
    assert change.pixels.tolist() == [[0], [pytest.approx(math.sqrt(3) / 4)]]
    assert change.relative_pixels.tolist() == [[0], [pytest.approx(255 * math.sqrt(3) / 4)]]
    assert change.logits.tolist() == [[0], [5]]
    assert change.representation.tolist() == [[0], [0]]
