"""Gradients of single samples, and how long they are."""

from collections.abc import Sequence

from keras import ops

from polytape.contract import Tensor
from polytape.engines import Recording, engine


def traces(
    recording: Recording,
    residuals: Sequence[int],
    variables: Sequence[Sequence[int]],
    scale: Tensor,
) -> Tensor:
    """Mean squared gradient norm of the entries of each vector, (T,) float32; zero if not finite.

    residuals  indices of the T vectors among what the recording calls its scalars
    variables  for each of them, indices of the variables that its gradients are taken by
    scale      what cotangents are multiplied by, so that half precision does not lose them

    One sample is differentiated after the other, so no more than one gradient is ever held.
    """

    def trace(index: int, among: Sequence[int]) -> Tensor:
        count = ops.shape(recording.scalars[index])[0]
        places = ops.arange(count)

        def add(place: Tensor, total: Tensor) -> Tensor:
            seed = ops.cast(ops.equal(places, ops.cast(place, places.dtype)), "float32") * scale
            found = recording.vjp({index: seed}, among)
            rows = [engine().rows([gradient]) for gradient in found if gradient is not None]
            return total + sum((row.gram()[0, 0] for row in rows), ops.zeros((), "float32"))

        total = ops.fori_loop(0, count, add, ops.zeros((), "float32"))
        return total / ops.cast(count, "float32") / scale / scale

    found = ops.stack([trace(*pair) for pair in zip(residuals, variables, strict=True)])
    return ops.where(ops.isfinite(found), found, 0.0)
