"""The laws that every method keeps.

Each law is tried on row matrices built to be difficult (`matrices`). A law that a method breaks by
nature is named, with the reason, in its own `exempt`. Beyond the common laws a method may promise
the following in `guarantees`:

non-conflicting  no objective is made worse to first order: J J^T w >= 0, whatever the rows
impartial        the direction does not change if a single loss is multiplied by a positive number
stationary       the update is zero where a positive combination of all rows is zero
permutation      the common law of that name
scale-free       no direction changes if all losses are multiplied by one number in all steps
"""

import json
from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras import ops

from polytape.contract import Method
from polytape.testing.matrices import Array, Matrix, matrices
from polytape.testing.trials import Compile, Trial, differ

Law = Callable[[Trial], Iterator[str]]  # yields what is wrong, beginning with the matrix


def certify(method: Method, compile: Compile | None = None) -> None:
    """Try all laws that a method is not exempt from, and all that it guarantees.

    Args:
        method: to be tried, with its hyper-parameters
        compile: wraps the functions to be run, `jax.jit` for example; None runs them as they are

    Raises:
        AssertionError: If it breaks a law; names the method, the law and the matrix.

    Example:
        >>> import polytape as pt
        >>> certify(pt.Mean())
    """
    trial = Trial(method, compile)
    for law in laws_of(method):
        if law not in method.exempt:
            check(trial, law)


def laws_of(method: Method | type[Method]) -> list[str]:
    """The common laws, exempt or not, and those of its guarantees that say more.

    Args:
        method: or its class

    Returns:
        Names of laws, in the order in which they are tried.
    """
    more = sorted(method.guarantees)
    return [*LAWS, *(law for law in more if GUARANTEES.get(law) not in LAWS.values())]


def check(trial: Trial, law: str) -> None:
    """Try one law, exempt or not.

    Args:
        trial: the method on trial
        law: its name, such as "permutation"

    Raises:
        AssertionError: If the method breaks it; names the method, the law and the matrix.
        ValueError: For a law that does not exist.
    """
    known = LAWS | GUARANTEES
    if law not in known:
        raise ValueError(f"Unknown law: {law!r}. Expected one of: {', '.join(known)}.")
    broken = f"{trial.method!r} breaks the law {law!r}: "
    try:
        wrong = next(known[law](trial), None)
    except Exception as error:
        raise AssertionError(f"{broken}{error}") from error
    if wrong is not None:
        raise AssertionError(f"{broken}{wrong}.")


def finite(trial: Trial) -> Iterator[str]:
    """One finite float32 weight per objective, and a finite update."""
    for matrix in matrices():
        weights, direction, _ = trial.on(matrix)
        if weights.shape != matrix.losses.shape or weights.dtype != np.float32:
            yield f"{matrix.name}: weights {weights.shape} {weights.dtype}, not (T,) float32"
        if not (np.isfinite(weights).all() and np.isfinite(direction).all()):
            yield f"{matrix.name}: not finite, weights {weights}"


def permutation(trial: Trial) -> Iterator[str]:
    """Objectives in another order, the same update."""
    rng = np.random.default_rng(1)
    for matrix in matrices():
        order = np.roll(rng.permutation(len(matrix.rows)), 1)
        again = trial.update(matrix.rows[order], matrix.losses[order])
        yield from differ(matrix, trial.on(matrix), again)


def scale(trial: Trial) -> Iterator[str]:
    """All losses multiplied by 1e-8 or 1e8: the same direction; degree 1: the same weights."""
    for matrix in matrices():
        found = trial.on(matrix)
        room = matrix.name not in ("tiny", "huge")  # in float32
        for factor in (2.0**-27, 2.0**27) if room else ():
            again = trial.update(matrix.rows * factor, matrix.losses * factor)
            if trial.method.native_scale is not None:
                again = trial.along(matrix.rows, again.weights)
                yield from differ(matrix, found, again)
            else:
                yield from differ(matrix, found, again, parallel=True)


def zero_row(trial: Trial) -> Iterator[str]:
    """An active objective of zero gradient changes no direction; nothing on the scale "sum"."""
    matrix, method = _named("zero row"), trial.method
    without = trial.update(matrix.rows, matrix.losses, np.any(matrix.rows != 0, axis=1))
    equal = method.native_scale is not None and getattr(method, "scale", "paper") == "sum"
    yield from differ(matrix, trial.on(matrix), without, parallel=not equal)


def one_objective(trial: Trial) -> Iterator[str]:
    """T = 1: weight one, or just the direction of the gradient if the degree is not 1."""
    matrix = _named("one")
    found, itself = trial.on(matrix), trial.along(matrix.rows, np.ones(1))
    yield from differ(matrix, itself, found, parallel=trial.method.native_scale is None)


def inactive(trial: Trial) -> Iterator[str]:
    """Inactive objectives weigh zero and the others are combined as if they did not exist."""
    for four in _fours():
        two = four._replace(rows=four.rows[[0, 3]], losses=four.losses[[0, 3]])
        for matrix, count in ((two, 4), (four, 64)):
            rows, losses, active = _scattered(matrix, count)
            found = trial.update(rows, losses, active)
            if found.weights[~active].any():
                yield f"{matrix.name}: inactive objectives weigh {found.weights[~active]}"
            alone = trial.update(matrix.rows, matrix.losses)
            yield from differ(matrix, alone, found._replace(weights=found.weights[active]))
    matrix = _named("well conditioned")
    both = np.array([[True, False, True, True], [False, True, False, False]])
    rows, losses = matrix.rows * both[..., None], matrix.losses * both
    answer = trial.answer(rows, losses, both, trial.start(losses.shape, rows.shape[-1]))
    for block in range(2):
        alone = trial.update(matrix.rows, matrix.losses, both[block])
        stacked = trial.along(answer.rows[block], answer.weights[block])
        yield from differ(matrix, alone, stacked)


