"""`tf.GradientTape` for several losses, in loops of one's own on TensorFlow."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn

import keras
import numpy as np
from keras import ops

from polytape.catalogue import resolve
from polytape.combiner import Combiner
from polytape.contract import Method, Seed, Tensor
from polytape.differentiation.connectivity import Connectivity
from polytape.differentiation.gradients import (
    check_objectives,
    check_variables,
    collected,
    scalars_of,
)
from polytape.differentiation.jacobian import Gradients, path_of
from polytape.engines import Tape, engine
from polytape.settlement import Settlement, check_private


class TapeGradients(Gradients):
    """What `tape.gradients` returns: `pt.Gradients` that can be combined on the spot."""

    def combine(self, method: str | Method | Combiner, private: str = "own") -> list[Tensor | None]:
        """Update directions, one per variable; None where no objective reaches it.

        method   a method or its name, if it needs nothing but these gradients; a `pt.Combiner`,
                 made once before the loop, for one that keeps a state or draws random numbers
        private  as of `pt.Combiner`, which brings its own

        Raises `ValueError` if the method keeps a state from step to step or draws random numbers.
        """
        if isinstance(method, Combiner):
            return method(self)
        method, names = resolve(method), self.connectivity.names
        check_private(private)
        if keras.tree.flatten(method.init(names)):
            _refuse(method, "keeps a state from step to step")
        settlement = _settlement(method, names, self.connectivity.paths, private)
        gradients = self.joint() if settlement.private == "joint" else self
        everyone = ops.ones((len(names),), dtype="bool")
        return settlement.settle(gradients, everyone, ops.zeros((), "int32"))[0]


class GradientTape:
    """A `tf.GradientTape` that differentiates several losses in one call. TensorFlow only.

    As there, what is computed in the `with` block is recorded: forward passes and losses belong
    inside. `gradients` then takes all losses and all variables at once and frees the record, so
    there is no persistent tape to delete. It may be called inside the block as well as behind it,
    eagerly or inside `tf.function`, with or without XLA; a tape around it, of either kind,
    differentiates the gradients once more.

    A loop that is to run on JAX and PyTorch, too, uses `pt.gradients`.

    Raises `RuntimeError` if Keras runs on another framework.

    >>> import keras, polytape as pt
    >>> w = keras.Variable([1.0, 2.0])
    >>> optimizer = keras.optimizers.SGD(0.1)
    >>> with pt.GradientTape() as tape:
    ...     losses = {"a": w[0] ** 2, "b": -w[0] * w[1]}
    >>> grads = tape.gradients(losses, [w])
    >>> _ = optimizer.apply_gradients(zip(grads.combine(pt.UPGrad()), [w]))
    """

    def __init__(self, **options: Any) -> None:
        if options:
            raise TypeError(
                "pt.GradientTape has no options: it differentiates all losses in one call of "
                "`gradients` and then frees what it recorded, so it need not be persistent. "
                f"Received: {', '.join(options)}."
            )
        self._tape: Tape | None = engine().tape()
        self._open = self._entered = False
        if self._tape is None:
            raise RuntimeError(_ELSEWHERE.format(keras.backend.backend()))

    def __enter__(self) -> "GradientTape":
        self._recorder().open()
        self._open = self._entered = True
        return self

    def __exit__(self, *exception: Any) -> None:
        self._close()

    def watch(self, tensor: Any) -> None:
        """Follow a floating-point tensor from here on, so that `gradients` may take it.

        Variables are followed by themselves; this is for tensors that are not computed from any.
        Raises `RuntimeError` outside the `with` block, `TypeError` if it is no such tensor.
        """
        if not self._open:
            raise RuntimeError(
                "tape.watch(x) follows x from then on: call it inside the `with` block, before x "
                "is used."
            )
        if not isinstance(tensor, keras.Variable):
            kind = str(tensor.dtype) if ops.is_tensor(tensor) else type(tensor).__name__
            if "float" not in kind or not ops.is_tensor(tensor):
                raise TypeError(
                    f"tape.watch takes a floating-point tensor. Received: {kind}. Convert it with "
                    "tf.convert_to_tensor(x, tf.float32) and compute with the result."
                )
        self._recorder().watch(tensor)

    def gradients(
        self, losses: Mapping[str, Any] | Sequence[Any], sources: Sequence[Any]
    ) -> TapeGradients:
        """The gradient of every loss by every source; to be called once.

        losses   {objective name: scalar loss}, or a list of losses, named "0", "1", ...
        sources  variables of Keras or TensorFlow, or watched tensors, each once
        returns  gradients with `losses`, `norms`, `cosines`, `gramian`, `grads["name"]` (a list
                 over sources, None where no path exists) and `combine`

        Raises `RuntimeError` if the tape is used up or was never used; `TypeError` if the losses
        are no dict or list of tensors; `ValueError` if one is not a scalar or reaches no source,
        if there are no sources, or if one is given twice.
        """
        tape = self._recorder()
        if not self._entered:
            raise RuntimeError(
                "This tape has recorded nothing. Call the networks and compute the losses inside "
                "`with pt.GradientTape() as tape:`."
            )
        self._close()
        named = _named(losses)
        sources = check_variables("tape.gradients", sources)
        recording = tape.recording(scalars_of(named), sources)
        found = collected(recording, list(named), sources, TapeGradients)
        _check_reach(tape, found.connectivity, sources, named)
        self._tape = None
        return found

    @property
    def gradient(self) -> NoReturn:
        """Of `tf.GradientTape`; here it says what to write instead."""
        raise AttributeError(
            "A pt.GradientTape has no `gradient` for one loss: write "
            'tape.gradients({"name": loss, ...}, variables) with all losses in one call, and read '
            'one of them as grads["name"].'
        )

    def _recorder(self) -> Tape:
        if self._tape is None:
            raise RuntimeError(
                "This tape is used up: `gradients` has freed what it recorded. Differentiate all "
                'losses in one call, tape.gradients({"a": loss_a, "b": loss_b}, variables), with '
                "the variables of all networks, and open a new tape for the next step."
            )
        return self._tape

    def _close(self) -> None:
        if self._open and self._tape is not None:
            self._tape.close()
        self._open = False


def _named(losses: Any) -> Mapping[str, Any]:
    if ops.is_tensor(losses):
        raise TypeError(
            "tape.gradients takes all losses at once, in a dict or list. Received: one tensor. "
            'Write tape.gradients({"loss": loss}, variables).'
        )
    if isinstance(losses, (list, tuple)):
        losses = {str(index): loss for index, loss in enumerate(losses)}
    check_objectives(losses)
    return losses


@lru_cache(maxsize=64)
def _settlement(
    method: Method, names: tuple[str, ...], paths: tuple[str, ...], private: str
) -> Settlement:
    """Kept, since the T x T part is compiled."""

    def remember(**_: Any) -> NoReturn:
        _refuse(method, "keeps a state from step to step")

    def draw() -> NoReturn:
        _refuse(method, "draws random numbers, other ones in every step")

    return Settlement(method, names, paths, remember, private, Seed(draw))


def _refuse(method: Method, why: str) -> NoReturn:
    raise ValueError(
        f"{type(method).__name__} {why}, which the gradients of one step cannot hold. Make a "
        f"pt.Combiner once, before the loop, combiner = pt.Combiner(pt.{type(method).__name__}"
        "(...)), and write grads.combine(combiner) in it."
    )


def _check_reach(
    tape: Tape, connectivity: Connectivity, sources: list[Any], losses: Mapping[str, Any]
) -> None:
    """Raise if a loss reaches no source, with the likely cause."""
    unreached = np.flatnonzero(~connectivity.reach.any(axis=1))
    if not unreached.size:
        return
    index = int(unreached[0])
    name, read = connectivity.names[index], tape.read()
    reach = tape.recording(scalars_of(losses), read).reach([index])[0] if read else ()
    others = [path_of(variable) for variable, reached in zip(read, reach, strict=True) if reached]
    if others:
        cause = (
            f"It reaches others: {', '.join(others[:4])}{', ...' * (len(others) > 4)}. Add the "
            "variables of its network to the list."
        )
    elif not read:
        cause = (
            "No variable was read inside the `with` block: the prediction was computed outside the "
            "tape. Call the network inside the block."
        )
    else:
        cause = (
            "It has no recorded path to any variable, though some were read inside the `with` "
            "block: its prediction was computed outside the tape, or the path goes through "
            "stop_gradient, argmax, a comparison, a cast to integers or NumPy. A tensor that is "
            "not computed from variables must be watched before it is used."
        )
    raise ValueError(f"Objective {name!r} reaches none of the {len(sources)} sources. {cause}")


_ELSEWHERE = """\
pt.GradientTape is for TensorFlow, and Keras runs on {}. The same on every backend:

    def losses():
        ...  # what was inside the `with` block
        return {{"a": loss_a, "b": loss_b}}

    grads = pt.gradients(losses, variables)
    update = combiner(grads)  # combiner = pt.Combiner(method), made once before the loop"""
