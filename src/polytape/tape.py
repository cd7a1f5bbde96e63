"""`tf.GradientTape` for several losses, in loops of one's own on TensorFlow."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import keras
import numpy as np
from keras import ops

from polytape.contract import Tensor
from polytape.differentiation.connectivity import Connectivity
from polytape.differentiation.losses import Losses
from polytape.differentiation.scaling import factor_of
from polytape.differentiation.variables import Variables
from polytape.engines import Tape, check_replicas, engine
from polytape.looping import Gradients, collected


class GradientTape:
    """A `tf.GradientTape` that differentiates several losses in one call. TensorFlow only.

    As there, what is computed in the `with` block is recorded: forward passes and losses belong
    inside. `gradients` then takes all losses and all variables at once and frees the record, so
    there is no persistent tape to delete. It may be called inside the block as well as behind it,
    eagerly or inside `tf.function`, with or without XLA; a tape around it, of either kind,
    differentiates the gradients once more.

    A loop that is to run on JAX and PyTorch, too, uses `pt.gradients`.

    Args:
        **options: of `tf.GradientTape`

    Raises:
        RuntimeError: If Keras runs on another framework.

    Example:
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
        check_replicas("pt.GradientTape")
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

        Args:
            tensor: a floating-point tensor of TensorFlow

        Raises:
            RuntimeError: Outside the `with` block.
            TypeError: If it is no such tensor.
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
        self,
        losses: Mapping[str, Any] | Sequence[Any],
        sources: Any,
        scale: Callable[[Tensor], Tensor] | Tensor | float | None = None,
    ) -> Gradients:
        """The gradient of every loss by every source; to be called once.

        Args:
            losses: {objective name: scalar loss}, or a list of losses, named "0", "1", ...
            sources: variables of Keras or TensorFlow, or watched tensors, each once; or any other
                form of `pt.gradients`
            scale: under loss scaling `optimizer.scale_loss`, as of `pt.gradients`

        Returns:
            Gradients with `losses`, `norms`, `cosines`, `gramian`, `grads["name"]` (a list over
            sources, None where no path exists) and `combine`.

        Raises:
            RuntimeError: If the tape is used up or was never used.
            TypeError: If the losses are no dict or list of tensors.
            ValueError: If one is not a scalar or reaches no source, if there are no sources, or if
                one is given twice.
        """
        tape = self._recorder()
        if not self._entered:
            raise RuntimeError(
                "This tape has recorded nothing. Call the networks and compute the losses inside "
                "`with pt.GradientTape() as tape:`."
            )
        self._close()
        if ops.is_tensor(losses):
            raise TypeError(
                "tape.gradients takes all losses at once, in a dict or list. Received: one tensor. "
                'Write tape.gradients({"loss": loss}, variables).'
            )
        named = Losses.of(losses, "tape.gradients takes")
        known = Variables.of("tape.gradients", sources)
        factor = factor_of("tape.gradients", scale)
        recording = tape.recording(named.groups, known.variables)
        found = collected(recording, named.names, known, factor)
        _check_reach(tape, found.connectivity, known, named)
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


def _check_reach(
    tape: Tape, connectivity: Connectivity, sources: Variables, losses: Losses
) -> None:
    """Raise if a loss reaches no source, with the likely cause."""
    unreached = np.flatnonzero(~connectivity.reach.any(axis=1))
    if not unreached.size:
        return
    index = int(unreached[0])
    paths, read = connectivity.paths, tape.read()
    reach: Any = tape.recording(losses.groups, read).reach([index])[0] if read else ()
    others = [variable for variable, reached in zip(read, reach, strict=True) if reached]
    among = [source for source in sources.variables if tape.has_read(source)]
    if not read:
        cause = _NOTHING_READ
    elif others and among:
        cause = _BROKEN.format(len(among), _listed(tape, others))
    elif others:
        cause = _OTHERS.format(_listed(tape, others))
    elif tape.finished(next(iter(losses.groups.values()))[index]):
        cause = _NO_PATH
    else:
        cause = _BEHIND
    raise ValueError(
        f"Objective {connectivity.names[index]!r} reaches none of the {len(paths)} sources: "
        f"{', '.join(paths[:4])}{', ...' * (len(paths) > 4)}. {cause}"
    )


def _listed(tape: Tape, variables: Sequence[Any]) -> str:
    paths = [tape.path(variable) for variable in variables[:4]]
    return f"{', '.join(paths)}{', ...' * (len(variables) > 4)}"


_NOTHING_READ = (
    "No variable was read inside the `with` block: the prediction was computed outside the tape. "
    "Call the network inside the block."
)
_BROKEN = (
    "The path to them may be broken: {} of them were read inside the `with` block, but what was "
    "made of them went through NumPy, stop_gradient, argmax, a comparison or a cast to integers. "
    "It does reach {}. Mend the path; only if the sources are not the ones that this loss shall "
    "train, give the others."
)
_OTHERS = (
    "It reaches others: {}. If it shall train those, they belong in the list. If it shall train "
    "the sources, the path from them may be broken: their network was not called inside the `with` "
    "block, or its output went through NumPy or stop_gradient."
)
_BEHIND = (
    "The loss itself was finished behind the `with` block: variables were read inside it, but what "
    "was computed afterwards, such as a mean, a sum or a weight, is not recorded. Finish the "
    "losses inside the block, and call tape.gradients behind it."
)
_NO_PATH = (
    "It has no recorded path to any variable, though some were read inside the `with` block: its "
    "prediction was computed outside the tape, or the path goes through stop_gradient, argmax, a "
    "comparison, a cast to integers or NumPy. A tensor that is not computed from variables must be "
    "watched before it is used."
)
_ELSEWHERE = """\
pt.GradientTape is for TensorFlow, and Keras runs on {}. The same on every backend:

    def losses():
        ...  # what was inside the `with` block
        return {{"a": loss_a, "b": loss_b}}

    grads = pt.gradients(losses, variables)
    update = combiner(grads)  # combiner = pt.Combiner(method), made once before the loop"""
