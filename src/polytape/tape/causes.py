"""Why a tape has no gradient to give: what was done to it, and where the path ended, in words."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from polytape.engines import Tape, engine
from polytape.explanation.causes import Cause, Causes

# ------------------------------------------------------------------ calls that cannot be answered


def misuse(targets: Sequence[Any], sources: Sequence[Any]) -> str:
    """What to write instead of a call that TensorFlow has refused; "" if nobody knows."""
    for name, leaves in (("target", targets), ("source", sources)):
        for leaf in leaves:
            if leaf is None or not ops.is_tensor(leaf):
                return _no_tensor(name, leaf)
    return ""


def _no_tensor(name: str, leaf: Any) -> str:
    if isinstance(leaf, keras.Variable):
        return ""
    if isinstance(leaf, keras.layers.Layer):
        return f"The {name} is {leaf.name!r}, a layer or model: give its trainable_variables."
    kind = "None" if leaf is None else f"of type {type(leaf).__name__}"
    if name == "source":
        return f"A source is {kind}: give the variable or the watched tensor itself."
    ended = isinstance(leaf, (np.ndarray, np.generic, float, int))
    how = " NumPy, float() and .numpy() end the record: keep the loss a tensor." if ended else ""
    return f"A target is {kind}, and no tensor.{how}"


# ------------------------------------------------------------------- gradients that are all None


def why_nothing(tape: Tape, targets: Sequence[Any], sources: Sequence[Any]) -> str:
    """Why no source has a gradient."""
    if not sources:
        return (
            "There are no sources. A model that was never called has no variables yet, and one "
            "that is frozen has none that train: call it before you ask for trainable_variables."
        )
    resting = [source for source in sources if not tape.differentiable(source)]
    if len(resting) == len(sources):
        return f"Of sources of type {_type(resting[0])} there is no gradient: use a float type."
    if not targets:
        return "There is no target."
    frozen = [source for source in sources if not _trains(source)]
    if len(frozen) == len(sources) and not any(map(tape.has_read, sources)):
        return (
            "All sources are frozen (trainable=False), and the tape follows only variables that "
            "train. Set trainable=True, or call tape.watch(variable) inside the `with` block, "
            "before it is used."
        )
    return why_unreached(tape, targets, sources)


def why_unreached(tape: Tape, targets: Sequence[Any], sources: Sequence[Any]) -> str:
    """Why no recorded path leads from any source to the targets."""
    trace = tape.trace(targets, sources)
    if trace is None:
        return _otherwise(tape, targets, sources)
    causes = Causes(trace)
    reached = causes.flow.upstream([trace.scalars[0]], differentiable=True)
    others = [path for number, path in trace.others.items() if number in reached]
    if all(map(partial(_unknown, tape, causes), sources, trace.sources)):
        late = "" if tape.finished(targets[0]) else f" {_BEHIND}"
        return f"{_UNWATCHED}{late}"
    if not tape.read() and all(map(tape.is_variable, sources)):
        return _NOTHING_READ if tape.accessed else _NOT_ACCESSED
    cuts = causes.missing(0, range(len(sources)))
    if cuts and cuts[0].kind == "cut" and cuts[0].operation:
        return " ".join(map(_said, cuts))
    if not tape.finished(targets[0]):
        return _BEHIND
    if others and any(map(tape.has_read, sources)):
        read = sum(map(tape.has_read, sources))
        return _BROKEN.format(read, _listed(others)) + _end(cuts)
    if others:
        return _OTHERS.format(_listed(others))
    return _NO_PATH + _end(cuts)


def _unknown(tape: Tape, causes: Causes, source: Any, number: int) -> bool:
    """Whether a source is a tensor that the tape was not told of, and that no variable made."""
    if tape.is_variable(source) or tape.was_told(source):
        return False
    trained = {*causes.trace.others, *causes.trace.sources} - {number}
    return not causes.flow.upstream([number]) & trained


def _said(cause: Cause) -> str:
    where = [f"in layer {cause.place.layer!r}"] if cause.place.layer else []
    where += [f"at {cause.place.line}"] if cause.place.line else []
    text = ", ".join([f"{cause.text[0].upper()}{cause.text[1:]}", *where])
    return f"{text}. {cause.remedy}".strip()


def _end(causes: Sequence[Cause]) -> str:
    """Where what is made of the sources leads nowhere."""
    lines = [cause.place.line for cause in causes if cause.operation and cause.place.line]
    return (
        f" The last that was made of them is {causes[0].operation}, at {lines[0]}." if lines else ""
    )


def _otherwise(tape: Tape, targets: Sequence[Any], sources: Sequence[Any]) -> str:
    """Without a trace, as after steps that were sound."""
    if not any(tape.differentiable(target) for target in targets):
        return (
            f"The target is {_type(targets[0])}: it comes out of argmax, a comparison, rounding or "
            "a cast, which have no gradient. Compute the loss from the values before that."
        )
    if not any(map(tape.is_variable, sources)) and not any(map(tape.was_told, sources)):
        return _UNWATCHED
    if not tape.read() and all(map(tape.is_variable, sources)):
        return _NOTHING_READ if tape.accessed else _NOT_ACCESSED
    if not tape.finished(targets[0]):
        return _BEHIND
    return f"{_NO_PATH} tape.explain(loss, sources), called in this function, says where."


def names(tape: Tape, sources: Sequence[Any]) -> str:
    """The first sources, by the paths that the user knows them by."""
    shown = sources[:4]
    bare = [s for s in shown if tape.is_variable(s) and not isinstance(s, keras.Variable)]
    known = dict(zip(map(id, bare), tape.paths(bare), strict=True))
    found = [
        source.path
        if isinstance(source, keras.Variable)
        else known.get(id(source), f"a tensor of {tuple(source.shape)}")
        for source in shown
    ]
    return f"{', '.join(found)}{', ...' * (len(sources) > 4)}"


def _listed(paths: Sequence[str]) -> str:
    return f"{', '.join(paths[:4])}{', ...' * (len(paths) > 4)}"


def _trains(source: Any) -> bool:
    return (
        source.trainable
        if isinstance(source, keras.Variable)
        else engine().trains(source) is not False
    )


def _type(tensor: Any) -> str:
    return keras.backend.standardize_dtype(tensor.dtype)


_NOTHING_READ = (
    "No variable was read inside the `with` block: the prediction was computed outside the tape. "
    "Call the network inside the block."
)
_NOT_ACCESSED = (
    "The tape was made with watch_accessed_variables=False and was told to watch no variable: "
    "call tape.watch(variables) inside the `with` block, before they are used. A model that was "
    "never called has none yet."
)
_UNWATCHED = (
    "A tensor that is not computed from variables is followed only if the tape is told to: call "
    "tape.watch(x) inside the `with` block, before x is used."
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
    "The loss itself was finished behind the `with` block: what is computed there, such as a mean, "
    "a sum or a weight, is not recorded. Finish the losses inside the block, and ask for gradients "
    "behind it."
)
_NO_PATH = (
    "It has no recorded path to any variable, though some were read inside the `with` block: its "
    "prediction was computed outside the tape, or the path goes through stop_gradient, argmax, a "
    "comparison, a cast to integers or NumPy. A tensor that is not computed from variables must be "
    "watched before it is used."
)
