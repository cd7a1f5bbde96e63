"""Conflict measured at marked tensors: the gradients of the losses by them, one pass for the rest.

MGDA-UB (Sener & Koltun 2018) and the UB variants of other methods measure at the shared
representation, EnCodec's balancer (Defossez et al. 2023) at the outputs. For T objectives that
costs one forward pass, T backward passes down to the marked tensors, and one through the network.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
from keras import ops

from polytape.contract import Method, Seed, Tensor
from polytape.contract.cached import cached
from polytape.differentiation.connectivity import Blocks, Connectivity
from polytape.differentiation.jacobian import Jacobian
from polytape.differentiation.passes import Directions, at_once, term_by_term
from polytape.differentiation.replicated import total
from polytape.engines import GroupName, Measure, Recording, engine

MEASURES = get_args(Measure)


class Measured(Jacobian):
    """Gradients by the marked tensors, concatenated; those by the variables are combined unseen.

    losses, norms, cosines, gramian  as of `Jacobian`, over the marked tensors; loss / feature
    connectivity                     which objective reaches which variable
    """

    def __init__(
        self,
        losses: Mapping[str, Tensor],
        recording: Recording,
        connectivity: Connectivity,
        scale: Any = 1.0,
        extra: int | None = None,
    ) -> None:
        """scale  times which everything is too large;  extra  a scalar to add as it is"""
        self.losses = dict(losses)
        self.connectivity = connectivity
        self.parts = {}
        self._recording, self._scale, self._added = recording, scale, extra
        self._taken: Tensor | None = None

    @cached
    def _by_marks(self) -> Jacobian:
        recording, names = self._recording, self.connectivity.names
        if not recording.marks:
            raise ValueError(_NOTHING_MARKED[recording.measure])
        rows = [recording.vjp({t: self._scale}, recording.marks) for t in range(len(names))]
        marks = [f"{recording.measure}/{index}" for index in recording.marks]
        seen = Connectivity.seen(names, marks, rows, joint=True)
        shared = list(self.connectivity.shared)
        for name, marked, reached in zip(names, seen.reach, self.connectivity.reach, strict=True):
            if reached[shared].any() and not marked.any():
                raise ValueError(
                    f"Objective {name!r} reaches shared variables, but by none of the "
                    f"{recording.measure} at which conflict is measured: its conflict with others "
                    "would not be seen. Place pt.Features() where all paths meet and use "
                    'measure="features", or use measure="parameters".'
                )
        return Jacobian(self.losses, rows, seen, self._scale)

    def __getitem__(self, name: str) -> list[Tensor | None]:
        if name not in self.losses:
            raise KeyError(f"No objective {name!r}. Objectives: {', '.join(self.losses)}.")
        index = self.connectivity.names.index(name)
        return self._recording.vjp({index: self._scale}, range(len(self.connectivity.paths)))

    @property
    def shapes(self) -> list[list[int]]:
        return [[0] for _ in self.connectivity.paths]  # no rows are kept, so none are remembered

    @property
    def measure(self) -> Measure:
        return self._recording.measure

    def joint(self) -> "Measured":
        connectivity = dataclasses.replace(self.connectivity, joint=True)
        return Measured(self.losses, self._recording, connectivity, self._scale, self._added)

    def within(self, objectives: Sequence[int], variables: Sequence[int]) -> "Measured":
        names = [*self.losses]
        losses = {names[t]: self.losses[names[t]] for t in objectives}
        connectivity = self.connectivity.within(objectives, variables)
        recording = Excerpt(self._recording, objectives, variables)
        return Measured(losses, recording, connectivity, self._scale)

    def gramians(self, blocks: Blocks) -> Tensor:
        del blocks  # the marked tensors are one
        return self._over_samples

    @cached
    def _over_samples(self) -> Tensor:
        """The Gramian; each replica has the features of its own samples."""
        return total(self._by_marks.gramian)

    def lengths(self, gramian: Tensor | None) -> Tensor:
        spread = engine().replica_count() > 1
        return self._by_marks.lengths(self._over_samples if spread else gramian)

    def mixed_gramians(self, blocks: Blocks, mixed: Tensor, active: Tensor) -> Tensor:
        del blocks
        whole = Blocks.by(None, self._by_marks.connectivity.paths)
        return total(self._by_marks.mixed_gramians(whole, mixed, active))

    def combined(
        self,
        shared: Tensor,
        private: Tensor | None,
        active: Tensor,
        blocks: Blocks,
        method: Method,
        seed: Seed,
    ) -> Directions:
        """The update direction of every variable; terms that make it non-finite are left out."""
        del blocks, method, seed
        own = ops.cast(active, "float32") if private is None else private
        apart = [] if private is shared else list(self.connectivity.private)
        count = len(self.connectivity.paths)
        together = [v for v in range(count) if v not in apart]
        parts = [(self._cotangents(shared), together), (self._cotangents(own), apart)]
        directions = at_once(self._recording, parts, count)
        reached = [gradient for gradient in directions if gradient is not None]
        present = [gradient is not None for gradient in directions]

        def isolated() -> Any:
            taken = dict(enumerate(ops.unstack(active)))
            if self._added is not None:
                taken[self._added] = ops.isfinite(self._recording.scalars[self._added])
            taken, found = term_by_term(self._recording, parts, taken, directions)
            fine = ops.stack([taken[t] for t in range(len(self.losses))])
            return fine, [gradient for gradient in found if gradient is not None]

        fine = engine().in_range(reached)
        self._taken, found = engine().either(fine, lambda: (active, reached), isolated)
        left = iter(found)
        return [next(left) if there else None for there in present]

    @property
    def taken(self) -> Tensor | None:
        return self._taken

    def _cotangents(self, weights: Tensor) -> dict[int, Tensor]:
        found = dict(enumerate(ops.unstack(weights * self._scale)))
        return found if self._added is None else {**found, self._added: self._scale}


class Excerpt:
    """A recording of some of its scalars and variables, by index: a `Recording`."""

    def __init__(
        self, recording: Recording, scalars: Sequence[int], variables: Sequence[int]
    ) -> None:
        self._recording, self._scalars, self._variables = recording, scalars, variables
        self.scalars: Sequence[Tensor] = [recording.scalars[index] for index in scalars]
        self.groups: Mapping[GroupName, range] = {"losses": range(len(scalars))}
        self.outputs, self.measure = recording.outputs, recording.measure
        self.marks = range(len(variables), len(variables) + len(recording.marks))
        self.stand_ins = range(0)

    def vjp(
        self,
        cotangents: Mapping[int, Tensor],
        variables: Sequence[int],
        last: bool = False,
        sparse: bool = False,
    ) -> list[Tensor | None]:
        known = [*self._variables, *self._recording.marks]
        chosen = {self._scalars[index]: seed for index, seed in cotangents.items()}
        return self._recording.vjp(chosen, [known[index] for index in variables], last, sparse)

    def zeros(self, variable: int) -> Tensor:
        return self._recording.zeros([*self._variables, *self._recording.marks][variable])

    def reach(self, scalars: Sequence[int]) -> np.ndarray:
        chosen = [self._scalars[index] for index in scalars]
        return self._recording.reach(chosen)[:, list(self._variables)]


_NOTHING_MARKED = {
    "features": (
        'measure="features" found no marked tensor in the forward pass. Mark the shared '
        "representation where it leaves the trunk: h = pt.Features()(h), in a functional model, in "
        "`call` of a subclassed one (the layer made in __init__), or in the objective function."
    ),
    "outputs": (
        'measure="outputs" found no floating-point tensor among the outputs of the model. Mark '
        'another tensor with pt.Features() and use measure="features".'
    ),
}
