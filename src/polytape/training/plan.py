"""What `compile` decides for the step: objectives, method and its state, rules for bad values."""

import inspect
import math
import random
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from polytape.contract import Method, Tensor
from polytape.features import marked
from polytape.jacobian import path_of
from polytape.measured import check_measure
from polytape.settlement import Settlement, check_private
from polytape.stages.reweight import check_names
from polytape.training.dropped import Dropped
from polytape.training.losses import Ledger

ON_NONFINITE = ("drop", "isolate", "skip", "raise")


class Plan:
    """The decisions of one `compile`. Completed when outputs and variables are known."""

    def __init__(
        self,
        model: Any,
        holder: Any,
        ledger: Ledger,
        method: Method,
        private: str,
        on_nonfinite: str,
        seed: int | None,
        measure: str = "parameters",
    ) -> None:
        if on_nonfinite not in ON_NONFINITE:
            raise ValueError(
                f"`on_nonfinite` says what to do with a loss or gradient that is not finite: one "
                f"of {ON_NONFINITE}. Received: {on_nonfinite!r}."
            )
        self.model, self.ledger, self.method = model, ledger, method
        self.holder = holder
        holder.release()
        self.private, self.on_nonfinite = check_private(private), on_nonfinite
        self.seed = _peeked_seed() if seed is None else seed
        measure = check_measure(measure, method)
        # A method that weighs losses alone measures nothing.
        self.measure = "parameters" if method.needs == "losses" else measure
        self.kept: Any = None  # what the engine needs to undo a failing first step
        self.names: tuple[str, ...] = ()
        self._settlement: Settlement | None = None
        parameters = inspect.signature(model.call).parameters
        self._training = {"training": True} if "training" in parameters else {}

    # ------------------------------------------------------------------ completion

    def complete(self, outputs: Any) -> None:
        """Settle names, method state and counters as soon as they can be known."""
        if self._settlement is not None or not self.model.built:
            return
        names = self.ledger.names(outputs, self.output_names())
        if names is None:
            return
        self.names = names or ("loss",)
        paths = tuple(path_of(variable) for variable in self.model.trainable_variables)
        saved = self.holder.claim(self.method, self.names)
        sizes = [math.prod(variable.shape) for variable in self.model.trainable_variables]
        self._settlement = Settlement(
            self.method, self.names, paths, keras.Variable, self.private, self.seed, saved, sizes
        )
        self.dropped = Dropped(self.names)
        variables = self._settlement.state.variables
        self.holder.hold(variables, self.dropped, self.method, self.names)

    def check_outputs(self, outputs: Any) -> None:
        """Raise if the outputs do not fit the losses, or no longer those of `compile`."""
        self.ledger.clear()
        self.ledger.check_outputs(outputs, self.output_names())
        names = self.ledger.names(outputs, self.output_names()) or ("loss",)
        if self.names and names != self.names:
            raise ValueError(
                f"Compiled for the objectives {', '.join(self.names)}; the outputs now give "
                f"{', '.join(names)}. The method's state has a row for each objective: after a "
                "change of outputs call compile() again."
            )

    def output_names(self) -> Sequence[str]:
        """The model's own names of its outputs, empty if it has none."""
        return tuple(getattr(self.model, "output_names", None) or ())

    @property
    def settlement(self) -> Settlement:
        if self._settlement is None:
            raise RuntimeError("The model was trained before its objectives were known.")
        paths = tuple(path_of(variable) for variable in self.model.trainable_variables)
        if paths != self._settlement.paths:
            raise ValueError(
                f"The model had {len(self._settlement.paths)} trainable variables when it was "
                f"compiled and has {len(paths)} now. After changing `trainable` or adding layers, "
                "call compile() again."
            )
        return self._settlement

    # ------------------------------------------------------------------ the step's needs

    def forward(self, x: Any) -> Any:
        """The model's outputs in training mode."""
        outputs = self.model(x, **self._training)
        return marked(outputs) if self.measure == "outputs" else outputs

    def losses(self) -> list[Tensor]:
        """The T weighted losses just computed and, if there are any, the model's added losses."""
        added = [ops.sum(ops.cast(loss, keras.config.floatx())) for loss in self.model.losses]
        extra = [ops.sum(ops.stack(added))] if added else []
        if self.ledger.wrapped is None:  # nothing but add_loss: that is the objective
            return extra
        return [*self.ledger.values(self.names), *extra]

    def halves(self) -> list[Tensor]:
        """For methods that need them, the T losses of the first half of the batch and the second's.

        ValueError if the objective is not a loss given to `compile`.
        """
        if not self.settlement.halves:
            return []
        if self.ledger.wrapped is None:
            raise ValueError(
                "This method compares the gradients of two half batches, which add_loss() does not "
                "tell apart. Give the objectives to compile(loss=...)."
            )
        return [*self.ledger.values(self.names, 1), *self.ledger.values(self.names, 2)]

    def loss_tracker(self) -> Any:
        """Keras's running mean of the total loss."""
        return self.model.metrics[0]

    @property
    def rescales(self) -> bool:
        """Whether the optimizer scales the loss and lowers the scale on overflow."""
        return isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer)

    def accepts(self, active: Tensor) -> Tensor:
        """() bool: whether a step with these objectives updates anything at all."""
        return ops.all(active) if self.on_nonfinite == "skip" else ops.any(active)

    def statistics(self) -> list[tuple[Any, Tensor]]:
        """Float variables that a forward pass may change (BatchNorm), with their values."""
        state = {id(variable) for variable in self._own_variables()}
        return [
            (variable, ops.copy(variable.value))
            for variable in self.model.non_trainable_variables
            if "float" in str(variable.dtype) and id(variable) not in state
        ]

    def _own_variables(self) -> list[Any]:
        return self._settlement.state.variables if self._settlement else []

    def restore(self, kept: list[tuple[Any, Tensor]]) -> None:
        """Take back statistics that a bad batch made non-finite."""
        for variable, value in kept:
            fine = ops.all(ops.isfinite(variable.value))
            variable.assign(ops.where(fine, variable.value, value))

    # ------------------------------------------------------------------ between steps

    def total(self, total: Tensor, outputs: Any) -> Tensor:
        """Keras's total loss, completed: of a list of losses on one output it holds the first."""
        if keras.tree.is_nested(outputs) or len(self.names) < 2:
            return total
        return total + sum(self.ledger.values(self.names)[1:])

    def raise_if_dropped(self) -> None:
        """Raise if the user asked for it and an objective was left out."""
        if self.on_nonfinite == "raise" and (named := self.dropped.describe()):
            raise FloatingPointError(
                f"A loss or gradient is not finite: {named}. No variable was touched by it. "
                "Look for log or division of zero, an exploding loss, or NaN in the data of that "
                "objective."
            )

    def reweight(self, weights: dict[str, float]) -> None:
        """Write into the `Reweight` states."""
        settlement = self.settlement
        check_names(weights, self.names)
        values = settlement.state.named("reweight")
        if not values:
            raise ValueError(
                "reweight() changes the weights of a Reweight stage, and `combine` has none. "
                "Compile with combine=pt.Chain(pt.Reweight(), ...)."
            )
        for variable in values:
            numbers = ops.convert_to_numpy(variable.value).copy()
            for name, weight in weights.items():
                numbers[self.names.index(name)] = weight
            variable.assign(numbers)


def _peeked_seed() -> int:
    # `keras.utils.set_random_seed` seeds Python's generator; drawing from a copy follows it without
    # shifting the numbers that layers built later will draw.
    copy = random.Random()
    copy.setstate(random.getstate())
    return copy.randrange(2**20)
