"""Several Keras optimizers as one: each updates the variables that are its own."""

import functools
import warnings
from collections.abc import Iterator, KeysView, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import keras
import numpy as np
from keras import ops

from polytape.contract import Tensor
from polytape.contract.types import Anything, Config, Store
from polytape.engines import engine
from polytape.training.optimizers.inner_optimizers import inner_optimizers, proportions
from polytape.training.optimizers.layout import RECORD, Layout

OWN = ""  # in a file, the name of what belongs to no part

# {id of the parts: {name: () bool}} of a step that is being made in this thread, as replicas are.
_masks: ContextVar[Mapping[int, Mapping[str, Tensor]]] = ContextVar("masks", default={})  # noqa: B039


@keras.saving.register_keras_serializable(package="polytape")
class Optimizers(keras.optimizers.Optimizer):
    """Several Keras optimizers in one, each for a part of the variables.

    Every optimizer keeps its own step count, schedule, clipping (over its own variables), weight
    decay, average and accumulation. In a step that brings none of its variables a gradient it does
    nothing. `iterations` counts the steps in which any of them takes part.

    `learning_rate` is that of the first optimizer. Setting it, as `LearningRateScheduler` and
    `ReduceLROnPlateau` do, multiplies the rates of all by the same factor, and what they log is
    that of the first; a rate of one's own is set by
    `model.optimizer["encoder"].learning_rate = 1e-4`. `SwapEMAWeights` exchanges the variables of
    the optimizers that have `use_ema=True`.

    Under the policy "mixed_float16" Keras puts a `LossScaleOptimizer` around the whole:
    `model.optimizer.inner_optimizer["encoder"]`. A gradient that overflows skips the step of all.

    Args:
        optimizers: {name: Keras optimizer, its name or its config}; `optimizers["encoder"]` is the
            one of that name
        owners: for each variable, in the order of the model's `trainable_variables`, the name of
            the optimizer that updates it. `compile(optimizer={...})` of a `polytape.Model` works it
            out; saved with the optimizer
        loss_scale_factor: as in Keras; it belongs to the losses, so there is one for all
        name: of the optimizer

    Raises:
        ValueError: For optimizers that cannot be parts of one: loss scaling of their own, the same
            object twice.

    Example:
        >>> import keras, numpy as np
        >>> layers = [keras.layers.Dense(4), keras.layers.Dense(1)]
        >>> model = keras.Sequential([keras.Input((3,)), *layers])
        >>> parts = {"body": keras.optimizers.Adam(1e-2), "head": "sgd"}
        >>> model.compile(Optimizers(parts, owners=["body", "body", "head", "head"]), loss="mse")
        >>> history = model.fit(np.ones((8, 3)), np.ones((8, 1)), batch_size=4, verbose=0)
        >>> int(model.optimizer["head"].iterations)
        2
    """

    def __init__(
        self,
        optimizers: Mapping[str, Anything],
        owners: Sequence[str] | None = None,
        loss_scale_factor: float | None = None,
        name: str | None = None,
    ) -> None:
        # A callable needs no variable of its own.
        super().__init__(lambda: self.learning_rate, loss_scale_factor=loss_scale_factor, name=name)
        # A dict attribute, so that tf.train.Checkpoint finds the slots, too.
        self._inner = inner_optimizers(optimizers, loss_scale_factor)
        self._proportions: dict[str, float] | None = None
        self._owners: tuple[str, ...] | None = None
        if owners is not None:
            self.divide(owners)

    # ------------------------------------------------------------------ the parts

    def __getitem__(self, name: str) -> Anything:
        if name not in self._inner:
            raise KeyError(f"No optimizer {name!r}. There are: {', '.join(self._inner)}.")
        return self._inner[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._inner)

    def keys(self) -> KeysView[str]:
        """The names of the optimizers.

        Returns:
            The names, in order.
        """
        return self._inner.keys()

    @property
    def owners(self) -> tuple[str, ...] | None:
        """For each variable the name of its optimizer; None before `divide`."""
        return self._owners

    def divide(self, owners: Sequence[str]) -> None:
        """Say whose each variable is, before `build`: a name for each of the variables, in order.

        Args:
            owners: the name of an optimizer for each variable

        Raises:
            ValueError: For a name without an optimizer, and if built for another division.
        """
        for owner in owners:
            if owner not in self._inner:
                raise ValueError(
                    f"A variable belongs to the optimizer {owner!r}, and there is none of that "
                    f"name. There are: {', '.join(self._inner)}."
                )
        if self.built and tuple(owners) != tuple(self._owners or ()):
            raise ValueError(
                "The variables of these optimizers were divided in another way when their slots "
                "were made. Compile with new optimizers."
            )
        self._owners = tuple(owners)

    def _own(self, name: str, items: Sequence[keras.Variable]) -> list[keras.Variable]:
        """Those of the items, one for each variable, that belong to the optimizer of a name."""
        return [
            item for item, owner in zip(items, self._owners or (), strict=True) if owner == name
        ]

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Make all slots of all optimizers. `divide` comes before.

        Args:
            variables: that are trained, in the order of the model
        """
        if self.built:
            return
        if self._owners is None:
            raise ValueError(
                "It is not known which variables belong to which of the optimizers "
                f"{', '.join(self._inner)}. Compile a polytape.Model with optimizer={{...}}, or "
                "give Optimizers(..., owners=[...]) a name for each trainable variable."
            )
        if len(self._owners) != len(variables):
            raise ValueError(
                f"`owners` names the optimizers of {len(self._owners)} variables; the model has "
                f"{len(variables)} trainable ones. Was `trainable` changed after compile()?"
            )
        for name, inner in self._inner.items():
            inner.build(self._own(name, variables))
        super().build(list(variables))

    @property
    def variables(self) -> list[keras.Variable]:
        return [variable for name in (OWN, *self._inner) for variable in self._of(name)]

    def _of(self, name: str) -> list[keras.Variable]:
        """The variables of the optimizer of a name."""
        return list(super().variables if name == OWN else self._inner[name].variables)

    # ------------------------------------------------------------------ saved by name

    def __dir__(self) -> list[str]:
        # Keras looks here for what to save, and would save the parts once more, by position.
        return [name for name in super().__dir__() if name != "_inner"]

    def _layout(self) -> Layout:
        counts = {name: len(self._of(name)) for name in (OWN, *self._inner)}
        return Layout(counts, self._owners or ())

    def save_own_variables(self, store: Store) -> None:
        store[RECORD] = self._layout().record()
        for index, variable in enumerate(self.variables):
            store[str(index)] = variable

    def load_own_variables(self, store: Store) -> None:
        """Load by the names of the parts. As in Keras, slots of other variables are left aside.

        Args:
            store: of Keras, {name: array}
        """
        found = {key: np.asarray(store[key]) for key in store.keys()}  # noqa: SIM118
        here = self._layout()
        saved = Layout.read(found)
        if saved is None and len(found) == sum(here.counts.values()):
            saved = here  # a file from before: the parts in the order of then
        pairs: list[Anything] = []
        if saved is not None and saved.same(here):
            arrays = saved.split(found)
            pairs = [
                pair for part in arrays for pair in zip(self._of(part), arrays[part], strict=True)
            ]
        if not pairs or any(variable.shape != array.shape for variable, array in pairs):
            parts = [repr(name) for name in (saved.counts if saved else ()) if name != OWN]
            warnings.warn(
                f"Skipping variable loading for the optimizers {', '.join(map(repr, self._inner))}"
                ": they go on afresh. The file has those of "
                f"{', '.join(parts) or 'no such parts'}, divided among other variables or with "
                "other slots. To resume, compile with the optimizers of the file under the same "
                "names, and with the same layers frozen.",
                UserWarning,
                stacklevel=2,
            )
            return
        for variable, array in pairs:
            variable.assign(array)

    # ------------------------------------------------------------------ a step

    def apply(self, grads: Anything, trainable_variables: Anything = None) -> None:
        """One step of every optimizer that has a gradient.

        Args:
            grads: one for each variable, or None
            trainable_variables: as of `build`, if it was not called
        """
        if not self.built:
            self.build(list(trainable_variables or ()))
        known = self._trainable_variables
        given = known if trainable_variables is None else list(trainable_variables)
        self._check_variables_are_known(given)
        found = {self._get_variable_index(v): g for v, g in zip(given, grads, strict=True)}
        every = [found.get(place) for place in range(len(known))]
        for name, inner in self._inner.items():
            gradients, variables = self._own(name, every), self._own(name, known)
            if all(gradient is None for gradient in gradients):
                continue
            inner.loss_scale_factor = self.loss_scale_factor  # a LossScaleOptimizer takes it away
            if name in self._mask:
                accept = ops.convert_to_tensor(self._mask[name], "bool")
                engine().apply(inner, gradients, variables, accept)
            else:
                inner.apply(gradients, variables)
        count = self._iterations.value
        engine().assign([self._iterations], [count + self._counted()], ops.ones((), "bool"))

    def _counted(self) -> Anything:
        """1 if any of the optimizers may take part, else 0."""
        mask = self._mask
        if not set(self._inner) <= set(mask):
            return 1
        asked = [ops.convert_to_tensor(mask[name], "bool") for name in self._inner]
        return ops.cast(functools.reduce(ops.logical_or, asked), self._iterations.dtype)

    @contextmanager
    def taking_part(self, mask: Mapping[str, Tensor]) -> Iterator[None]:
        """Within it `apply` changes nothing of an optimizer whose mask is false.

        Args:
            mask: {name: () bool}; those not named take part. Within another one, both count

        Returns:
            A context manager.
        """
        for name in mask:
            self[name]
        before = self._mask
        both = {name: ops.logical_and(before[name], mask[name]) for name in before if name in mask}
        masks = {**_masks.get(), id(self._inner): {**before, **mask, **both}}
        token = _masks.set(masks)
        try:
            yield
        finally:
            _masks.reset(token)

    @property
    def _mask(self) -> Mapping[str, Tensor]:
        """Who takes part in the step that is being made in this thread."""
        return _masks.get().get(id(self._inner), {})

    def finalize_variable_values(self, var_list: Anything) -> None:
        del var_list  # the same variables, perhaps in another order
        if self.built:
            for name, inner in self._inner.items():
                inner.finalize_variable_values(self._own(name, self._trainable_variables))

    @property
    def _model_variables_moving_average(self) -> list[keras.Variable]:
        # Where `SwapEMAWeights` looks for the averages of the variables, in the order of these.
        averaged = {name for name, inner in self._inner.items() if inner.use_ema}
        if not averaged:
            raise AttributeError(
                f"None of the optimizers {', '.join(self._inner)} has use_ema=True."
            )
        averages = {
            id(variable): average
            for name in averaged
            for variable, average in zip(
                self._own(name, self._trainable_variables),
                self._inner[name]._model_variables_moving_average,
                strict=True,
            )
        }
        # A variable without an average is exchanged for a copy of itself.
        return [
            averages[id(variable)]
            if id(variable) in averages
            else keras.Variable(variable.numpy(), trainable=False)
            for variable in self._trainable_variables
        ]

    # ------------------------------------------------------------------ settings of all

    @property
    def learning_rate(self) -> Anything:
        return next(iter(self._inner.values())).learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: Anything) -> None:
        first = next(iter(self._inner))
        if callable(rate):
            raise TypeError(
                f"A schedule belongs to one optimizer: optimizer[{first!r}].learning_rate = ... "
                f"Received: {rate!r} for all of {', '.join(self._inner)}."
            )
        # At zero the proportions of the last time are kept.
        self._proportions = kept = proportions(self._inner) or self._proportions
        if kept is None:
            raise ValueError(
                f"All rates are set in proportion to that of the first optimizer, {first!r}, which "
                "is zero. Set them one by one, or start from a rate above zero."
            )
        for name, inner in self._inner.items():
            inner.learning_rate = kept[name] * float(ops.convert_to_numpy(rate))

    def exclude_from_weight_decay(
        self, var_list: Anything = None, var_names: Anything = None
    ) -> None:
        for inner in self._inner.values():
            inner.exclude_from_weight_decay(var_list, var_names)

    def set_weights(self, weights: Sequence[Anything]) -> None:
        for variable, weight in zip(self.variables, weights, strict=True):
            variable.assign(weight)

    def get_config(self) -> Config:
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "optimizers": {name: serialize(inner) for name, inner in self._inner.items()},
            "owners": None if self._owners is None else list(self._owners),
            "loss_scale_factor": self.loss_scale_factor,
        }
