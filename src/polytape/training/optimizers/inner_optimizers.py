"""What the optimizers held by `Optimizers` may be, and their learning rates."""

from collections.abc import Mapping

import keras

from polytape.contract import did_you_mean, received
from polytape.contract.types import Anything


def inner_optimizers(given: Mapping[str, Anything], factor: float | None) -> dict[str, Anything]:
    """Keras optimizers from objects, names or configs, each its own; `factor` scales the losses."""
    if not isinstance(given, Mapping):
        raise TypeError(
            'Optimizers are given by name, pt.Optimizers({"encoder": "adam", "*": "sgd"}). '
            f"{received(given)}"
        )
    if not given:
        raise ValueError("Optimizers needs at least one optimizer. Received: an empty dict.")
    for name in given:
        if not isinstance(name, str):
            raise TypeError(f"Optimizers are given by the names of networks. {received(name)}")
    found = {name: _inner(name, identifier, factor) for name, identifier in given.items()}
    names: dict[int, str] = {}
    for name, inner in found.items():
        other = names.setdefault(id(inner), name)
        if other != name:
            raise ValueError(
                f"optimizer[{name!r}] and optimizer[{other!r}] are the same object, which cannot "
                "hold the slots of both. Give each its own, or both parts one name."
            )
    return found


def resolved(optimizer: keras.optimizers.Optimizer, asked_by: str) -> keras.optimizers.Optimizer:
    """A Keras optimizer from itself, its name or its config; `asked_by` is for errors.

    Raises `TypeError` or `ValueError` for anything else, with what was probably meant.
    """
    if optimizer is None:
        raise ValueError(
            f"{asked_by} is None, so nothing could be updated. Name one, such as "
            '"adam"; to evaluate only, any will do: it makes no slots before the first step.'
        )
    if isinstance(optimizer, type):
        raise TypeError(
            f"{asked_by} must be a Keras optimizer, its name or its config. Received the class "
            f"{optimizer.__name__} itself: add the parentheses."
        )
    root = type(optimizer).__module__.partition(".")[0]
    if root in _OTHERS:
        raise TypeError(
            f"{asked_by} is an optimizer of {root} ({type(optimizer).__name__}), which updates "
            f"other variables than Keras's. Give the one of Keras: keras.optimizers.Adam(...). "
            f"{_OTHERS[root]}"
        )
    if isinstance(optimizer, (list, tuple)):
        raise TypeError(
            f"{asked_by} takes several optimizers by the names of their networks, "
            f'{{"encoder": "adam", "*": "sgd"}}. {received(optimizer)}'
        )
    try:
        return keras.optimizers.get(optimizer)
    except ValueError as error:
        known = [name for name in dir(keras.optimizers) if name[0].isupper()]
        hint = did_you_mean(optimizer, known, cutoff=0.6) if isinstance(optimizer, str) else ""
        raise ValueError(
            f"{asked_by} must be a Keras optimizer, its name or its config.{hint} "
            f"{received(optimizer)}"
        ) from error


def _inner(name: str, given: Anything, factor: float | None) -> Anything:
    inner = resolved(given, f"optimizer[{name!r}]")
    if isinstance(inner, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            f"optimizer[{name!r}] is a LossScaleOptimizer. The losses are scaled once for all "
            "optimizers: give the plain ones here, and LossScaleOptimizer(Optimizers({...})) "
            'around them, as Keras does by itself under the policy "mixed_float16".'
        )
    if inner.loss_scale_factor not in (None, factor):
        raise ValueError(
            f"optimizer[{name!r}] has loss_scale_factor={inner.loss_scale_factor}; the losses are "
            f"scaled once for all optimizers, here by {factor}. Give it to the whole: "
            f"Optimizers({{...}}, loss_scale_factor={inner.loss_scale_factor})."
        )
    inner.loss_scale_factor = None  # until a step: a LossScaleOptimizer may take it from the whole
    return inner


def proportions(optimizers: Mapping[str, Anything]) -> dict[str, float] | None:
    """Learning rates as multiples of the first one's; None where that is zero."""
    rates = {name: _settable_rate(name, inner) for name, inner in optimizers.items()}
    first = next(iter(rates.values()))
    return {name: rate / first for name, rate in rates.items()} if first else None


def _settable_rate(name: str, inner: Anything) -> float:
    rate = inner.learning_rate
    if not isinstance(rate, keras.Variable):
        raise TypeError(
            f"optimizer[{name!r}] follows a schedule, so the learning rate of all cannot be set. "
            "Set those of the others one by one, or give it a float learning_rate."
        )
    return float(rate.numpy())


_OTHERS = {
    "torch": (
        "A torch.optim optimizer trains a PyTorch module in a loop of your own: update = "
        'pt.gradients(losses, module).combine("upgrad"), then `p.grad = u` for each parameter and '
        "update, and optimizer.step(): see examples/torch_loop.py."
    ),
    "optax": "One of optax is applied in a loop of your own, to the update of pt.gradients.",
    "tensorflow": "Those of tf.compat.v1 are of another age.",
}
