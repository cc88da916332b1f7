"""CUDA graphs: rehearsed on a CPU by a recorder that only repeats, and by refusing what a graph cannot hold."""

import warnings
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from camrobust.core.draws import Draws
from camrobust.core.explain import components
from camrobust.core.explain.cams import CAMS, CLASSIC
from camrobust.core.explain.captured import MOST_FORMS, Captured, captured
from camrobust.core.explain.components import by_squaring
from camrobust.core.explain.evidence import collect, explain, explain_marked
from camrobust.core.explain.maps import Explainer, is_static
from camrobust.core.explain.target_layer import build_network
from camrobust.measure.model import wrap
from tests.toys import Dense, Pooled, Smooth, Tokens, seeded

KINDS = {"pooled": (Pooled, 64), "dense": (Dense, 224), "smooth": (Smooth, 64), "tokens": (Tokens, 32)}


def photos(count=3, side=64, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def repeating(function, buffers):
    """Records nothing; a repetition calls the function and copies its results into fixed buffers."""
    results = function(*buffers)

    def repeat():
        for result, new in zip(results, function(*buffers), strict=True):
            result.copy_(new)

    return repeat, results


def double_and_count(values, numbers):
    return values * 2, numbers + 1


def inputs(count, seed=0):
    return torch.rand(count, 4, generator=torch.Generator().manual_seed(seed)), torch.arange(count) + seed


def test_a_replay_gives_the_functions_results_and_never_touches_what_it_gave_before():
    calls = []
    replayed = Captured(lambda *tensors: calls.append(1) or double_and_count(*tensors), repeating)
    kept = []
    for seed in range(4):
        for count in (3, 5):
            given = inputs(count, seed)
            copies = [tensor.clone() for tensor in given]
            kept.append((replayed(*given), double_and_count(*given)))
            assert all(map(torch.equal, given, copies))
    for found, wanted in kept:
        assert all(map(torch.equal, found, wanted))
    transposed = torch.rand(4, 3).T
    assert torch.equal(replayed(transposed, torch.arange(3))[0], transposed * 2)


def test_only_some_forms_are_recorded():
    recorded = []

    def record(function, buffers):
        recorded.append(buffers[0].shape)
        return repeating(function, buffers)

    replayed = Captured(double_and_count, record)
    for count in range(1, MOST_FORMS + 4):
        given = inputs(count)
        assert all(map(torch.equal, replayed(*given), double_and_count(*given)))
    assert len(recorded) == MOST_FORMS


def failing(function, buffers):
    raise RuntimeError("operation not permitted when stream is capturing\nmore")


def stale(function, buffers):
    return (lambda: None), tuple(torch.zeros_like(result) for result in function(*buffers))


def stale_numbers(function, buffers):
    values, numbers = function(*buffers)
    return (lambda: None), (values.clone(), numbers + 7)


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (failing, "RuntimeError: operation not permitted when stream is capturing"),
        (stale, "result 0 of the first replay differs by more than 1e-06 of its largest value"),
        (stale_numbers, "result 1 of the first replay differs"),
    ],
)
def test_a_recording_that_fails_or_differs_is_given_up_with_one_warning(record, sentence):
    tried = []

    def counted(function, buffers):
        tried.append(1)
        return record(function, buffers)

    replayed = Captured(double_and_count, counted)
    with pytest.warns(RuntimeWarning) as told:
        assert all(map(torch.equal, replayed(*inputs(3)), double_and_count(*inputs(3))))
    assert [str(one.message) for one in told] == [f"CUDA graph not used: {sentence}; the run goes on without it"]
    for count in (3, 5):
        assert all(map(torch.equal, replayed(*inputs(count, 1)), double_and_count(*inputs(count, 1))))
    assert tried == [1]


def test_not_finite_results_are_compared_too():
    def undefined(values):
        return (values / 0,)

    values = torch.tensor([1.0, 0.0, -1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replayed = Captured(undefined, repeating)
        assert replayed(values)[0].nan_to_num().tolist() == (values / 0).nan_to_num().tolist()


def test_without_a_gpu_it_is_the_function():
    assert captured(lambda values: (values,))(kept := torch.rand(2))[0] is kept


class Refusing(TorchDispatchMode):
    """Raises where an operation waits for the device, has a shape that depends on values, or copies from the host."""

    names = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "equal", "is_nonzero", "lift_fresh", "item",
             "repeat_interleave.Tensor", "_linalg_eigh", "randn", "rand.", "bernoulli", "uniform")  # fmt: skip

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function).removeprefix("aten.")
        assert not any(name.startswith(one) for one in self.names), name
        if name.startswith("index"):
            indices = [one for one in args[1] if one is not None] if isinstance(args[1], (list, tuple)) else []
            assert all(one.dtype != torch.bool for one in indices), name
        return function(*args, **(kwargs or {}))


