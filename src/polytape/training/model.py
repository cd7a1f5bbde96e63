"""`polytape.Model`: a Keras model whose `compile` takes one argument more."""

import functools
from typing import Any

import keras

from polytape.catalogue import resolve
from polytape.contract import Method, parts
from polytape.engines import engine
from polytape.training.losses import Ledger
from polytape.training.plan import Plan
from polytape.training.saving import MethodState
from polytape.training.step import train_step
from polytape.training.watch import Stop, Watch, insert


class Training:
    """The training side of `polytape.Model`, shared by subclassed and functional models."""

    method_state: MethodState

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        *args: Any,
        combine: str | Method = "sum",
        private: str = "own",
        measure: str = "parameters",
        on_nonfinite: str = "drop",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Keras's `compile`, and how the gradients of the losses are combined.

        optimizer, loss, loss_weights, metrics, weighted_metrics, run_eagerly,
        steps_per_execution, jit_compile, auto_scale_loss   as in `keras.Model.compile`

        combine       a method or its name: "sum" (plain Keras), "upgrad", pt.PCGrad(), a chain.
                      Every loss is an objective, named by its output; its value is weighted by
                      `loss_weights` before the method sees it
        private       what variables reached by one objective take: "own" (that objective's
                      gradient), "weighted" (times its weight) or "joint" (as if shared)
        measure       where conflict is measured: the gradients of the losses by the shared
                      "parameters"; by the "features", tensors marked with `pt.Features()`; or by
                      the "outputs" of the model. Away from the parameters one backward pass per
                      loss reaches the marked tensors only, and one goes through the network
        on_nonfinite  a loss or gradient that is not finite never reaches a variable, an optimizer
                      slot or the method's state. "drop": its objective is left out of the step;
                      methods of one backward pass ("sum", "dwa"), which cannot tell the gradients
                      apart, skip the step. "isolate": the same for those methods too, which makes
                      their step larger. "skip": the step is skipped. "raise": as "drop", and
                      `FloatingPointError` after the batch
        seed          for methods that draw random numbers; None follows
                      `keras.utils.set_random_seed` without drawing from it

        `add_loss` terms and weight regularisers are added to the combined gradient as they are.
        """
        method = resolve(combine)
        halves = any(part.needs == "halves" for part in parts(method))
        ledger = Ledger(loss, loss_weights, halves)
        super().compile(optimizer, ledger.wrapped, loss_weights, *args, **kwargs)  # type: ignore[misc]
        engine().prepare(self)
        options = {"private": private, "measure": measure, "on_nonfinite": on_nonfinite}
        self.plan = Plan(self, self.method_state, ledger, method, seed=seed, **options)
        self._combining = {"loss": loss, "combine": method, "seed": self.plan.seed, **options}
        known = getattr(self, "output", None) if isinstance(self, functional_class()) else None
        if known is not None:
            self.plan.check_outputs(known)
        self.plan.complete(known)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        plan = self.plan
        plan.check_outputs(y_pred)
        total = super().compute_loss(x, y, y_pred, sample_weight, training)  # type: ignore[misc]
        plan.complete(y_pred)
        return plan.total(total, y_pred)

    def train_step(self, *args: Any) -> Any:
        return engine().train_step(self, functools.partial(train_step, self), *args)

    def fit(self, *args: Any, callbacks: Any = None, **kwargs: Any) -> Any:
        own = [Watch(), Stop()] if self.plan.on_nonfinite == "raise" else [Watch()]
        try:
            return super().fit(*args, callbacks=insert(callbacks, *own), **kwargs)  # type: ignore[misc]
        except BaseException:
            engine().recover(self.plan.kept)
            raise
        finally:
            self.plan.kept = None

    def make_train_function(self, force: bool = False) -> Any:
        self.plan.kept = engine().keep(self)
        return super().make_train_function(force)  # type: ignore[misc]

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        logs = super().train_on_batch(*args, **kwargs)  # type: ignore[misc]
        self.plan.raise_if_dropped()
        return logs

    def reweight(self, weights: dict[str, float]) -> None:
        """Set weights held by the `Reweight` stages of `combine`, from the next step on.

        Call it between batches or from a callback, as `self.model.reweight({"a": 0.5})`. Raises
        `ValueError` for an objective that no `Reweight` stage knows.
        """
        self.plan.reweight(weights)

    def get_compile_config(self) -> dict[str, Any]:
        config = super().get_compile_config()  # type: ignore[misc]
        if not config:
            return config
        given = {
            key: keras.saving.serialize_keras_object(item) for key, item in self._combining.items()
        }
        return {**config, **given}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built and self.optimizer is not None:  # type: ignore[attr-defined]
            self.optimizer.build(self.trainable_variables)  # type: ignore[attr-defined]


@keras.saving.register_keras_serializable(package="polytape")
class Model(Training, keras.Model):
    """A Keras model trained on several losses.

    Use it as `keras.Model`: functionally, `pt.Model(inputs, outputs)`, by subclassing, or around an
    existing model with `pt.Model.wrap(model)`. `compile(..., combine=)` says how the gradients of
    the losses are settled; everything else is Keras.

    >>> import keras, numpy as np, polytape as pt
    >>> inputs = keras.Input((3,))
    >>> hidden = keras.layers.Dense(4, activation="tanh")(inputs)
    >>> heads = {name: keras.layers.Dense(1, name=name)(hidden) for name in ("a", "b")}
    >>> model = pt.Model(inputs, heads)
    >>> model.compile("adam", loss={"a": "mse", "b": "mae"}, combine="upgrad")
    >>> x, y = np.ones((8, 3)), np.ones((8, 1))
    >>> history = model.fit(x, {"a": y, "b": y}, verbose=0)
    >>> sorted(history.history)
    ['a_loss', 'b_loss', 'loss']
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> "Model":
        if cls is Model and _is_functional(args, kwargs):
            return super().__new__(functional_class())
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if _is_functional(args, kwargs):
            _make_functional(type(self))
            functional_class().__init__(self, *args, **kwargs)
        else:
            super().__init__(*args, **kwargs)
            self.method_state = MethodState()

    @classmethod
    def wrap(cls, model: keras.Model) -> "Model":
        """A `polytape.Model` around an existing model: same layers, same variables.

        A functional or Sequential model with known inputs is taken over layer by layer; any other
        is called as it is. Training one trains the other.
        """
        if not isinstance(model, keras.Model):
            raise TypeError(
                f"pt.Model.wrap takes a Keras model. Received: {model!r} of type "
                f"{type(model).__name__}."
            )
        if type(model) is plain_functional():
            return cls(model.input, model.output, name=model.name)
        if isinstance(model, keras.Sequential) and model.built and model.inputs:
            return cls(model.inputs, model.outputs, name=model.name)
        return Wrapped(model)


