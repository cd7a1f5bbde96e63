"""A method on trial: what the laws are stated with."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from polytape.contract import (
    Evidence,
    Fixed,
    Method,
    PerObjective,
    Products,
    Reading,
    Seed,
    evaluate,
)
from polytape.stages.chain import split
from polytape.testing.matrices import Array, Matrix

Compile = Callable[[Callable[..., Any]], Callable[..., Any]]


class Update(NamedTuple):
    """What a method answered: weights (T,), direction (n,) float64, size sum_t |w_t| |g_t|."""

    weights: Array
    direction: Array
    size: float

    @property
    def relative(self) -> Array:
        """The direction in units of its size: the same for all updates along one ray."""
        return self.direction / (self.size or 1.0)


class Answer(NamedTuple):
    """What a method answered in one step.

    rows  (..., T, n): what the weights (..., T) belong to, usually the rows asked about
    offset  (..., n): to be added to the update;  state  the next one
    """

    weights: Array
    rows: Array
    offset: Array
    state: Any


class Trial:
    """A method on trial: asked step by step, as an engine asks it, always with the same seed.

    Args:
        method: to be tried, with its hyper-parameters
        compile: wraps the functions to be run, `jax.jit` for example; None runs them as they are

    Raises:
        TypeError: For a wrapper around a method that must see the rows first.
    """

    def __init__(self, method: Method, compile: Compile | None = None) -> None:
        wrap = compile or (lambda function: function)
        combination = split(method)[1]
        if combination is not None and combination.memory is not None and combination != method:
            inner = type(combination).__name__
            raise TypeError(
                f"A {type(method).__name__} around {inner} cannot be tried without a network, as "
                f"{inner} must see the rows first. Try {inner} alone."
            )
        self.method = method
        self._ask = wrap(self._question)
        self._show = wrap(self._shown)
        self._combine = wrap(lambda rows, seed: method.combine(rows, Seed(seed)))
        self._seed = keras.random.SeedGenerator(11).next()
        self._found: dict[str, Update] = {}

    def _question(self, gramian: Any, losses: Any, active: Any, seed: Any, state: Any) -> Any:
        names = _names(losses.shape[-1])
        step = ops.zeros((), dtype="int32")
        evidence = Evidence(losses, gramian, active, names, step, Seed(seed))
        # Norms are of degree one in the loss, as the traces of samples are.
        readings: dict[str, Reading] = {
            "cross": Products(gramian),
            "traces": PerObjective(evidence.norms, unsigned=True),
            "previous": PerObjective(losses),
        }
        evidence = dataclasses.replace(evidence, readings=readings)
        return evaluate(self.method, evidence, state)

    def _shown(self, rows: Any, losses: Any, active: Any, seed: Any, state: Any) -> Any:
        names = _names(losses.shape[-1])
        step = ops.zeros((), dtype="int32")
        evidence = Evidence(losses, None, active, names, step, Seed(seed))
        inner, memory = state
        seen = self.method.observe(rows, memory, evidence, inner)
        kept = active[..., None]
        taken = ops.where(kept, seen.rows, 0.0)
        memory = {name: ops.where(kept, seen.memory[name], memory[name]) for name in memory}
        gramian = ops.sum(taken[..., :, None, :] * taken[..., None, :, :], axis=-1)
        readings: dict[str, Reading] = {}
        if seen.measures is not None:
            readings["measures"] = Fixed(seen.measures[..., None, :, :])
        evidence = dataclasses.replace(evidence, gramian=gramian, readings=readings)
        weights, inner = evaluate(self.method, evidence, inner)
        offset = ops.zeros_like(rows[..., 0, :]) if seen.offset is None else seen.offset
        return weights, taken, offset, (inner, memory)

    def start(self, shape: tuple[int, ...], width: int | None = None) -> Any:
        """The initial state for weights of this shape, as tensors.

        Args:
            shape: (..., T)
            width: n of the rows to come, for methods with a memory

        Returns:
            A pytree of tensors.

        Raises:
            TypeError: For a method with a memory, without a `width`.
        """
        state = self.method.init(_names(shape[-1]), shape[:-1])
        if self.method.memory is not None:
            if width is None:
                raise TypeError("A method with a memory needs the `width` of its rows to start.")
            state = state, {n: np.zeros((*shape, width), "float32") for n in self.method.memory}
        return keras.tree.map_structure(ops.convert_to_tensor, state)

    def step(self, rows: Array, losses: Array, active: Array, state: Any) -> tuple[Array, Any]:
        """Weights and next state for rows (..., T, n).

        Args:
            rows: (..., T, n)
            losses: (..., T)
            active: (..., T) bool
            state: of `start` or of the last step

        Returns:
            Weights (..., T), and the next state.
        """
        weights, _, _, state = self.answer(rows, losses, active, state)
        return weights, state

    def answer(self, rows: Array, losses: Array, active: Array, state: Any) -> Answer:
        """Weights for rows (..., T, n), what they weigh, and the next state.

        Args:
            rows: (..., T, n)
            losses: (..., T)
            active: (..., T) bool
            state: of `start` or of the last step

        Returns:
            An `Answer`: weights, the rows that they weigh, an offset and the next state.
        """
        given = [ops.convert_to_tensor(np.float32(losses)), ops.convert_to_tensor(active)]
        offset = np.zeros_like(rows[..., 0, :])
        if self.method.memory is None:
            gramian = np.einsum("...in,...jn->...ij", rows, rows)
            products = ops.convert_to_tensor(np.float32(gramian))
            weights, state = self._ask(products, *given, self._seed, state)
        else:
            shown = ops.convert_to_tensor(np.float32(rows))
            weights, *seen, state = self._show(shown, *given, self._seed, state)
            rows, offset = (ops.convert_to_numpy(value).astype("float64") for value in seen)
        return Answer(ops.convert_to_numpy(weights), rows, offset, state)

    def update(self, rows: Array, losses: Array, active: Array | None = None) -> Update:
        """The first update for rows (T, n); inactive rows are taken out of rows and losses.

        Args:
            rows: (T, n)
            losses: (T,)
            active: (T,) bool; None: all

        Returns:
            An `Update`: weights, direction and size.
        """
        active = np.ones(len(rows), bool) if active is None else active
        rows, losses = rows * active[:, None], losses * active
        start = self.start(losses.shape, rows.shape[-1])
        weights, seen, offset, _ = self.answer(rows, losses, active, start)
        found = self.along(seen, weights)
        return found._replace(direction=found.direction + offset)

    def third(self, matrix: Matrix, factors: Array) -> Update:
        """The update of the third step, rows and losses being multiplied by (T,) in all of them.

        The losses fall, each at its own speed, and so do the rows.

        Args:
            matrix: rows and losses to begin with
            factors: (T,) numbers above 0

        Returns:
            An `Update`: weights, direction and size.
        """
        count, width = matrix.rows.shape
        fall = np.linspace(0.9, 0.6, count)
        now, active = self.start((count,), width), np.ones(count, bool)
        for step in range(3):
            factor = factors * fall**step
            rows, losses = matrix.rows * factor[:, None], matrix.losses * factor
            weights, seen, offset, now = self.answer(rows, losses, active, now)
        found = self.along(seen, weights)
        return found._replace(direction=found.direction + offset)

    def along(self, rows: Array, weights: Array) -> Update:
        """The update that weights mean for rows.

        Args:
            rows: (T, n)
            weights: (T,)

        Returns:
            An `Update`: weights, direction and size.
        """
        with np.errstate(invalid="ignore"):  # what is not finite is reported as such
            weighted = rows * weights.astype("float64")[:, None]
        direction = weighted.sum(0)
        if self.method.needs == "rows":
            combined = self._combine(ops.convert_to_tensor(np.float32(weighted)), self._seed)
            direction = np.float64(ops.convert_to_numpy(combined))
        return Update(weights, direction, float(np.linalg.norm(weighted, axis=1).sum()))

    def on(self, matrix: Matrix) -> Update:
        """The update for a matrix, worked out once.

        Args:
            matrix: rows and losses

        Returns:
            An `Update`: weights, direction and size.

        Raises:
            RuntimeError: If the method raises on it; names the matrix.
        """
        if matrix.name not in self._found:
            try:
                self._found[matrix.name] = self.update(matrix.rows, matrix.losses)
            except Exception as error:
                raise RuntimeError(f"{matrix.name}: {type(error).__name__}: {error}") from error
        return self._found[matrix.name]


def _names(count: int) -> tuple[str, ...]:
    return tuple(f"objective_{index}" for index in range(count))


def differ(
    matrix: Matrix, one: Update, other: Update, parallel: bool = False, unit: bool = False
) -> Iterator[str]:
    """What is wrong if two updates should be equal, or parallel, or of the same direction."""
    first, second = one.direction, other.direction
    allowed = matrix.tolerance * max(one.size, other.size)
    if unit:
        first, second = (value / (np.linalg.norm(value) or 1.0) for value in (first, second))
        allowed = matrix.tolerance
    elif parallel:
        first, second, allowed = one.relative, other.relative, matrix.tolerance
    apart = np.linalg.norm(first - second)
    if not apart <= allowed:
        kind = "not parallel" if parallel or unit else "not equal"
        yield (
            f"{matrix.name}: updates {kind}, apart by {apart:.2e} where {allowed:.2e} is allowed; "
            f"weights {one.weights} and {other.weights}"
        )
