"""One recorded forward pass of a training step, and what is known about it."""

from collections.abc import Sequence
from functools import cached_property

from keras import ops

from polytape.contract import Tensor
from polytape.differentiation.connectivity import Connectivity
from polytape.engines import Recording, engine
from polytape.training.backward.traces import traces
from polytape.training.phase_plan import PhasePlan
from polytape.training.routing.failure_groups import one_group
from polytape.training.routing.routed import Routed


class Recorded:
    """A recording of T objectives' losses, ready to be differentiated.

    The recording's scalars are the T weighted losses, then the extra term (add_loss and weight
    regularisers, added to the combination as it is) if there is one, then their total, and for
    methods that need them the losses of the first and of the second half of the batch, and T
    vectors, the residuals of its first samples.
    """

    def __init__(
        self,
        recording: Recording,
        course: PhasePlan,
        step: Tensor,
        scale: Tensor,
        present: Tensor | None,
        rescales: bool = False,
        isolate: bool = False,
    ) -> None:
        """course  what is decided for the phase that was recorded

        present   (T,) bool: objectives that are active in this step; None: always all of them
        rescales  whether the optimizer looks for overflow itself (loss scaling)
        isolate   whether a pass over all objectives at once is taken apart if not finite
        """
        aggregator, routes = course.aggregator, course.routes
        self.recording, self.aggregator, self.rescales = recording, aggregator, rescales
        self.routed, self.present, self.plain = Routed(recording, routes), present, course.plain
        self.paths = aggregator.paths
        self.step, self.scale, self.isolate = step, scale, isolate
        count = len(aggregator.names)
        self.objectives = range(count)
        self.losses = list(recording.scalars[:count])
        whole = len(recording.scalars) - count * (2 * aggregator.halves + bool(aggregator.samples))
        self.extra = count if whole == count + 2 else None
        self.total = whole - 1
        # An extra term belongs to every objective.
        self.bonds = course.bonds if self.extra is None else one_group(*routes.allowed.shape)
        self.traces = self._traces() if aggregator.samples else None

    @cached_property
    def loss_vector(self) -> Tensor:
        """(T,) float32."""
        return ops.cast(engine().stack(self.losses), "float32")

    @property
    def named_losses(self) -> dict[str, Tensor]:
        return dict(zip(self.aggregator.names, self.losses, strict=True))

    @property
    def added(self) -> list[Tensor]:
        """The value of the extra term, if there is one."""
        found = () if self.extra is None else (self.recording.scalars[self.extra],)
        return [ops.cast(value, "float32") for value in found]

    @cached_property
    def finite_losses(self) -> Tensor:
        """(T,) bool."""
        return ops.isfinite(self.loss_vector)

    @cached_property
    def active(self) -> Tensor:
        """(T,) bool: objectives of this step with a finite loss."""
        return self.of_those_present(self.finite_losses)

    @property
    def wanted(self) -> Tensor:
        """(T,) bool: objectives of this step."""
        return self.of_those_present(ops.ones((len(self.losses),), "bool"))

    def counting(self, objectives: Sequence[int]) -> list[Tensor]:
        """The losses of some objectives, in one tensor or several; zero if not of this step."""
        if len(objectives) == len(self.losses):
            whole = self.loss_vector
            return [whole if self.present is None else ops.where(self.present, whole, 0.0)]
        if self.present is None:
            return [self.losses[t] for t in objectives]
        return [ops.where(self.present[t], self.losses[t], 0.0) for t in objectives]

    def of_those_present(self, flags: Tensor) -> Tensor:
        """(T,) bool: false for objectives that are not active in this step."""
        return flags if self.present is None else flags & self.present

    def cotangents(self, weights: Tensor | None) -> dict[int, Tensor]:
        """The seeds of one backward pass for (T,) weights; the extra term counts once.

        weights  None: one for each objective
        """
        if weights is None:
            found = dict.fromkeys(self.objectives, self.scale)
        else:
            found = dict(enumerate(ops.unstack(weights * self.scale)))
        return found if self.extra is None else {**found, self.extra: self.scale}

    def connectivity(self) -> Connectivity:
        """Which objective reaches which variable, before anything is differentiated."""
        reach = self.aggregator.reach = self.routed.reach()
        joint = self.aggregator.private == "joint"
        return Connectivity(self.aggregator.names, self.paths, reach, joint)

    def _traces(self) -> Tensor:
        """(T,): measured now and then, zero in between."""
        count, pulled = len(self.losses), len(self.recording.scalars)
        residuals = range(pulled - count, pulled)
        rows = [self.routed.routes.row(t) for t in self.objectives]
        return ops.cond(
            ops.equal(ops.mod(ops.cast(self.step, "int32"), self.aggregator.sampling), 0),
            lambda: traces(self.recording, residuals, rows, self.scale),
            lambda: ops.zeros((count,), "float32"),
        )
