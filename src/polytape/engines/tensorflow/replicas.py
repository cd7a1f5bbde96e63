"""Several replicas of one step, as a `tf.distribute` strategy runs them."""

import functools
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from polytape.engines.contract import Tensor, Variable
from polytape.engines.tensorflow.recording import raw


def replica_count() -> int:
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def replica_index() -> Tensor:
    context = tf.distribute.get_replica_context()
    place = 0 if context is None else context.replica_id_in_sync_group
    return tf.cast(place, tf.int32)


def all_reduce(tensors: Sequence[Tensor]) -> list[Tensor]:
    context = tf.distribute.get_replica_context()
    if not tensors or context is None or context.num_replicas_in_sync == 1:
        return list(tensors)
    return list(context.all_reduce(tf.distribute.ReduceOp.SUM, list(tensors)))


def own(variable: Variable) -> Any:
    """TensorFlow's variable that belongs to this replica alone; elsewhere the variable itself."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return variable
    components = context.strategy.experimental_local_results(raw(variable))
    place = int(tf.get_static_value(context.replica_id_in_sync_group))
    return components[place % len(components)]  # a worker knows those of its own devices


class _Own(keras.StatelessScope):
    """Within it what is assigned to a variable of Keras goes to this replica's own, at once."""

    def add_update(self, update: tuple[Variable, Tensor]) -> None:
        variable, value = update
        component = own(variable)
        component.assign(tf.cast(value, component.dtype))


def on_own_copies(optimizer: Any) -> Any:
    """An optimizer whose `apply` updates this replica's copies, with gradients that are complete.

    Keras's own adds gradients up over replicas, and updates all copies from the outside, which
    cannot stand in a condition. Elsewhere than on one of several replicas the optimizer itself.
    """
    if replica_count() == 1 or not isinstance(optimizer, keras.optimizers.Optimizer):
        return optimizer
    # Another class for the same attributes: the optimizer of the user's stays what it is.
    kind: Any = type(optimizer)
    view = object.__new__(_view_of(kind))
    object.__setattr__(view, "__dict__", optimizer.__dict__)
    return view


class _OnOwnCopies(keras.optimizers.Optimizer):
    """In place of what Keras's optimizers do for `tf.distribute`, between them and a class of one.

    Keras's last methods before TensorFlow, by the names they have from 3.12 to 3.15.
    """

    def assign(self, variable: Variable, value: Tensor) -> None:
        _assign(own(variable), value, "assign", "scatter_update")

    def assign_add(self, variable: Variable, value: Tensor) -> None:
        _assign(own(variable), value, "assign_add", "scatter_add")

    def assign_sub(self, variable: Variable, value: Tensor) -> None:
        _assign(own(variable), value, "assign_sub", "scatter_sub")

    def _apply_weight_decay(self, variables: Sequence[Variable]) -> None:
        if self.weight_decay is None:
            return
        for variable in variables:
            if self._use_weight_decay(variable):
                copy = own(variable)
                rate = tf.cast(self.learning_rate, copy.dtype)
                copy.assign_sub(copy * tf.cast(self.weight_decay, copy.dtype) * rate)

    def _backend_update_step(
        self, grads: Sequence[Tensor], trainable_variables: Sequence[Variable], learning_rate: Any
    ) -> None:
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            self.update_step(gradient, own(variable), learning_rate)

    def _overwrite_model_variables_with_average_value(
        self, trainable_variables: Sequence[Variable]
    ) -> None:
        averages = self._model_variables_moving_average
        for variable, average in zip(trainable_variables, averages, strict=True):
            own(variable).assign(own(average))

    def _backend_increment_gradient_accumulators(
        self, grads: Sequence[Tensor], acc_grads: Sequence[Variable]
    ) -> None:
        for gradient, accumulator in zip(grads, acc_grads, strict=True):
            own(accumulator).assign(own(accumulator) + gradient)


class _Apart:
    """Before the class of an optimizer: what that would do itself for `tf.distribute`."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        with _Own(initialize_variables=False):
            super().apply(grads, trainable_variables)  # type: ignore[misc]


class _ScalingApart(_Apart):
    """Before Keras's `LossScaleOptimizer`."""

    @property
    def inner_optimizer(self) -> Any:
        return on_own_copies(self.__dict__["inner_optimizer"])

    def _tf_apply(self, grads: Any, trainable_variables: Any = None) -> None:
        self._common_apply(grads, trainable_variables=trainable_variables)  # type: ignore[attr-defined]


@functools.cache
def _view_of(kind: Any) -> type[Any]:
    scales = issubclass(kind, keras.optimizers.LossScaleOptimizer)
    return type(kind.__name__, (_ScalingApart if scales else _Apart, kind, _OnOwnCopies), {})


def _assign(copy: Any, value: Tensor, whole: str, scattered: str) -> None:
    value = tf.cast(value, copy.dtype)
    getattr(copy, scattered if isinstance(value, tf.IndexedSlices) else whole)(value)
