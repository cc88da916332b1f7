"""What is told of a model when it is loaded: logits that depend on more than the image, or are probabilities."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional

import camrobust
from camrobust.contract.errors import UserError
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.evidence import collect, explain
from camrobust.interface.cli import main
from camrobust.measure.image import measure
from camrobust.measure.model import wrap
from camrobust.measure.settings import ImageVariants, MeasureSettings, Sample
from tests.photos import write_photos
from tests.toys import Pooled, seeded

COMPANY = (
    "model 'm': its logits for an image depend on the other images of the pass; compute means and deviations over each "
    "image alone (a batch norm needs track_running_stats=True)"
)
CALLS = (
    "model 'm': its logits for an image differ from call to call; in evaluation mode switch off dropout and all else "
    "that draws random numbers or keeps a state"
)


class WithNorm(Pooled):
    """Normalises by the statistics of the pass, in evaluation mode, too."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8, track_running_stats=False), nn.Conv2d(8, 8, 3, 4, 1), nn.ReLU()
        )


class TwoOrMore(WithNorm):
    """Takes no single image."""

    def forward(self, images):
        assert len(images) > 1
        return super().forward(images)


class BehindOnly(Pooled):
    """The logits of an image depend on the image before it, not on the one behind it."""

    def forward(self, images):
        logits = super().forward(images)
        return logits + 0.3 * torch.cat([torch.zeros_like(logits[:1]), logits[:-1]])


class Share(Pooled):
    """Every logit as a share of its largest one in the pass."""

    def forward(self, images):
        logits = super().forward(images)
        return logits / logits.abs().amax(dim=0)


class Dropping(Pooled):
    """Its dropout stays on."""

    def forward(self, images):
        return self.fc(functional.dropout(self.pool(self.features(images)).flatten(1), 0.2, training=True))


class Counting(Pooled):
    """Adds the number of its calls."""

    calls = 0

    def forward(self, images):
        self.calls += 1
        return super().forward(images) + self.calls * torch.arange(10)


@pytest.mark.parametrize("build", [WithNorm, TwoOrMore, BehindOnly, Share])
def test_a_model_whose_logits_depend_on_the_company_is_refused(build):
    with pytest.raises(UserError, match=f"^{re.escape(COMPANY)}$"):
        wrap(seeded(build()), name="m", image_size=64)


@pytest.mark.parametrize("build", [Dropping, Counting])
def test_a_model_whose_logits_depend_on_the_call_is_refused(build):
    with pytest.raises(UserError, match=f"^{re.escape(CALLS)}$"):
        wrap(seeded(build()), name="m", image_size=64)


class NoSingle(Pooled):
    """Sound, but takes no single image."""

    def forward(self, images):
        assert len(images) > 1
        return super().forward(images)


def test_a_sound_model_that_takes_no_single_image_is_measured():
    assert wrap(seeded(NoSingle()), image_size=64).remarks == ()


class Softmax(Pooled):
    def forward(self, images):
        return super().forward(images).softmax(1)


class Sigmoid(Pooled):
    def forward(self, images):
        return super().forward(images).sigmoid()


class Clamped(Pooled):
    def forward(self, images):
        return (super().forward(images) / 1000 + 0.5).clamp(0, 1)


class Positive(Pooled):
    """Not negative, but no probabilities."""

    def forward(self, images):
        return super().forward(images).relu()


class LogSoftmax(Pooled):
    def forward(self, images):
        return super().forward(images).log_softmax(1)


@pytest.mark.parametrize(
    ("build", "outputs"),
    [(Softmax, "probabilities"), (Sigmoid, "sigmoids"), (Positive, "logits"), (Pooled, "logits"),
     (LogSoftmax, "logits")],
)  # fmt: skip
def test_what_a_model_puts_out_is_noticed(build, outputs):
    assert wrap(seeded(build()), image_size=64).network.readout.outputs == outputs


def rows_of(build):
    model = wrap(seeded(build()), image_size=64)
    pixels = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    segments = torch.arange(16).reshape(4, 4).repeat_interleave(16, 0).repeat_interleave(16, 1)
    images = [ImageVariants(Sample("d", "0", None, segments), pixels, [])]
    settings = MeasureSettings(("gradcam",))
    kept = measure(model, images, settings, keep={0})[1][0]
    return model, float(kept.confidences[0]), pixels


def test_confidence_of_probabilities_is_not_of_a_second_softmax():
    _, wanted, _ = rows_of(Pooled)
    _, found, _ = rows_of(Softmax)
    assert found == pytest.approx(wanted, rel=1e-5)
    assert wanted > 0.2
    _, found, _ = rows_of(LogSoftmax)
    assert found == pytest.approx(wanted, rel=1e-5)


def test_methods_that_take_probabilities_take_those_of_the_model():
    model, _, pixels = rows_of(Softmax)
    plain, _, _ = rows_of(Pooled)
    method = [CAMS["recipro-cam"].function]
    maps = [explain(collect(one.network, one.normalise(pixels)), method) for one in (plain, model)]
    torch.testing.assert_close(*maps)


def test_probabilities_are_told_in_one_sentence():
    image = torch.rand(1, 3, 64, 64)
    sentence = (
        "model 'model': its outputs are probabilities already; confidence and entropy are taken from them, and CAMs "
        "explain the probability; for maps of the logit, leave out the softmax"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(sentence)}$"):
        camrobust.explain(seeded(Softmax()), image, ["gradcam"])
    sentence = (
        "model 'model': its outputs stay between 0 and 1, also for inputs 1000 times larger; confidence and entropy "
        "are those of a softmax over them; for those of logits, return logits, and for independent labels set head: "
        "multilabel"
    )
    for build in (Sigmoid, Clamped):
        with pytest.warns(UserWarning, match=f"^{re.escape(sentence)}$"):
            camrobust.explain(seeded(build()), image, ["gradcam"])


def softmax():
    return seeded(Softmax())


def test_the_command_tells_it_too(tmp_path, capsys):
    write_photos(tmp_path, 1)
    photo, output = str(tmp_path / "photo-000.jpg"), str(tmp_path / "grid.png")
    model = "tests.measure.test_trial_passes:softmax"
    assert main(["explain", photo, "--model", model, "--cam", "gradcam", "--output", output]) == 0
    assert (
        f"warning: model '{model.partition(':')[2]}': its outputs are probabilities already" in capsys.readouterr().err
    )
