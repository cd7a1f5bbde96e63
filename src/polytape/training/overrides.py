"""What a user's class overrides of Keras's training, and calls of it as Keras makes them."""

import functools
import inspect
import weakref

import keras

from polytape.contract import Tensor
from polytape.contract.types import Anything, Function, Nest
from polytape.training.functional import plain_functional

_VIEWS: weakref.WeakKeyDictionary[keras.Model, type] = weakref.WeakKeyDictionary()


@functools.cache
def _of_keras() -> frozenset[type]:
    """Keras's own classes of models and what they are made of."""
    kinds = (keras.Model, keras.Sequential, plain_functional())
    return frozenset(cls for kind in kinds for cls in kind.__mro__)


def overriding(model: keras.Model, name: str) -> str | None:
    """Which class of a model, or the model itself, has a method `name` that is neither Keras's nor
    polytape's; None if there is none.
    """
    if name in vars(model):
        return f"the model {model.name!r}"
    for cls in type(model).__mro__:
        ours = cls in _of_keras() or cls.__module__.startswith("polytape.")
        if name in vars(cls) and not ours:
            return cls.__name__
    return None


def loss_mode(model: keras.Model, training: bool) -> dict[str, bool]:
    """The argument that tells a model's `compute_loss` whether it trains, if it asks for that."""
    asked = "training" in inspect.signature(model.compute_loss).parameters
    return {"training": training} if asked else {}


def seen_from(owner: keras.Model, network: keras.Model) -> Anything:
    """A model as its class would be if it had been derived from `polytape.Model`.

    The same layers, variables and attributes. Where a method that its class overrides calls
    `super()`, that of the owner answers instead of Keras's.
    """
    kind = _VIEWS.get(owner)
    if kind is None:
        bases = type(network), _Behind
        kind = _VIEWS[owner] = type(bases[0].__name__, bases, {"owner": weakref.proxy(owner)})
    view: Anything = object.__new__(kind)
    object.__setattr__(view, "__dict__", vars(network))
    return view


class _Behind(keras.Model):
    """Stands behind a user's class: what that calls of Keras goes to the owner."""

    owner: Anything

    def compute_loss(
        self,
        x: Nest = None,
        y: Nest = None,
        y_pred: Nest = None,
        sample_weight: Nest = None,
        training: bool = True,
    ) -> Tensor:
        return self.owner.own_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(self, x: Nest, y: Nest, y_pred: Nest, sample_weight: Nest = None) -> Nest:
        return self.owner.update_metrics(x, y, y_pred, sample_weight)

    def get_metrics_result(self) -> Nest:
        return self.owner.get_metrics_result()

    @property
    def losses(self) -> list[Tensor]:
        return self.owner.losses

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return self.owner.own_metrics


def refuse_unreached(network: keras.Model) -> None:
    """Raise if the class of a wrapped model overrides what is asked of the wrapping model only."""
    for name in _NOT_REACHED:
        if (kind := overriding(network, name)) is not None:
            raise TypeError(
                f"{kind} overrides `{name}`, which pt.Model.wrap would never call: the wrapping "
                f"model has its own. Derive the class from polytape instead, "
                f"class {type(network).__name__}(pt.Model), and use it as it is: then all its "
                "methods are called. `call`, `compute_loss` and `compute_metrics` are called "
                "behind wrap, too."
            )


_NOT_REACHED = (
    "train_step",
    "test_step",
    "predict_step",
    "fit",
    "evaluate",
    "predict",
    "train_on_batch",
    "test_on_batch",
    "predict_on_batch",
    "make_train_function",
    "make_test_function",
    "make_predict_function",
)


def reaches_super(function: Function, name: str) -> bool:
    """Whether the code of a function, or of one inside it, mentions a name: as `super().name` does.

    True, too, for what has no code of Python's to look at.
    """
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code is None or _mentions(code, name)


def _mentions(code: Anything, name: str) -> bool:
    inner = [each for each in code.co_consts if inspect.iscode(each)]
    return name in code.co_names or any(_mentions(each, name) for each in inner)
