"""A method at work on given objectives and variables: its state, its compiled T x T part."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from polytape.connectivity import Blocks
from polytape.contract import Evidence, Method, Seed, State, Tensor, ask
from polytape.engines import engine
from polytape.jacobian import Gradients
from polytape.memory import Sight, empty_memory, finite, matrices, observe
from polytape.stages.chain import split
from polytape.state import StateVariables

PRIVATE = ("own", "weighted", "joint")


class Settlement:
    """A method made ready for T objectives over V variables, with its state.

    The method is split in two: a scalarization, whose weights multiply the losses and so reach
    every variable, and a combination, whose weights act on shared variables only.

    add_weight  creates the state variables: the `add_weight` of the layer or model that owns them
    """

    def __init__(
        self,
        method: Method,
        names: Sequence[str],
        paths: Sequence[str],
        add_weight: Callable[..., Any],
        private: str = "own",
        seed: int = 0,
        saved: Sequence[Any] | None = None,
        sizes: Sequence[int] = (),
    ) -> None:
        """saved  leaves of a state to go on from; None starts afresh

        sizes  of the variables, for methods with a memory
        """
        self.method, self.names, self.paths = method, tuple(names), tuple(paths)
        self.scalarization, self.combination = split(method)
        chosen = self.combination or method
        self.observer = None if chosen.memory is None else chosen
        self.alternates = chosen.alternates
        self.private = "joint" if self.alternates else private
        self.blocks = Blocks.by(method.scope, paths)
        lead, rest = self.scalarization, self.combination
        initial = {
            "scalarization": lead.init(self.names) if lead else (),
            "combination": rest.init(self.names, self.blocks.shape) if rest else (),
        }
        if self.observer is not None:
            initial["memory"] = empty_memory(self.observer, len(self.names), sizes)
        if saved is not None:
            initial = keras.tree.pack_sequence_as(initial, list(saved))
        self.state = StateVariables(initial, add_weight)
        self.reach: np.ndarray | None = None  # what the gradients of an earlier step reached
        self.checked = False  # whether every objective was seen to reach a variable
        self._seed = seed
        self._compiled: dict[Any, Callable[..., Any]] = {}

    @property
    def linear(self) -> bool:
        """Whether no weight depends on gradients: one backward pass is enough."""
        return self.combination is None

    @property
    def period(self) -> int:
        """One step out of this many needs every objective's gradient."""
        return 1 if self.combination is None else self.combination.period

    def seed(self, step: Tensor) -> Seed:
        """The seed of a step: the same after a resume, another one in every step."""
        return draw(self._seed, step)

    def weigh(
        self,
        losses: Tensor,
        gramian: Tensor | None,
        active: Tensor,
        step: Tensor,
        reach: Any = None,
        measures: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, State]:
        """Shared weights (T,) or (B, T), private weights (T,), and the next state.

        losses, active (T,); gramian (T, T), (B, T, T) or None; reach (B, T) NumPy or None;
        measures (V, T, k) or None.
        """
        key = (gramian is None, None if reach is None else reach.tobytes(), measures is None)
        if key not in self._compiled:
            body = self._body(gramian is not None, reach)
            # A scalarization is a handful of operations: not worth a kernel of its own.
            self._compiled[key] = body if self.linear else engine().island(body)
        tensors = [losses, active, step]
        tensors += [found for found in (gramian, measures) if found is not None]
        state = self.state.read()
        memory = {"memory": state.pop("memory")} if "memory" in state else {}
        shared, private, leaves = self._compiled[key](tensors, keras.tree.flatten(state))
        return shared, private, {**keras.tree.pack_sequence_as(state, list(leaves)), **memory}

    def settle(
        self, gradients: Gradients, active: Tensor, step: Tensor
    ) -> tuple[list[Tensor | None], Tensor, Tensor, State]:
        """Update directions, shared weights, which objectives took part (T,), and the next state.

        active  (T,) bool: objectives that have a label this step
        """
        sight = None if self.observer is None else self._observe(gradients, active, step)
        if sight is not None:
            gradients, active = sight.gradients, sight.active
        blocks, connectivity = self.blocks, gradients.connectivity
        gramian = None if self.linear else gradients.gramians(blocks)
        active = ops.logical_and(active, gradients.finite(gramian))
        if gramian is not None:
            both = ops.logical_and(active[:, None], active[None, :])
            gramian = ops.where(both, gramian, 0.0)
        losses = ops.stack([ops.cast(loss, "float32") for loss in gradients.losses.values()])
        losses = ops.where(active, losses, 0.0)
        shared, private, state = self.weigh(
            losses,
            gramian,
            active,
            step,
            blocks.reach(connectivity),
            None if sight is None else sight.measures,
        )
        own: Tensor | None = private
        if self.private == "weighted" and not blocks.shape:
            own = shared if sight is None else shared * private
        elif self.scalarization is None:
            own = None
        method = self.combination or self.method
        directions = gradients.combined(
            shared, own, active, blocks, method, self.seed(step).shifted(2)
        )
        if sight is not None:
            directions = sight.moved(directions)
            state["memory"] = sight.kept(active)
        return directions, shared, active, state

    def _observe(self, gradients: Gradients, active: Tensor, step: Tensor) -> Sight:
        """Let a method with a memory see its rows, weighted as the losses are."""
        rows = matrices(gradients)
        active = ops.logical_and(active, finite(gradients, rows))
        losses = ops.stack([ops.cast(loss, "float32") for loss in gradients.losses.values()])
        losses = ops.where(active, losses, 0.0)
        evidence = Evidence(losses, None, active, self.names, step, self.seed(step))
        state = self.state.read()
        if self.scalarization is not None:
            weights, _ = ask(self.scalarization, evidence, state["scalarization"])
            evidence = evidence.scaled(weights)
            rows = {v: weights[:, None] * matrix for v, matrix in rows.items()}
        memory, inner = state["memory"], state["combination"]
        return observe(self.observer, gradients, rows, evidence.reseeded(1), memory, inner)

    def _body(self, with_gramian: bool, reach: Any) -> Callable[..., Any]:
        template = self.state.read()
        template.pop("memory", None)

        def body(tensors: list[Tensor], leaves: list[Tensor]) -> Any:
            losses, active, step = tensors[:3]
            evidence = Evidence(
                losses=losses,
                gramian=tensors[3] if with_gramian else None,
                active=active,
                names=self.names,
                step=step,
                seed=self.seed(step),
                measures=tensors[4] if len(tensors) > 4 else None,
                reach=reach,
            )
            state = keras.tree.pack_sequence_as(template, list(leaves))
            shared, private, state = self._ask(evidence, state)
            return shared, private, keras.tree.flatten(state)

        return body

    def _ask(self, evidence: Evidence, state: State) -> tuple[Tensor, Tensor, State]:
        private = ops.cast(evidence.active, "float32")
        lead, rest = state["scalarization"], state["combination"]
        if self.scalarization is not None:
            private, lead = ask(self.scalarization, evidence, lead)
        shared = private
        if self.combination is not None:
            weighted = evidence.scaled(private)
            if self.observer is not None:  # it has seen weighted rows already
                weighted = dataclasses.replace(weighted, gramian=evidence.gramian)
            weights, rest = ask(self.combination, weighted.reseeded(1), rest)
            shared = weights if self.observer is not None else private * weights
        return shared, private, {"scalarization": lead, "combination": rest}


def check_private(private: str) -> str:
    """The option itself, or an error that lists the choices."""
    if private not in PRIVATE:
        raise ValueError(
            f"`private` says what variables reached by one objective take: one of {PRIVATE}. "
            f"Received: {private!r}."
        )
    return private


def draw(seed: int, step: Tensor) -> Seed:
    """The seed of a step under a base seed."""

    def value() -> Tensor:
        # PyTorch's generator reads the first number only, so step and seed both go into it.
        count = ops.cast(step, seed_dtype())
        return ops.stack([count * 40503 + (seed * 7368787) % 2**30, count])

    return Seed(value)


@functools.cache
def seed_dtype() -> str:
    """The integer type of this backend's seeds."""
    return str(keras.random.SeedGenerator(0).state.dtype)
