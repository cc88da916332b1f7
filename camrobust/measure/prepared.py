"""What a model keeps from pass to pass: its network in the run's precision, compiled code, recorded CUDA graphs."""

from dataclasses import dataclass, replace

from torch import Tensor

from camrobust.core.channels import noise
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.compiled import compile_prefix
from camrobust.core.explain.maps import Explainer
from camrobust.core.explain.network import Network
from camrobust.measure.comparison import Comparison
from camrobust.measure.model import Model
from camrobust.measure.settings import MeasureSettings


@dataclass(frozen=True)
class Prepared:
    """A model made ready for passes.

    Attributes:
        network: in the run's precision, compiled up to the target layer where that is asked for.
        maps: makes the maps of the run's CAMs.
        compare: compares them.
    """

    network: Network
    maps: Explainer
    compare: Comparison


def prepare(model: Model, settings: MeasureSettings, inputs: Tensor) -> Prepared:
    """Make a model ready, once for all passes with these settings.

    Args:
        model: the classifier.
        settings: of the run.
        inputs: (P, C, H, W), normalised, of the shape and memory order of all passes.

    Raises:
        UserError: the settings ask for compiled code, and the model cannot be compiled.
    """
    key = (settings, tuple(inputs.shape[2:]))
    if key not in model.prepared:
        # One form at a time, because graphs keep memory.
        model.prepared.clear()
        network = replace(model.network, precision=settings.precision)
        if settings.compile:
            network = compile_prefix(network, inputs)
        maps = Explainer(network, [CAMS[name] for name in settings.cams])
        height, width = inputs.shape[2:]
        model.prepared[key] = Prepared(network, maps, Comparison(settings, (height, width)))
    ready: Prepared = model.prepared[key]
    return ready


def try_out(model: Model, settings: MeasureSettings, image_size: int) -> None:
    """Compile what the settings ask for now, with passes of `settings.batch` images, instead of in the first pass.

    Args:
        model: the classifier.
        settings: of the run.
        image_size: side of the images, px.

    Raises:
        UserError: the model cannot be compiled.
    """
    images = noise(settings.batch, model.channels, image_size)
    prepare(model, settings, model.inputs(images, settings.precision))
