"""`pt.GradientTape`: `tf.GradientTape` as it is, and gradients of several losses in one call."""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np
from keras import ops

from polytape.contract import Tensor
from polytape.differentiation.connectivity import Connectivity
from polytape.differentiation.losses import Losses
from polytape.differentiation.replicated import over_replicas
from polytape.differentiation.scaling import factor_of
from polytape.differentiation.variables import Variables
from polytape.engines import Tape, check_distribution, engine
from polytape.engines.places import Line, line_of
from polytape.explanation.by_losses import explained
from polytape.explanation.explanation import Explanation
from polytape.looping import Gradients, collected
from polytape.tape.asked import asked_by, looks_for_none
from polytape.tape.causes import misuse, names, why_nothing, why_unreached

# Lines that opened a tape which then had a gradient, or of which was told why not: there is no need
# to note what they record. And lines that asked for a gradient and were told.
_settled: set[Line | None] = set()
_told: set[Line | None] = set()


class GradientTape:
    """`tf.GradientTape`, and gradients of several losses in one call. TensorFlow only.

    It takes what TensorFlow's tape takes and gives what that gives: options, methods, values,
    errors, and the moment at which memory is freed. In a program that exists, the name is all that
    changes. On top of that

    * `gradients` takes all losses and all variables at once. It needs no persistent tape, may be
      called inside the `with` block as well as behind it, eagerly or inside `tf.function`, with or
      without XLA, and can be differentiated by a tape around it, of either kind.
    * A `gradient` or `jacobian` that has only None to give warns, once per line of yours, and says
      why; errors say what to write instead.

    A loop that is to run on JAX and PyTorch, too, uses `pt.gradients`.

    Args:
        persistent: whether it may be asked more than once; memory is then kept until it is deleted
        watch_accessed_variables: whether variables that train are followed without `watch`

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

    def __init__(self, persistent: bool = False, watch_accessed_variables: bool = True) -> None:
        tape = engine().tape(persistent, watch_accessed_variables)
        if tape is None:
            raise RuntimeError(_ELSEWHERE.format(keras.backend.backend()))
        self._tape: Tape = tape
        self._persistent = persistent
        self._opened: Line | None = None
        self._new = self._adds = False
        self._rows: list[_Row] = []
        self._used: tuple[str, Line | None] | None = None

    def __enter__(self) -> "GradientTape":
        frame = sys._getframe(1)
        self._opened = line_of(frame)
        self._new = self._opened not in _settled
        self._adds = self._new and not looks_for_none(frame.f_code)
        self._tape.open(asked_by(frame.f_code)._replace(causes=self._new))
        return self

    def __exit__(self, *exception: Any) -> None:
        self._tape.close()

    # --------------------------------------------------------------- as in TensorFlow

    def watch(self, tensor: Any) -> None:
        """Follow tensors from here on, so that gradients by them can be taken.

        Variables that train are followed by themselves; this is for tensors that are not computed
        from any, and for `watch_accessed_variables=False`.

        Args:
            tensor: a floating-point tensor or variable, or a nest of them; variables of Keras, too

        Raises:
            AttributeError: Before the `with` block, and when the tape is used up.
            ValueError: If it is no tensor.
        """
        try:
            self._tape.watch(tensor)
        except (AttributeError, ValueError) as error:
            raise type(error)(f"{str(error).rstrip('.')}. {self._why_unwatched()}") from error

    def stop_recording(self) -> AbstractContextManager[None]:
        """Record nothing within a `with` block of its own, inside that of the tape.

        Returns:
            What `with` takes.
        """
        return self._tape.stop_recording()

    def reset(self) -> None:
        """Forget what was recorded, and go on recording."""
        self._tape.reset()

    def watched_variables(self) -> Sequence[Any]:
        """The variables that the tape has followed, in the order in which they were met.

        Returns:
            Variables of TensorFlow.
        """
        return self._tape.read()

    def gradient(
        self,
        target: Any,
        sources: Any,
        output_gradients: Any = None,
        unconnected_gradients: Any = "none",
    ) -> Any:
        """The gradient of one target, or of the sum of several, by the sources.

        Warns, once per line of the user's code, if there is none by any source, and says why.

        Args:
            target: a tensor, or a nest of tensors, whose gradients are added up
            sources: a variable or watched tensor, or a nest of them
            output_gradients: for each target what its gradient is multiplied with; None: ones
            unconnected_gradients: "none" or "zero": what a source gets that no path leads to

        Returns:
            Gradients in the nest of the sources: tensors, `tf.IndexedSlices` where they are sparse,
            None where no path leads.

        Raises:
            RuntimeError: If the tape is used up or was never used.
        """
        return self._single(
            "gradient",
            target,
            sources,
            lambda tape: tape.gradient(target, sources, output_gradients, unconnected_gradients),
        )

    def jacobian(
        self,
        target: Tensor,
        sources: Any,
        unconnected_gradients: Any = "none",
        parallel_iterations: int | None = None,
        experimental_use_pfor: bool = True,
    ) -> Any:
        """The derivative of every entry of the target by every entry of the sources.

        Args:
            target: a tensor
            sources: a variable or watched tensor, or a nest of them
            unconnected_gradients: as of `gradient`
            parallel_iterations: how many entries are differentiated at once; saves memory
            experimental_use_pfor: whether to vectorise, which not every operation can be

        Returns:
            In the nest of the sources, each of shape `target.shape + source.shape`.

        Raises:
            RuntimeError: If the tape is used up or was never used, or would have to be persistent.
        """
        return self._single(
            "jacobian",
            target,
            sources,
            lambda tape: tape.jacobian(
                target,
                sources,
                unconnected_gradients,
                parallel_iterations,
                experimental_use_pfor,
            ),
        )

    def batch_jacobian(
        self,
        target: Tensor,
        source: Any,
        unconnected_gradients: Any = "none",
        parallel_iterations: int | None = None,
        experimental_use_pfor: bool = True,
    ) -> Any:
        """The Jacobian of every example of a batch, whose examples know nothing of each other.

        Args:
            target: (b, ...), of which each entry depends on the source's entry of its own only
            source: (b, ...)
            unconnected_gradients: as of `gradient`
            parallel_iterations: as of `jacobian`
            experimental_use_pfor: as of `jacobian`

        Returns:
            (b, ..., ...): the shape of the target, then that of one example of the source.

        Raises:
            RuntimeError: If the tape is used up or was never used, or would have to be persistent.
            ValueError: If target and source are batches of unequal size.
        """
        return self._single(
            "batch_jacobian",
            target,
            source,
            lambda tape: tape.batch_jacobian(
                target, source, unconnected_gradients, parallel_iterations, experimental_use_pfor
            ),
        )

    def _single(
        self, name: str, target: Any, sources: Any, differentiate: Callable[[Any], Any]
    ) -> Any:
        """What a method of TensorFlow's tape gives, and words where it has none to give."""
        return self._tape.plainly(
            lambda: self._single_plainly(name, target, sources, differentiate)
        )

    def _single_plainly(
        self, name: str, target: Any, sources: Any, differentiate: Callable[[Any], Any]
    ) -> Any:
        tape, line = self._tape, self._tape.line()
        try:
            with tape.single() as own:
                found = differentiate(own)
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            words = self._why_refused(name, target, sources)
            if type(error) not in _PLAIN or not words:
                raise
            raise type(error)(f"{str(error).rstrip('.')}. {words}") from error
        self._used = name, line
        if all(leaf is None for leaf in tape.leaves(found)) and line not in _told:
            _told.add(line)
            with tape.aside():
                self._tell(name, line, tape.leaves(target), tape.leaves(sources))
        elif name == "gradient" and self._adds and self._persistent:
            self._compare(line, tape.leaves(target), tape.leaves(sources), tape.leaves(found))
        _settled.add(self._opened)
        return found

    def _compare(
        self, line: Line | None, targets: Sequence[Any], sources: Sequence[Any], found: list[Any]
    ) -> None:
        """Warn of gradients that cannot be added to those of another loss."""
        row = _Row(line, targets, sources, found)
        for other in self._rows:
            apart = [sources[place] for place in row.apart_from(other)]
            if apart and line not in _told:
                _told.add(line)
                at = " and ".join(str(each) for each in (other.line, line) if each)
                _warn(_NOT_ADDED.format(names(self._tape, apart), at), line)
        self._rows.append(row)

    def _tell(
        self, name: str, line: Line | None, targets: Sequence[Any], sources: Sequence[Any]
    ) -> None:
        """Warn that there is no gradient at all."""
        what = f"by any of its {len(sources)} sources ({names(self._tape, sources)})"
        text = (
            f"tape.{name} has no gradient {what if sources else 'to give'}: "
            f"{why_nothing(self._tape, targets, sources)}{f' At {line}' if line else ''}"
        )
        _warn(text, line)

    # ------------------------------------------------------------------ several losses

    def gradients(
        self,
        losses: Mapping[str, Any] | Sequence[Any],
        sources: Any,
        scale: Callable[[Tensor], Tensor] | Tensor | float | None = None,
    ) -> Gradients:
        """The gradient of every loss by every source; of a tape that is not persistent, once.

        It must be called in the function that opens the tape, if that asks another tape for
        `gradient`; or the tape be persistent.

        Args:
            losses: {objective name: scalar loss}, or a list of losses, named "0", "1", ...
            sources: variables of Keras or TensorFlow, or watched tensors, each once; or any other
                form of `pt.gradients`
            scale: under loss scaling `optimizer.scale_loss`, as of `pt.gradients`

        Returns:
            Gradients with `losses`, `norms`, `cosines`, `gramian`, `grads["name"]` (a list over
            sources, None where no path exists) and `combine`.

        Raises:
            RuntimeError: If the tape is used up or was never used, and where several replicas share
                the variables.
            TypeError: If the losses are no dict or list of tensors.
            ValueError: If one is not a scalar or reaches no source, if there are no sources, or if
                one is given twice.
        """
        return self._tape.plainly(lambda: self._gradients(losses, sources, scale))

    def _gradients(
        self,
        losses: Mapping[str, Any] | Sequence[Any],
        sources: Any,
        scale: Callable[[Tensor], Tensor] | Tensor | float | None,
    ) -> Gradients:
        check_distribution("tape.gradients")
        tape = self._tape
        if not tape.several():
            raise RuntimeError(_MADE_FOR_ONE if tape.recorded else self._why_spent("gradients"))
        if ops.is_tensor(losses):
            raise TypeError(
                "tape.gradients takes all losses at once, in a dict or list. Received: one tensor. "
                'Write tape.gradients({"loss": loss}, variables).'
            )
        named = Losses.of(losses, "tape.gradients takes")
        known = Variables.of("tape.gradients", sources)
        factor = factor_of("tape.gradients", scale)
        recording = over_replicas(
            tape.recording(named.groups, known.variables),
            lambda: known.told("tape.gradients", named.names),
        )
        found = collected(recording, named.names, known, factor)
        _check_reach(tape, found.connectivity, known, named)
        self._used = "gradients", tape.line()
        _settled.add(self._opened)
        tape.spend()
        return found

    # --------------------------------------------------------------------- explanation

    def explain(self, losses: Any, sources: Any) -> Explanation:
        """Why the losses train the sources, or do not: what `pt.explain` tells, of this record.

        Call it before `gradient` or `gradients` or behind them, as often as you like: it uses
        nothing up. A function that calls it makes the tapes that it opens keep all that they
        record, which costs time and memory: remove it when you know.

        Args:
            losses: {objective name: scalar loss}, a list of losses, or one loss
            sources: variables or watched tensors, in any form that `pt.gradients` takes

        Returns:
            An `Explanation`; print it, or read `.findings`.

        Raises:
            RuntimeError: If the record is gone, and inside a compiled function.
            TypeError: If the losses are no tensors.
            ValueError: If one is not a scalar, or there are no sources.

        Example:
            >>> import keras, polytape as pt
            >>> from keras import ops
            >>> w = keras.Variable([1.0, 2.0], name="w")
            >>> with pt.GradientTape() as tape:
            ...     losses = {"a": w[0] ** 2, "b": ops.sum(ops.round(w))}
            >>> found = tape.explain(losses, [w])
            >>> [(finding.objective, finding.kind, finding.operation) for finding in found.findings]
            [('b', 'cut', 'round')]
        """
        return self._tape.plainly(lambda: self._explanation(losses, sources))

    def _explanation(self, losses: Any, sources: Any) -> Explanation:
        named = Losses.of(
            {"loss": losses} if ops.is_tensor(losses) else losses, "tape.explain takes"
        )
        known = Variables.of("tape.explain", sources)
        tape = self._tape
        if self._opened is None and not tape.recorded:
            raise RuntimeError(self._why_spent("explain"))
        if not tape.remembers():
            raise RuntimeError(
                "The record is gone, or was made for one gradient. Call tape.explain in the "
                "function that opens the tape, or open pt.GradientTape(persistent=True)."
            )
        if not engine().has_value(named.whole[0]):
            raise RuntimeError(
                "tape.explain reads values, which there are none of while tf.function traces. Call "
                "the step eagerly: tf.config.run_functions_eagerly(True)."
            )
        with tape.aside():
            recording = tape.recording(named.groups, known.variables)
            groups = [*zip(*recording.groups.values(), strict=True)]
            rows = [
                recording.vjp(dict.fromkeys(places, 1.0 / len(places)), range(len(known.paths)))
                for places in groups
            ]
            targets = [recording.scalars[places[0]] for places in groups]
            values = [float(ops.convert_to_numpy(loss)) for loss in named.whole]
            trace = tape.trace(targets, known.variables)
            return explained(named.names, values, rows, known, trace)

    # --------------------------------------------------------------------------- words

    def _why_refused(self, name: str, target: Any, sources: Any) -> str:
        if not self._tape.recorded:
            return self._why_spent(name)
        return misuse(self._tape.leaves(target), self._tape.leaves(sources))

    def _why_spent(self, name: str) -> str:
        if self._used is None:
            return (
                "This tape has recorded nothing. Call the networks and compute the losses inside "
                "`with pt.GradientTape() as tape:`."
            )
        before, line = self._used
        return (
            f"This tape is used up: `{before}`{f', at {line},' if line else ''} has freed what it "
            "recorded. Differentiate all losses in one call, "
            'tape.gradients({"a": loss_a, "b": loss_b}, variables), with the variables of all '
            "networks, and open a new tape for the next step; or make the tape persistent, "
            f"pt.GradientTape(persistent=True), for any number of calls of `{name}`."
        )

    def _why_unwatched(self) -> str:
        if not self._tape.recorded:
            return (
                "tape.watch(x) follows x from then on: call it inside the `with` block, before x "
                "is used."
            )
        return (
            "tape.watch takes floating-point tensors and variables. Convert it with "
            "tf.convert_to_tensor(x, tf.float32) and compute with the result."
        )


