"""`pt.explain`: why gradients are missing, zero or not finite."""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from polytape.contract import received
from polytape.contract.types import Nest
from polytape.differentiation.losses import Losses
from polytape.differentiation.variables import Variables
from polytape.engines import engine
from polytape.engines.operations import LeftFrameworkError
from polytape.explanation.by_losses import explained
from polytape.explanation.explanation import Explanation
from polytape.explanation.finding import Finding
from polytape.explanation.measured import products_of
from polytape.explanation.search import left_framework
from polytape.looping import Gradients
from polytape.training.explained import explain_model


def explain(subject: Any, x: Any = None, y: Nest = None, sample_weight: Nest = None) -> Explanation:
    """Why a model is learning, or not: the gradient of every objective in every network.

    Of each gradient that is missing, zero or not finite it says why: the operation at which it is
    lost, the Keras layer in which that is called and the line of your own program, and what to do.
    Nothing is updated, and no state of random numbers moves. It costs a few steps, and more on
    JAX, where it is compiled.

    Args:
        subject: a compiled `pt.Model`; or a function without arguments that returns the losses, as
            for `pt.gradients`; or what `pt.gradients` returned, of which no causes can be told
        x: the inputs of one batch, as for `fit`, or a data set, whose first batch is taken; beside
            a function its variables, in any form that `pt.gradients` takes
        y: the targets of that batch
        sample_weight: of that batch

    Returns:
        An `Explanation`; print it, or read `.findings`, `.cell(objective, network)`,
        `.by_layer()`.

    Raises:
        TypeError: If the first argument is none of these, or something is missing beside it.
        RuntimeError: If the model was not compiled.

    Example:
        >>> import keras, polytape as pt
        >>> from keras import ops
        >>> w = keras.Variable([1.0, 2.0], name="w")
        >>> found = pt.explain(lambda: {"a": w[0] ** 2, "b": ops.sum(ops.round(w))}, [w])
        >>> [(finding.objective, finding.kind, finding.operation) for finding in found.findings]
        [('b', 'cut', 'round')]
    """
    with _random_numbers_kept():
        return _explained(subject, x, y, sample_weight)


def _explained(subject: Any, x: Any, y: Nest, sample_weight: Nest) -> Explanation:
    if isinstance(subject, Gradients):
        return _of_gradients(subject)
    if isinstance(subject, keras.Model):
        if x is None:
            raise TypeError(
                "pt.explain(model, x, y) needs one batch: x, and y unless the losses read none."
            )
        return explain_model(subject, x, y, sample_weight)
    if callable(subject) and not isinstance(subject, keras.layers.Layer):
        if x is None:
            raise TypeError(
                "pt.explain(losses, variables) needs the variables beside the function: "
                "pt.explain(losses, model.trainable_variables)."
            )
        return _of_function(subject, x)
    raise TypeError(
        "pt.explain takes a compiled pt.Model and a batch, a function that returns the losses and "
        f"variables, or what pt.gradients returned. {received(subject)}"
    )


@contextlib.contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """Inside, a user's function may draw from Python and NumPy: afterwards it has not."""
    ours, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpy)


def _of_function(objective_fn: Callable[[], Any], variables: Any) -> Explanation:
    known = Variables.of("pt.explain", variables)
    names: list[str] = []

    def forward() -> tuple[Any, Any]:
        losses, outputs = Losses.returned(objective_fn())
        names[:] = losses.names
        return {"losses": losses.whole}, outputs

    every = range(len(known.variables))
    try:
        with keras.StatelessScope():
            recording, trace = engine().trace(forward, lambda: known.variables)
        rows = [
            recording.vjp({place: ops.ones((), scalar.dtype)}, every)
            for place, scalar in enumerate(recording.scalars)
        ]
    except LeftFrameworkError as left:
        return _unknown(left_framework(left.line), known)
    losses = [float(ops.convert_to_numpy(loss)) for loss in recording.scalars]
    return explained(names, losses, rows, known, trace)


def _of_gradients(gradients: Gradients) -> Explanation:
    names = gradients.connectivity.names
    losses = [float(ops.convert_to_numpy(loss)) for loss in gradients.losses.values()]
    known = Variables(gradients.variables, gradients.connectivity.paths, ())
    return explained(names, losses, [gradients[name] for name in names], known, None)


def _unknown(finding: Finding, known: Variables) -> Explanation:
    """Of a function that told of no gradient."""
    owners = tuple(path.split("/")[0] for path in known.paths)
    none = np.zeros((1, len(known.paths)), bool)
    return Explanation(
        objectives=("(unknown)",),
        networks=tuple(dict.fromkeys(owners)),
        method="",
        losses={"(unknown)": float("nan")},
        paths=known.paths,
        owners=owners,
        layers=tuple(path.rpartition("/")[0] or path for path in known.paths),
        reach=none,
        routes=~none,
        products=products_of([[None] * len(known.paths)], None),
        findings=(finding,),
    )
