"""How the rows of a step come together where several devices have a part of the batch each."""

import math
import re
from collections.abc import Iterator

import keras

from polytape.contract import Method, iter_methods, received
from polytape.contract.types import Anything
from polytape.engines import engine
from polytape.stages.chain import split
from polytape.training.functional import plain_functional, steps_as_keras
from polytape.training.losses.keras_losses import KerasLosses
from polytape.training.plan import Settings

WAYS = ("auto", "all_reduce", "scatter")
# Layers that make of each sample what they would make of it alone, as long as they drop nothing.
_OF_SAMPLES = re.compile(
    r"Activation|Add|Average|Concatenate|Dense|Dot|EinsumDense|ELU|Embedding|Flatten|GRU|Identity"
    r"|InputLayer|LeakyReLU|LSTM|Maximum|Minimum|Multiply|Permute|PReLU|ReLU|RepeatVector"
    r"|Rescaling|Reshape|SimpleRNN|Softmax|Subtract|MultiHeadAttention|GroupQueryAttention"
    r"|(Layer|Group|RMS|Unit)Normalization|(Depthwise|Separable)?Conv[123]D(Transpose)?"
    r"|(Global)?(Average|Max)Pooling[123]D|(Cropping|UpSampling|ZeroPadding)[123]D"
)
_LEAST = 2**18  # entries of a slice: what a quick link sends in the time of a few hops
_SETTINGS = ("dropout", "recurrent_dropout", "stateful", "mask_zero", "activity_regularizer")
_OF_BATCHES = (
    "Dice",
    "dice",
    "Tversky",
    "tversky",
    "Circle",
    "circle",
)  # losses that are no means over samples


def check_way(asked: str, method: Method, measure: str) -> None:
    """Raise ValueError unless `asked` is a way that goes with the method."""
    if asked not in WAYS:
        raise ValueError(
            "`communication` says how the gradients of the losses come together where several "
            f"devices have a part of the batch each: one of {WAYS}. {received(asked)}"
        )
    refusal = _of_method(method, measure)
    if asked == "scatter" and refusal is not None:
        raise ValueError(
            f'communication="scatter" leaves each device a slice of every gradient, and {refusal}. '
            'Use communication="all_reduce", or leave it out.'
        )


def check_devices(settings: Settings) -> None:
    """Raise ValueError where rows shall be scattered, and cannot be on the devices there are."""
    refusal = engine().scatter_refusal()
    if settings.communication == "scatter" and refusal is not None:
        raise ValueError(
            'communication="scatter" spreads the gradients over the devices of '
            f'keras.distribution.DataParallel, and {refusal}. Use communication="auto", which '
            "scatters where that pays."
        )


def scatters(model: keras.Model, settings: Settings) -> bool:
    """Whether a step scatters its rows."""
    if settings.communication == "scatter":
        return True
    if settings.communication == "all_reduce" or engine().scatter_refusal() is not None:
        return False
    if _of_method(settings.method, settings.measure) is not None:
        return False
    return _saves(model) and _of_single_samples(model, settings)


def _of_method(method: Method, measure: str) -> str | None:
    """Why slices of rows are of no use to a method; None if they are."""
    name, combination = type(method).__name__, split(method)[1]
    if combination is None:
        return f"{name} takes one backward pass, whose gradient is needed whole"
    if measure != "parameters":
        return f'measure="{measure}" takes gradients by the parameters once, which is needed whole'
    if any(part.memory is not None for part in iter_methods(method)):
        return f"{name} remembers gradients"
    if not combination.sums_rows:
        return f"{name} needs all coordinates of them"
    if any("half_batches" in part.evidence for part in iter_methods(method)):
        return f"{name} compares halves of the batch, which lie on different devices"
    return None


def _saves(model: keras.Model) -> bool:
    """Whether the bytes that slices save cost more than their hops.

    Of a row of P entries N devices send P / N less in N - 1 hops, for as many hops more.
    """
    size = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return size >= _LEAST * keras.distribution.distribution().device_mesh.devices.size


def _of_single_samples(model: keras.Model, settings: Settings) -> bool:
    """Whether it is known that nothing in a step depends on more than one sample at a time.

    What does, such as BatchNormalization, would see the samples of one device only.
    """
    if not isinstance(model, plain_functional()):
        return False
    if not steps_as_keras(model):
        return False
    if not isinstance(settings.source, KerasLosses):  # objectives may be functions of the step
        return False
    losses, metrics = settings.source.losses, keras.tree.flatten(settings.metrics)
    layers = [layer for layer in _layers(model) if layer is not model.method_state]
    return (
        bool(losses)
        and all(map(_is_mean, losses))
        and all(map(_is_sum, metrics))
        and all(map(_is_of_samples, layers))
    )


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, (keras.Sequential, plain_functional())):
            yield from _layers(layer)
        else:
            yield layer


def _is_of_samples(layer: keras.layers.Layer) -> bool:
    kind = type(layer)
    if kind.__module__.startswith("polytape."):
        return True
    if _OF_SAMPLES.fullmatch(kind.__name__) is None or not _is_of_keras(kind):
        return False
    config = layer.get_config()
    return not any(config.get(name) for name in _SETTINGS)


def _is_mean(loss: Anything) -> bool:
    """Whether a loss is a mean or sum over samples, made by Keras."""
    function = getattr(loss, "fn", None)
    if function is not None and not function.__module__.startswith("keras."):
        return False
    kind = type(loss)
    if kind.__name__ in _OF_BATCHES or getattr(function, "__name__", "") in _OF_BATCHES:
        return False
    ours = kind.__module__.startswith("polytape.")  # around a function of Keras's
    return (_is_of_keras(kind) or ours) and loss.reduction not in (None, "none")


def _is_sum(metric: Anything) -> bool:
    """Whether what a metric keeps are sums over samples, as those of Keras are."""
    named = metric is None or isinstance(metric, str)
    return named or (isinstance(metric, keras.metrics.Metric) and _is_of_keras(type(metric)))


def _is_of_keras(kind: type) -> bool:
    return kind.__module__.startswith("keras.")