class _Row:
    """Which sources had a gradient of one target, and which had None."""

    def __init__(
        self,
        line: Line | None,
        targets: Sequence[Any],
        sources: Sequence[Any],
        found: Sequence[Any],
    ) -> None:
        self.line = line
        self._targets, self._sources = [*map(id, targets)], [*map(id, sources)]
        self._there = [gradient is not None for gradient in found]

    def apart_from(self, other: "_Row") -> list[int]:
        """The places of sources that have a gradient of only one of two targets."""
        if self._sources != other._sources or self._targets == other._targets:
            return []
        pairs = zip(self._there, other._there, strict=True)
        return [place for place, (one, another) in enumerate(pairs) if one != another]


def _warn(text: str, line: Line | None) -> None:
    warnings.warn_explicit(text, UserWarning, *(line or ("<unknown>", 0)))


def _check_reach(
    tape: Tape, connectivity: Connectivity, sources: Variables, losses: Losses
) -> None:
    """Raise if a loss reaches no source, with the likely cause."""
    unreached = np.flatnonzero(~connectivity.reach.any(axis=1))
    if not unreached.size:
        return
    index = int(unreached[0])
    paths = connectivity.paths
    targets = [group[index] for group in losses.groups.values()]
    raise ValueError(
        f"Objective {connectivity.names[index]!r} reaches none of the {len(paths)} sources: "
        f"{', '.join(paths[:4])}{', ...' * (len(paths) > 4)}. "
        f"{why_unreached(tape, targets, sources.variables)}"
    )


_NOT_ADDED = (
    "tape.gradient: of one loss {} have a gradient, of another None, as the losses reach different "
    "variables. None cannot be added to a tensor. "
    'tape.gradients({{"a": loss_a, "b": loss_b}}, variables).combine("sum") adds what is there; so '
    'does unconnected_gradients="zero" in both calls, at {}'
)
_MADE_FOR_ONE = (
    "This tape has recorded for one gradient, just as TensorFlow's does, since the function that "
    "opened it asks tapes for `gradient` or `jacobian` only. Call tape.gradients in that function, "
    "or open pt.GradientTape(persistent=True)."
)
_PLAIN = (AttributeError, RuntimeError, TypeError, ValueError)  # made of a text alone
_ELSEWHERE = """\
pt.GradientTape is for TensorFlow, and Keras runs on {}. The same on every backend:

    def losses():
        ...  # what was inside the `with` block
        return {{"a": loss_a, "b": loss_b}}

    grads = pt.gradients(losses, variables)
    update = combiner(grads)  # combiner = pt.Combiner(method), made once before the loop"""