def batch(trial: Trial) -> Iterator[str]:
    """A stack of Gramians is settled as each of them alone."""
    for first, second in zip(_fours(), reversed(_fours()), strict=True):
        rows = np.stack([first.rows, second.rows])
        losses = np.stack([first.losses, second.losses])
        active = np.ones(losses.shape, bool)
        found = trial.answer(rows, losses, active, trial.start(losses.shape, rows.shape[-1]))
        stacked = trial.along(found.rows[0], found.weights[0])
        yield from differ(first, trial.on(first), stacked)


def state(trial: Trial) -> Iterator[str]:
    """The state keeps its structure, shapes and dtypes, and is finite."""
    matrix = _named("conflicting")
    active = np.ones(4, bool)
    before = now = trial.start(matrix.losses.shape, matrix.rows.shape[-1])
    for step in range(3):
        _, now = trial.step(matrix.rows, matrix.losses / (1 + step), active, now)
        keras.tree.assert_same_structure(before, now)
        pairs = zip(keras.tree.flatten(before), keras.tree.flatten(now), strict=True)
        for old, new in ((ops.convert_to_numpy(a), ops.convert_to_numpy(b)) for a, b in pairs):
            was, became = (f"{value.shape} {value.dtype}" for value in (old, new))
            if was != became:
                yield f"{matrix.name}: state was {was} and became {became}"
            if not np.isfinite(new).all():
                yield f"{matrix.name}: the state became {new}"


def config(trial: Trial) -> Iterator[str]:
    """A method survives Keras serialization and JSON."""
    method = trial.method
    text = json.dumps(keras.saving.serialize_keras_object(method))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    if again != method:
        yield f"(no matrix): {method!r} came back as {again!r}"


def equal_gradients(trial: Trial) -> Iterator[str]:
    """Equal gradients give their sum, or their mean if the scale says so; degree 1 only."""
    method = trial.method
    if method.native_scale is None:
        return
    wanted = getattr(method, "scale", "paper").replace("paper", method.native_scale)
    rows = np.repeat(_named("one").rows, 4, axis=0)
    matrix = Matrix("four equal rows", rows, np.ones(4))
    right = trial.along(rows, np.full(4, 0.25 if wanted == "mean" else 1.0))
    yield from differ(matrix, right, trial.update(rows, matrix.losses))


def non_conflicting(trial: Trial) -> Iterator[str]:
    """No objective is made worse to first order."""
    for matrix in matrices():
        _, direction, size = trial.on(matrix)
        gain = matrix.rows @ direction
        floor = -1e-5 * np.linalg.norm(matrix.rows, axis=1) * size
        if (gain < floor).any():
            yield f"{matrix.name}: J J^T w = {gain}"


def impartial(trial: Trial) -> Iterator[str]:
    """A single loss multiplied by a positive number: the same direction."""
    factors = np.array([1.0, 8.0, 0.125, 2.0])
    one, two = _named("well conditioned"), _named("conflicting")
    for matrix in (one, two, Matrix("agreeing", np.abs(one.rows), one.losses)):
        for each in (factors, factors[::-1]):
            again = trial.update(matrix.rows * each[:, None], matrix.losses * each)
            yield from differ(matrix, trial.on(matrix), again, unit=True)
    yield from _in_the_third_step(trial, factors)


def scale_free(trial: Trial) -> Iterator[str]:
    """All losses multiplied by one number in all steps: the same directions."""
    yield from scale(trial)
    yield from _in_the_third_step(trial, np.full(4, 2.0**12))


def _in_the_third_step(trial: Trial, factors: Array) -> Iterator[str]:
    """Whether the factors turn an update to which the state has come."""
    matrix = _named("conflicting")
    plain, scaled = trial.third(matrix, np.ones(4)), trial.third(matrix, factors)
    named = matrix._replace(name="conflicting, step 3")
    yield from differ(named, plain, scaled, unit=True)


def stationary(trial: Trial) -> Iterator[str]:
    """A positive combination of all rows is zero: so is the update."""
    for matrix in (_named("stationary"), _named("two opposed")):
        rest = np.linalg.norm(trial.on(matrix).relative)
        if rest > matrix.tolerance:
            yield f"{matrix.name}: the update is {rest:.1e} of its parts, expected 0"


LAWS: dict[str, Law] = {
    "finite": finite,
    "permutation": permutation,
    "scale": scale,
    "zero row": zero_row,
    "one objective": one_objective,
    "inactive": inactive,
    "batch": batch,
    "state": state,
    "config": config,
    "equal gradients": equal_gradients,
}
GUARANTEES: dict[str, Law] = {
    "non-conflicting": non_conflicting,
    "impartial": impartial,
    "stationary": stationary,
    "permutation": permutation,
    "scale-free": scale_free,
}


def _named(name: str) -> Matrix:
    return next(matrix for matrix in matrices() if matrix.name == name)


def _fours() -> list[Matrix]:
    return [matrix for matrix in matrices() if len(matrix.rows) == 4]


def _scattered(matrix: Matrix, count: int) -> tuple[Array, Array, Array]:
    """Rows, losses and activity of as many objectives, of which only a matrix's are active."""
    places = np.linspace(0, count - 1, len(matrix.rows)).astype(int)
    rows, losses = np.ones((count, matrix.rows.shape[1])), np.ones(count)
    active = np.zeros(count, bool)
    rows[places], losses[places], active[places] = matrix.rows, matrix.losses, True
    return rows, losses, active