def test_the_refusal_refuses():
    for waiting in (
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x + torch.tensor([1.0]),
        lambda x: x.unique(),
    ):
        with Refusing(), pytest.raises(AssertionError):
            waiting(torch.ones(1))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Components by matrix products, as on a GPU."""
    monkeypatch.setattr(components, "by_eigh", partial(by_squaring, definite=True))


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_the_static_methods_waits_for_the_device(kind):
    build, side = KINDS[kind]
    images = photos(3, side)
    network = build_network(seeded(build()).eval(), images)
    cams = [cam for cam in CAMS if is_static(cam, network) and (cam.needs != "head" or network.head is not None)]
    closed = {"ablationcam", "cam", "diffgradcam", "finercam", "lift-cam", "shapleycam"}
    shared = {"gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "gradcam-elementwise", "eigencam",
              "eigengradcam", "seg-eigencam", "kpca-cam", "fem", "eigencam-salient", "eigengradcam-salient",
              "kpca-cam-salient"}  # fmt: skip
    assert {cam.name for cam in cams} == (shared | closed if network.head is not None else shared)
    explainer = Explainer(network, cams)
    explainer._replayed.record = repeating
    for seed in (0, 1):
        evidence = collect(network, photos(3, side, seed))
        wanted, marked = explain_marked(evidence, [cam.function for cam in cams])
        with Refusing():
            maps = explainer._static_maps(evidence.activations, evidence.gradients, evidence.logits, evidence.targets)
        assert torch.equal(maps[0], wanted)
        made = explainer.static_maps(evidence)
        assert [*made] == [cam.name for cam in cams]
        assert torch.equal(torch.stack([maps for maps, _ in made.values()], dim=1), wanted)
        assert torch.equal(torch.stack([mark for _, mark in made.values()], dim=1), marked)


@pytest.mark.parametrize("kind", KINDS)
def test_an_explainer_makes_the_maps_in_the_order_asked_for(kind):
    build, side = KINDS[kind]
    images = photos(3, side)
    network = build_network(seeded(build()).eval(), images)
    cams = [CAMS[name] for name in CLASSIC]
    maps = []
    for make in (Explainer(network, cams), lambda evidence: explain(evidence, [cam.function for cam in cams])):
        draws = Draws.of(0, "d", ["0", "1", "2"], "cam", "s", 0)
        maps.append(make(collect(network, images, draws=draws)))
    assert torch.equal(*maps)


def on_gpu(build, side, layer=None):
    return wrap(seeded(build()), image_size=side, device="cuda", target_layer=layer)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_on_a_gpu_gives_the_eager_maps(kind):
    build, side = KINDS[kind]
    model = on_gpu(build, side)
    cams = [CAMS[name] for name in CLASSIC]
    explainer = Explainer(model.network, cams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(4):
            images = photos(16, side, seed).cuda()
            numbers = [str(number) for number in range(16)]
            evidence, again = (
                collect(model.network, images, draws=Draws.of(seed, "d", numbers, "cam", "s", 0, images.device))
                for _ in range(2)
            )
            wanted = explain(evidence, [cam.function for cam in cams])
            found = explainer(again)
            size = wanted.abs().amax(dim=(2, 3), keepdim=True).clamp(min=1e-20)
            assert float(((found - wanted) / size).abs().max()) <= 1e-5
    assert len(explainer._replayed._recordings) == 1


@pytest.mark.gpu
def test_what_waits_for_a_gpu_is_given_up_and_the_gpu_goes_on():
    def waiting(values):
        return (values * float(values.sum()),)

    replayed = captured(waiting)
    values = torch.rand(100, device="cuda")
    with pytest.warns(RuntimeWarning, match="CUDA graph not used"):
        replayed(values)
    for _ in range(3):
        values = torch.rand(100, device="cuda")
        assert torch.equal(replayed(values)[0], waiting(values)[0])
