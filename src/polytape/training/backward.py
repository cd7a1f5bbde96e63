"""The backward side of a step: update directions from a recording, by the cheapest way."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from keras import ops

from polytape.contract import State, Tensor
from polytape.differentiation.connectivity import Connectivity
from polytape.differentiation.jacobian import Gradients, Table, mean_rows, path_of
from polytape.differentiation.measured import Measured
from polytape.differentiation.passes import at_once, term_by_term
from polytape.engines import Recording, engine
from polytape.methods.sum import Sum
from polytape.settlement import Settlement
from polytape.training.branches import Outcome, either
from polytape.training.routing.routed import Routed
from polytape.training.routing.routes import Routes
from polytape.training.traces import traces

_SUM = Sum()


class Pass:
    """The backward side of one step: update directions from a recording.

    The recording's scalars are the T weighted losses, then the extra term (add_loss and weight
    regularisers, added to the combination as it is) if there is one, then their total, and for
    methods that need them the losses of the first and of the second half of the batch, and T
    vectors, the residuals of its first samples.
    """

    def __init__(
        self,
        recording: Recording,
        settlement: Settlement,
        variables: Sequence[Any],
        step: Tensor,
        scale: Tensor,
        routes: Routes,
        present: Tensor,
        rescales: bool = False,
        isolate: bool = False,
    ) -> None:
        """routes  which variables each objective may train

        present   (T,) bool: objectives that are active in this step
        rescales  whether the optimizer looks for overflow itself (loss scaling)
        isolate   whether a pass over all objectives at once is taken apart if not finite
        """
        self.recording, self.settlement, self.rescales = recording, settlement, rescales
        self.routed, self.present = Routed(recording, routes), present
        self.paths = tuple(path_of(variable) for variable in variables)
        self.step, self.scale, self.isolate = step, scale, isolate
        count = len(settlement.names)
        self.losses = list(recording.scalars[:count])
        whole = len(recording.scalars) - count * (2 * settlement.halves + bool(settlement.samples))
        self.extra = count if whole == count + 2 else None
        self.total = whole - 1
        self.fine = ops.ones((), dtype="bool")  # whether the directions may be applied at all
        self.traces = self._traces() if settlement.samples else None

    def run(self) -> Outcome:
        """Directions by variable, times the loss scale."""
        if self.settlement.linear:
            return self._linear()
        if self.settlement.alternates:
            return either(ops.equal(self.step, 0), self._full, self._in_turn)
        if self.settlement.period > 1 and not self.settlement.blocks.shape:
            return self._periodic()
        return self._fresh()

    def _fresh(self) -> Outcome:
        """Directions from new evidence."""
        return self._full() if self.recording.measure == "parameters" else self._measured()

    def _full(self) -> Outcome:
        """One backward pass per objective."""
        halves, first = None, self.total + 1
        if self.settlement.halves:
            halves = self._rows(first), self._rows(first + len(self.losses))
        return self._settled(mean_rows(*halves) if halves else self._rows(0), halves)

    def _rows(self, start: int) -> Table:
        return self.routed.rows(start, self.scale)

    def _in_turn(self) -> Outcome:
        """One backward pass, for the objective whose turn it is; zero for the others."""
        index = ops.mod(ops.cast(self.step, "int32"), len(self.losses))
        chosen = [ops.equal(index, t) for t in self._objectives()]
        cotangents = [ops.where(turn, self.scale, 0.0) for turn in chosen]
        found = self.routed.pull(dict(enumerate(cotangents)))
        known = self.settlement.reach
        reach = self.routed.reach() if known is None else known
        dense = [None if g is None else ops.cast(engine().dense(g), g.dtype) for g in found]
        rows = [
            [
                ops.where(turn, gradient, ops.zeros_like(gradient)) if reached else None
                for gradient, reached in zip(dense, row, strict=True)
            ]
            for turn, row in zip(chosen, reach, strict=True)
        ]
        return self._settled(rows)

    def _settled(self, rows: Table, halves: tuple[Table, Table] | None = None) -> Outcome:
        """Directions from the gradients of all objectives."""
        joint = self.settlement.private == "joint"
        connectivity = Connectivity.seen(self.settlement.names, self.paths, rows, joint)
        connectivity.check()
        self.settlement.reach = connectivity.reach
        extra, sound = None, ops.ones((), dtype="bool")
        if self.extra is not None:
            extra = self.routed.pull({self.extra: self.scale})
            sound = engine().finite([*self._added(), *(g for g in extra if g is not None)])
        gradients = Gradients(self._named(), rows, connectivity, self.scale, extra, halves)
        directions, active, state = self._settle(gradients)
        return directions, active & sound, state  # added terms belong to every objective

    def _named(self) -> dict[str, Tensor]:
        return dict(zip(self.settlement.names, self.losses, strict=True))

    def _settle(self, gradients: Gradients) -> Outcome:
        settle = self.settlement.settle
        directions, _, active, state = settle(gradients, self.present, self.step, self.traces)
        return directions, active, state

    def _measured(self) -> Outcome:
        """One backward pass per objective as far as the marked tensors, then one for all."""
        connectivity = self._connectivity()
        connectivity.check()
        args = self.recording, connectivity, self.scale, self.extra
        gradients = Measured(self._named(), *args)
        directions, active, state = self._settle(gradients)
        return directions, active & gradients.taken, state

    def _traces(self) -> Tensor:
        """(T,): measured now and then, zero in between."""
        count, pulled = len(self.losses), len(self.recording.scalars)
        residuals = range(pulled - count, pulled)
        rows = [self.routed.routes.row(t) for t in self._objectives()]
        return ops.cond(
            ops.equal(ops.mod(ops.cast(self.step, "int32"), self.settlement.sampling), 0),
            lambda: traces(self.recording, residuals, rows, self.scale),
            lambda: ops.zeros((count,)),
        )

    def finite_losses(self) -> Tensor:
        """(T,) bool."""
        return ops.isfinite(self._loss_vector)

    @cached_property
    def _loss_vector(self) -> Tensor:
        return ops.cast(ops.stack(self.losses), "float32")

    def _added(self) -> list[Tensor]:
        """The value of the extra term, if there is one."""
        found = () if self.extra is None else (self.recording.scalars[self.extra],)
        return [ops.cast(value, "float32") for value in found]

    def _objectives(self) -> range:
        return range(len(self.losses))

    def _cotangents(self, weights: Tensor) -> dict[int, Tensor]:
        found = dict(enumerate(ops.unstack(weights * self.scale)))
        return found if self.extra is None else {**found, self.extra: self.scale}

    def _linear(self) -> Outcome:
        """One backward pass in all; if asked to, one per objective where it is not finite."""
        self._check_once()
        losses = self._loss_vector
        active = ops.isfinite(losses) & self.present

        def weigh() -> tuple[dict[int, Tensor], State]:
            constant = self.settlement.method.constant
            safe, among = ops.where(active, losses, 0.0), active
            if constant:  # then a backward pass may begin while other losses are computed
                safe, among = ops.zeros_like(losses), self.present
            given = safe, None, among, self.step
            weights, _, state = self.settlement.weigh(*given, traces=self.traces)
            found = self._cotangents(weights)
            for t in self._objectives() if constant else ():
                found[t] = ops.where(ops.isfinite(self.losses[t]), found[t], 0.0)
            return found, state

        plain = self.settlement.method == _SUM  # Keras's own total, so that it is Keras's gradient
        cotangents, state = ({self.total: self.scale}, None) if plain else weigh()
        directions = self.routed.pull(cotangents)
        reached = [gradient for gradient in directions if gradient is not None]
        # Under loss scaling an overflow is the optimizer's to skip, as in plain Keras.
        values = [ops.where(self.present, losses, 0.0), *self._added()]
        fine = engine().finite(values if self.rescales else [*values, *reached])

        def isolated() -> Outcome:
            terms, kept = weigh() if plain else (cotangents, state)
            return (*self._one_by_one(terms, active, directions), kept)

        unchanged = self.settlement.state.read() if plain else state
        if self.isolate:
            return either(fine, lambda: (directions, active, unchanged), isolated)
        self.fine = fine
        blamed = fine | ~ops.all(active | ~self.present)
        return directions, active & blamed, unchanged

    def _check_once(self) -> None:
        """Refuse an objective without a path; the other ways meet the question at every step."""
        if not self.settlement.checked:
            reach = self.settlement.reach = self.routed.reach()
            Connectivity(self.settlement.names, self.paths, reach).check()
            self.settlement.checked = True

    def _one_by_one(
        self, cotangents: dict[int, Tensor], active: Tensor, like: list[Tensor | None]
    ) -> tuple[list[Tensor | None], Tensor]:
        """The sum of the terms that are finite. Terms are differentiated in turn, not at once."""
        taken = {t: active[t] for t in self._objectives()}
        if self.extra is not None:
            taken[self.extra] = ops.isfinite(self.recording.scalars[self.extra])
        parts = self.routed.parts(cotangents)
        taken, directions = term_by_term(self.recording, parts, taken, like)
        return directions, ops.stack([taken[t] for t in self._objectives()])

    def _periodic(self) -> Outcome:
        """All gradients now and then; in between the last weights and one backward pass."""
        losses = self._loss_vector
        active = ops.isfinite(losses) & self.present
        due = ops.equal(ops.mod(ops.cast(self.step, "int32"), self.settlement.period), 0)
        again = ops.logical_and(ops.logical_not(due), ops.all(active))

        def recall() -> Outcome:
            given = losses, None, active, self.step
            shared, private, state = self.settlement.weigh(*given, traces=self.traces)
            directions = self._reuse(shared, private)
            reached = [gradient for gradient in directions if gradient is not None]
            return directions, active & engine().finite([*self._added(), *reached]), state

        return either(again, recall, self._fresh)

    def _reuse(self, shared: Tensor, private: Tensor) -> list[Tensor | None]:
        """Directions for weights known beforehand: private variables are differentiated apart."""
        apart = set(self._connectivity().private) if self.settlement.private == "own" else set()
        together = set(range(len(self.paths))) - apart
        weights = (shared, together), (private, apart)
        parts = [p for w, among in weights for p in self.routed.parts(self._cotangents(w), among)]
        return at_once(self.recording, parts, len(self.paths))

    def _connectivity(self) -> Connectivity:
        reach = self.settlement.reach = self.routed.reach()
        joint = self.settlement.private == "joint"
        return Connectivity(self.settlement.names, self.paths, reach, joint)
