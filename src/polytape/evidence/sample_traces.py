"""How long the gradients of single samples are, for a few samples, now and then."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from polytape.contract import Method, PerObjective, Tensor, ops
from polytape.contract.arguments import known, numbers
from polytape.differentiation.replicated import alone, place_in_batch, total
from polytape.engines import engine
from polytape.evidence.base import ComparedLoss, Kind, Measurement, Recorded


@dataclass(frozen=True)
class SampleTraces(Kind):
    """`evidence["traces"]`, (..., T): mean over some samples of the squared norm of the gradient of
    a sample's residual, the root of its loss, over all variables; loss / parameter^2. Zero where
    inactive or not measured in this step.

    samples  how many samples, the first of the batch;  period  measured in one step out of so many
    """

    samples: int = 1
    period: int = 1

    name: ClassVar[str] = "sample_traces"
    key: ClassVar[str] = "traces"
    cost: ClassVar[str] = "F + B, samples now and then"
    title: ClassVar[str] = "From single samples"
    passes: ClassVar[str] = "one backward pass, and those of samples now and then"
    wants: ClassVar[str] = "the gradients of single samples"
    records: ClassVar[bool] = True

    @classmethod
    def of(cls, methods: Sequence[Method]) -> "SampleTraces | None":
        own = [method for method in methods if cls.name in method.evidence]
        if not own:
            return None
        return cls(max(method.samples for method in own), math.gcd(*(m.period for m in own)))

    def record(self, loss: ComparedLoss) -> list[Tensor]:
        roots = _roots(_sample_losses(loss, self.samples))
        if engine().replica_count() == 1:
            return [roots]
        # The first samples of the whole batch lie on the first replicas; each divides by its own.
        before, whole = place_in_batch(ops.shape(loss.outputs)[0])
        own = ops.shape(roots)[0]
        factor = ops.sqrt(
            ops.cast(own, "float32") / ops.cast(ops.minimum(self.samples, whole), "float32")
        )
        return [ops.where(before + ops.arange(own) < self.samples, roots * factor, 0.0)]

    def weighted(self, recorded: Tensor, weight: Any) -> Tensor:
        return ops.multiply(recorded, ops.cast(_roots(ops.convert_to_tensor(weight)), "float32"))

    def of_replica(self, recorded: Tensor, share: Tensor, by_sample: Tensor) -> Tensor:
        del share
        return self.weighted(recorded, by_sample)

    def measure(self, at: Measurement) -> Tensor:
        given = (at.given or {}).get(self.key)
        if given is not None:
            return given
        recorded = at.recorded
        if recorded is None:
            raise ValueError(self.refusal_in_loop("pt.gradients"))
        (residuals,) = recorded.parts(self.name)
        found = ops.cond(
            ops.equal(ops.mod(ops.cast(recorded.step, "int32"), self.period), 0),
            lambda: _traces(recorded, residuals),
            lambda: ops.zeros((len(residuals),), "float32"),
        )
        found = total(found)  # behind the condition, which cannot hold it everywhere
        return ops.where(ops.isfinite(found), found, 0.0)

    def reading(self, value: Tensor) -> PerObjective:
        return PerObjective(value, unsigned=True)

    def check_given(self, method: Method, value: Any, shape: tuple[int, ...]) -> Tensor:
        if value is None:
            raise ValueError(
                f"{type(method).__name__} compares {self.wants}: give `traces`, their mean squared "
                "norms, zeros in steps where they are not measured. Received: traces=None."
            )
        found = numbers("traces", value, shape, finite=True)
        if (values := known(found)) is not None and values.min() < 0:
            raise ValueError(
                "`traces` are mean squared norms, which are never below 0. Received: "
                f"{values.min():.3g} among them."
            )
        return found

    def refusal_in_loop(self, asked_by: str) -> str:
        return (
            f"This method compares {self.wants}, which {asked_by} does not measure: call "
            "combiner(grads, traces=...) with their mean squared norms, zeros in steps where you "
            "do not measure them, or train with pt.Model."
        )


def _sample_losses(loss: ComparedLoss, count: int) -> Tensor:
    """The losses of the first `count` samples, (min(count, N),), masked and weighted as Keras does.

    Scaled such that their mean over all N samples is the loss, whatever reduction made it.

    ValueError if the loss is reduced before it is known by sample.
    """
    found = loss.by_sample()
    if len(found.shape) == 0:
        raise ValueError(
            "This method compares the gradients of single samples, and a loss called "
            f"{loss.name!r} is one number for the whole batch. Return one for each sample, and "
            "leave the mean to Keras."
        )
    found, value = ops.cast(found, "float32"), ops.cast(loss.value, "float32")
    if len(found.shape) > 1:
        found = ops.mean(found, axis=tuple(range(1, len(found.shape))))
    mean = ops.mean(found)
    factor = ops.where(mean != 0, value / ops.where(mean != 0, mean, 1.0), 1.0)
    return found[:count] * ops.stop_gradient(ops.cast(factor, "float32"))


def _roots(losses: Tensor) -> Tensor:
    """Square roots of the sizes, with a zero gradient at zero."""
    size = ops.abs(losses)
    positive = size > 0
    return ops.where(positive, ops.sqrt(ops.where(positive, size, 1.0)), 0.0)


def _traces(recorded: Recorded, residuals: Sequence[int]) -> Tensor:
    """Mean squared gradient norm of the entries of T vectors, (T,) float32.

    residuals  places of the vectors among what the recording calls its scalars

    One sample is differentiated after the other, so no more than one gradient is ever held.
    """
    recording, scale = alone(recorded.recording), recorded.scale

    def trace(index: int, among: Sequence[int]) -> Tensor:
        count = ops.shape(recording.scalars[index])[0]
        places = ops.arange(count)

        def add(place: Tensor, before: Tensor) -> Tensor:
            seed = ops.cast(ops.equal(places, ops.cast(place, places.dtype)), "float32") * scale
            found = recording.vjp({index: seed}, among)
            rows = [engine().rows([gradient]) for gradient in found if gradient is not None]
            return before + sum((row.gram()[0, 0] for row in rows), ops.zeros((), "float32"))

        traces = ops.fori_loop(0, count, add, ops.zeros((), "float32"))
        return traces / ops.cast(ops.maximum(count, 1), "float32") / scale / scale

    return ops.stack([trace(index, recorded.route(t)) for t, index in enumerate(residuals)])
