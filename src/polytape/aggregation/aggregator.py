"""A method at work on given objectives and variables: its state, its compiled T x T part."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from polytape.aggregation.memory import RowObserver, empty_memory
from polytape.aggregation.naming import names_of
from polytape.aggregation.saved import Found, fitting
from polytape.aggregation.seeds import base_of, draw, seed_dtype
from polytape.aggregation.state import Path, StateVariables, leaves, rebuilt
from polytape.aggregation.weights import Compiled, Weights, compiled, no_look
from polytape.contract import Look, Method, Seed, State, Tensor, in_float32, iter_methods
from polytape.differentiation.connectivity import Blocks
from polytape.differentiation.jacobian import Jacobian
from polytape.engines import engine
from polytape.linalg.compressed import compressed_rows, dependent, mixing
from polytape.stages.chain import split
from polytape.stages.scopes import PerNetwork

PRIVATE = ("own", "weighted", "joint")


class LoopUpdate(NamedTuple):
    """An update and what goes with it.

    directions  by variable, None where nothing reaches it;  active  (T,) bool: what is in them
    state       of the method, for the next step;  accept  () bool: whether it moves on
    """

    directions: list[Tensor | None]
    active: Tensor
    state: State
    accept: Tensor


class Aggregator:
    """A method made ready for T objectives over V variables, with its state.

    The method is split in two: a scalarization, whose weights multiply the losses and so reach
    every variable, and a combination, whose weights act on shared variables only.

    make  creates the variables of its state: `keras.Variable`, or what takes the same arguments
    """

    def __init__(
        self,
        method: Method,
        names: Sequence[str],
        paths: Sequence[str],
        make: Callable[..., Any],
        private: str = "own",
        seed: int | Seed = 0,
        saved: Found | None = None,
        sizes: Sequence[int] = (),
        networks: Sequence[str] | None = None,
        label: Path = ("method",),
    ) -> None:
        """seed  to be mixed with the step, or that of every step

        saved     the arrays of a state to go on from; None starts afresh
        sizes     of the variables, for methods with a memory
        networks  the network of each variable; None takes the first part of its path
        label     what the paths of state variables begin with
        """
        self.method, self.names, self.paths = method, tuple(names), tuple(paths)
        self.scalarization, self.combination = split(method)
        chosen = self.combination or method
        self.observer = None if chosen.memory is None else RowObserver(chosen, self.scalarization)
        self.alternates = chosen.alternates
        self.private = "joint" if self.alternates else private
        self.blocks = Blocks.by(method.scope, paths, networks)
        for part in iter_methods(method):
            if isinstance(part, PerNetwork):
                part.owned(self.blocks.names)  # raises for names that do not fit, before any step
        lead, rest = self.scalarization, self.combination
        initial = {
            "scalarization": lead.init(self.names) if lead else (),
            "combination": rest.init(self.names, self.blocks.shape) if rest else (),
        }
        self.looks_closely = rest is not None and any(p.looks_closely for p in iter_methods(rest))
        self.second_look = any(part.second_look for part in iter_methods(method))
        if self.second_look:
            initial["look"] = no_look(len(self.names))
        if self.observer is not None:
            initial["memory"] = empty_memory(chosen, len(self.names), sizes)
        if saved is not None:
            initial = rebuilt(initial, fitting(saved, leaves(initial)))
        named = names_of(initial, lead, rest, self.paths)
        named = {place: (*label, *name) for place, name in named.items()}
        self.state = StateVariables(initial, make, named)
        self.reach: np.ndarray | None = None  # what the gradients of an earlier step reached
        self.checked = False  # whether every objective was seen to reach a variable
        self._seed = seed
        # A number goes in as a tensor, so that models with other seeds can share what is compiled.
        self._fixed = seed if isinstance(seed, Seed) else None
        self._base = None if isinstance(seed, Seed) else np.array(base_of(seed), seed_dtype())
        observed = self.observer is not None
        self._weights = Weights(
            lead, rest, self.names, self.blocks.names, observed, self.second_look
        )
        self._compiled: dict[bytes | None, Compiled] = {}

    @property
    def linear(self) -> bool:
        """Whether no weight depends on gradients: one backward pass is enough."""
        return self.combination is None

    @property
    def halves(self) -> bool:
        """Whether the gradients of both halves of the batch are wanted, each on its own."""
        return any(part.needs == "halves" for part in iter_methods(self.method))

    @property
    def samples(self) -> int:
        """How many samples are differentiated one by one, in one step out of `sampling`."""
        return max(part.samples for part in iter_methods(self.method))

    @property
    def sampling(self) -> int:
        return math.gcd(*(part.period for part in iter_methods(self.method) if part.samples))

    @property
    def period(self) -> int:
        """One step out of this many needs every objective's gradient."""
        return 1 if self.combination is None else self.combination.period

    def seed(self, step: Tensor) -> Seed:
        """The seed of a step: the same after a resume, another one in every step."""
        return self._seed if isinstance(self._seed, Seed) else draw(self._seed, step)

    @in_float32
    def weigh(
        self,
        losses: Tensor,
        gramian: Tensor | None,
        active: Tensor,
        step: Tensor,
        reach: Any = None,
        lengths: Tensor | None = None,
        **more: Tensor | None,
    ) -> tuple[Tensor, Tensor, State]:
        """Shared weights (T,) or (B, T), private weights (T,), and the next state.

        Weights of an objective are NaN where they, or the squared norm of its part of the update,
        are not finite; all of them are where the state would no longer be finite.

        losses, active (T,); gramian (T, T), (B, T, T) or None; reach (B, T) NumPy or None;
        lengths  (T,) norms of the gradients, where they are known
        more  other fields of the evidence: `cross` and `compressed` of the Gramian's shape,
        `measures` (V, T, k), `traces` (T,)
        """
        if more.get("traces") is not None:
            more["traces"] = ops.where(active, more["traces"], 0.0)
        given = {"losses": losses, "gramian": gramian, "active": active, "step": step, **more}
        tensors = {name: value for name, value in given.items() if value is not None}
        state = self.state.read()
        if self.linear:  # a handful of operations: not worth a kernel of their own
            return self._weights(tensors, state, self.seed(step), reach, lengths)
        memory = {"memory": state.pop("memory")} if self.observer is not None else {}
        key = None if reach is None else reach.tobytes()
        if key not in self._compiled:
            self._compiled[key] = compiled(self._weights, state, reach, self._fixed)
        known = [] if lengths is None else [lengths]
        given_state = leaves(state)
        run = self._compiled[key]
        shared, private, found = run(tensors, [*given_state.values()], known, self._base)
        state = rebuilt(state, dict(zip(given_state, found, strict=True)))
        return shared, private, {**state, **memory}

    @in_float32
    def aggregate(
        self, gradients: Jacobian, active: Tensor, step: Tensor, traces: Tensor | None = None
    ) -> tuple[list[Tensor | None], Tensor, Tensor, State]:
        """Update directions, shared weights, which objectives took part (T,), and the next state.

        active  (T,) bool: objectives that have a label this step
        traces  (T,) mean squared gradient norms of samples, for methods that need them
        """
        sight = None
        if self.observer is not None:
            state, seed = self.state.read(), self.seed(step)
            sight = self.observer.look(gradients, active, step, seed, state)
            gradients, active = sight.gradients, sight.active
        blocks, connectivity = self.blocks, gradients.connectivity
        gramian = None if self.linear else gradients.gramians(blocks)
        cross = gradients.crosses(blocks) if self.halves else None
        lengths = gradients.lengths(gramian)
        active = ops.logical_and(active, ops.isfinite(lengths))
        lengths = ops.where(active, lengths, 0.0)
        both = ops.logical_and(active[:, None], active[None, :])
        gramian, cross = (
            None if products is None else ops.where(both, products, 0.0)
            for products in (gramian, cross)
        )
        losses = ops.stack([ops.cast(loss, "float32") for loss in gradients.losses.values()])
        losses = ops.where(active, losses, 0.0)
        compressed = self._compressed(gradients, gramian, active) if self.looks_closely else None
        reach, measures = blocks.reach(connectivity), None if sight is None else sight.measures
        shared, private, state = self.weigh(
            losses,
            gramian,
            active,
            step,
            reach,
            lengths,
            cross=cross,
            measures=measures,
            traces=traces,
            compressed=compressed,
        )
        seen, active = active, active & _finite(shared) & _finite(private)
        shared, private = (ops.where(active, weights, 0.0) for weights in (shared, private))
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
            directions = sight.moved(directions, ops.any(active))
            state["memory"] = sight.kept(seen)
        if gradients.taken is not None:
            active = ops.logical_and(active, gradients.taken)
        if half := [d for d in directions if d is not None and _is_half(d)]:
            fine = engine().finite(half)  # they leave their range sooner than the weights tell
            active = active & fine
            directions = [d if d is None else _zero_unless(fine, d) for d in directions]
        return directions, shared, active, state

    def aggregate_in_loop(
        self, gradients: Jacobian, step: Tensor, traces: Tensor | None = None
    ) -> LoopUpdate:
        """As `aggregate`, where all objectives count and loss scaling is somebody else's.

        Where a gradient is not finite though its loss is, under a scale, all directions are NaN:
        whoever undoes the scale is to see it, skip the step and lower the scale.
        """
        everyone = ops.ones((len(self.names),), dtype="bool")
        gradients = gradients.joint() if self.private == "joint" else gradients
        directions, _, active, state = self.aggregate(gradients, everyone, step, traces)
        accept = ops.any(active)
        if gradients.scaled:
            losses = ops.stack([ops.cast(loss, "float32") for loss in gradients.losses.values()])
            overflow = ops.any(ops.isfinite(losses) & ~active)
            reached = [gradient for gradient in directions if gradient is not None]
            fine = ~overflow & engine().finite(reached)
            accept = accept & fine
            factor = ops.where(fine, ops.ones((1,)), float("nan"))
            directions = [
                g if g is None else engine().rows([g]).weighted_sum(factor, None)
                for g in directions
            ]
        return LoopUpdate(directions, active, state, accept)

    def _compressed(self, gradients: Jacobian, gramian: Tensor, active: Tensor) -> Tensor:
        """The gradients in T coordinates where their Gramian cannot tell them apart, else zeros."""

        def measured() -> Tensor:
            mixed = mixing(gramian)
            products = gradients.mixed_gramians(self.blocks, mixed, active)
            return compressed_rows(gramian, mixed, products)

        return engine().choose(dependent(gramian), measured, lambda: ops.zeros_like(gramian))

    def look_again(
        self, before: Sequence[Tensor], after: Sequence[Tensor], active: Tensor, accept: Tensor
    ) -> None:
        """Keep the T losses of a batch before and after the update that was made with it."""
        if self.second_look:
            first, second = (ops.cast(ops.stack(found), "float32") for found in (before, after))
            known = active & ops.isfinite(first) & ops.isfinite(second)
            look = Look(ops.where(known, first, 0.0), ops.where(known, second, 0.0), known)
            self.state.write({**self.state.read(), "look": look}, accept)

    def heed(self, logs: Mapping[str, float]) -> None:
        """Let the metrics of an epoch into the state of methods that read some.

        ValueError if a metric that a method names is not among them.
        """
        heeding = [part for part in iter_methods(self.method) if part.heeds is not None]
        for part, variable in zip(heeding, self.state.named("kpi"), strict=True):
            for objective, metric in getattr(part, str(part.heeds)).items():
                if metric not in logs:
                    raise ValueError(
                        f"{type(part).__name__} reads {metric!r} as the metric of {objective!r}, "
                        f"which this epoch did not log. Logged: {', '.join(map(repr, logs))}. "
                        "Compile with that metric and, for a name with val_, give validation data."
                    )
            kpi = ops.convert_to_numpy(variable.value)
            variable.assign(part.heed(kpi, self.names, logs))


def _finite(weights: Tensor) -> Tensor:
    """(T,) bool: whether the weights (T,) or (B, T) of each objective are finite."""
    fine = ops.isfinite(weights)
    return ops.all(fine, axis=0) if len(fine.shape) > 1 else fine


def _is_half(gradient: Tensor) -> bool:
    return keras.backend.standardize_dtype(gradient.dtype) == "float16"


def _zero_unless(fine: Tensor, gradient: Tensor) -> Tensor:
    return engine().add_where(engine().zeros_like(gradient), fine, gradient)


def check_private(private: str) -> str:
    """The option itself, or an error that lists the choices."""
    if private not in PRIVATE:
        raise ValueError(
            f"`private` says what variables reached by one objective take: one of {PRIVATE}. "
            f"Received: {private!r}."
        )
    return private