@keras.saving.register_keras_serializable(package="polytape")
class Wrapped(Model):
    """Another model, called as it is."""

    def __init__(self, network: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = network
        self.built = network.built

    def build(self, input_shape: Any) -> None:
        if not self.network.built:
            self.network.build(input_shape)
        self.built = True

    def call(self, inputs: Any, training: Any = None) -> Any:
        return self.network(inputs, training=training)

    def get_config(self) -> dict[str, Any]:
        return {"network": keras.saving.serialize_keras_object(self.network), "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Wrapped":
        return cls(keras.saving.deserialize_keras_object(config["network"]), name=config["name"])


@functools.cache
def plain_functional() -> Any:
    """Keras's class of functional models, which has no public name: the type of one."""
    tensor = keras.Input((1,), name="polytape_probe")
    return type(keras.Model(tensor, tensor, name="polytape_probe"))


@functools.cache
def functional_class() -> Any:
    """`Model` for functional use.

    Keras rewrites the bases of a class on its first functional use, after which it cannot be
    subclassed in the ordinary way. A class of its own keeps `Model` as it is.
    """
    functional = plain_functional()

    class FunctionalModel(Model, functional):  # type: ignore[valid-type, misc]
        def __init__(self, inputs: Any, outputs: Any, name: Any = None, **kwargs: Any) -> None:
            functional.__init__(self, inputs, outputs, name=name, **kwargs)
            self.method_state = MethodState()

    register = keras.saving.register_keras_serializable(package="polytape")
    return register(FunctionalModel)


def _is_functional(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return len(args) == 2 or {"inputs", "outputs"} <= {*kwargs, *("inputs",)[: len(args)]}


def _make_functional(cls: type) -> None:
    """Put the functional class in place of `Model` among the bases of a user's class."""
    if not issubclass(cls, functional_class()):
        for base in cls.__bases__:
            if base is not Model and issubclass(base, Model):
                _make_functional(base)
        cls.__bases__ = tuple(functional_class() if b is Model else b for b in cls.__bases__)


functional_class()  # registered now, so that a saved functional model is found by its name
