"""Which `tf.distribute` strategies fit, and where variables must be made."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from polytape.engines.tensorflow.recording import raw
from polytape.engines.tensorflow.replicas import replica_count

_FIT = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)


def refusal(model: Any, fits: bool = False) -> str | None:
    here, theirs = tf.distribute.get_strategy(), _strategy_of(model)
    for strategy in (here, theirs):
        if strategy is not None and (found := _unfit(strategy)):
            return found
    spread = here if here.num_replicas_in_sync > 1 else theirs
    if spread is None or spread.num_replicas_in_sync == 1:
        return None
    if fits and (found := _not_in_fit(spread, theirs)):
        return found
    return _outside(model, spread)


def _strategy_of(model: Any) -> tf.distribute.Strategy | None:
    """The strategy that a Keras model was made under, or None."""
    return None if isinstance(model, type) else getattr(model, "distribute_strategy", None)


def _unfit(strategy: tf.distribute.Strategy) -> str | None:
    asynchronous = isinstance(strategy, tf.distribute.ParameterServerStrategy)
    if not asynchronous and (strategy.num_replicas_in_sync == 1 or isinstance(strategy, _FIT)):
        return None
    why = (
        "has workers that train each at its own pace, so that there is no common step in which "
        "gradients could be combined"
        if asynchronous
        else "does not keep a copy of every variable on every replica, to be updated there"
    )
    return (
        f"tf.distribute.{type(strategy).__name__} {why}. Use tf.distribute.MirroredStrategy for "
        "the devices of one machine, tf.distribute.MultiWorkerMirroredStrategy in a loop of your "
        "own for several machines, or keras.distribution on JAX"
    )


def _not_in_fit(
    spread: tf.distribute.Strategy,
    theirs: tf.distribute.Strategy | None,
) -> str | None:
    """Why Keras's own loop cannot run."""
    if isinstance(spread, tf.distribute.MultiWorkerMirroredStrategy):
        return (
            "Keras's fit does not run under tf.distribute.MultiWorkerMirroredStrategy, whatever "
            "the model (https://github.com/keras-team/keras/issues/20585). Train in a loop of your "
            "own, strategy.run(step, args=(batch,)) with pt.gradients and a pt.Combiner, or with "
            "pt.compiled_step; or use tf.distribute.MirroredStrategy on one machine, or "
            "keras.distribution on JAX"
        )
    if replica_count() > 1:
        return (
            "it was called in strategy.run(...), by every replica, and starts replicas itself. "
            "Call it outside; in a loop of your own use pt.gradients or pt.compiled_step"
        )
    if theirs is not None and _elsewhere(theirs):
        here = tf.distribute.get_strategy()
        return (
            f"the model was made under another tf.distribute.{type(theirs).__name__} than the "
            f"tf.distribute.{type(here).__name__} in whose scope this is called, and a strategy "
            "cannot run inside another. Call it outside of any scope or in that of the model"
        )
    return None


def _elsewhere(strategy: tf.distribute.Strategy) -> bool:
    """Whether this is the scope of another strategy."""
    return tf.distribute.has_strategy() and tf.distribute.get_strategy() is not strategy


def _outside(model: Any, strategy: tf.distribute.Strategy) -> str | None:
    """Words for a variable that was made outside of the scope of a strategy, if there is one."""
    for variable in _variables(model):
        value = raw(variable)
        spread = isinstance(value, tf.distribute.DistributedValues)
        if not spread or value.distribute_strategy is not strategy:
            return (
                f"the variable {variable.path if value is not variable else variable.name!r} was "
                f"made outside of the scope of the tf.distribute.{type(strategy).__name__}, so "
                f"that its {strategy.num_replicas_in_sync} replicas have no copies of it. Make "
                "the model, its optimizer, metrics and any pt.Combiner inside `with "
                "strategy.scope():`, and compile there"
            )
    return None


def _variables(nest: Any) -> Iterator[Any]:
    """The variables in a nest of variables, models and whatever else has some."""
    if isinstance(nest, (keras.Variable, tf.Variable)):
        yield nest
    elif isinstance(nest, Mapping):
        for item in nest.values():
            yield from _variables(item)
    elif isinstance(nest, (list, tuple)):
        for item in nest:
            yield from _variables(item)
    elif isinstance(nest, (keras.layers.Layer, keras.optimizers.Optimizer, tf.Module)):
        yield from nest.variables


def home(model: Any) -> contextlib.AbstractContextManager[Any]:
    strategy = _strategy_of(model)
    if strategy is None or strategy.num_replicas_in_sync == 1 or replica_count() > 1:
        return contextlib.nullcontext()
    if _elsewhere(strategy):
        return contextlib.nullcontext()  # which is refused
    scope: contextlib.AbstractContextManager[Any] = strategy.scope()
    return scope


def for_all_replicas(make: Callable[[], Any]) -> None:
    if replica_count() == 1:
        make()
        return

    def once(strategy: tf.distribute.Strategy) -> None:
        with tf.init_scope(), strategy.scope():
            make()

    tf.distribute.get_replica_context().merge_call(once)


def on_replicas(function: Callable[..., Any]) -> Callable[..., Any] | None:
    strategy = tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync == 1 or replica_count() > 1:
        return None
    return lambda *args, **kwargs: strategy.run(function, args, kwargs)


def of_first_replica(nest: Any) -> Any:
    strategy = tf.distribute.get_strategy()
    return tf.nest.map_structure(lambda item: strategy.experimental_local_results(item)[0], nest)


def spread_batches(model: Any, function: Any) -> Any:
    strategy = _strategy_of(model)
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return function

    def run(batches: Any) -> Any:
        if isinstance(batches, (tf.data.Iterator, tf.distribute.DistributedIterator)):
            return function(batches)
        logs = function(_split(strategy, batch) for batch in batches)
        whole = model.get_metrics_result()  # here, where those of all replicas are read
        return whole if whole.keys() == logs.keys() else logs

    return run


def _split(strategy: tf.distribute.Strategy, batch: Any) -> Any:
    """To each replica its part of a batch, which Keras would hand to every one as a whole."""
    count = strategy.num_replicas_in_sync

    def part(leaf: Any, place: int) -> Any:
        before = [(len(leaf) + count - 1 - other) // count for other in range(place)]
        size = (len(leaf) + count - 1 - place) // count
        return tf.convert_to_tensor(leaf[sum(before) : sum(before) + size])

    def spread(leaf: Any) -> Any:
        if leaf is None or len(leaf.shape) == 0:
            return leaf
        return strategy.experimental_distribute_values_from_function(
            lambda context: part(leaf, context.replica_id_in_sync_group)
        )

    return keras.tree.map_structure(spread, batch)
