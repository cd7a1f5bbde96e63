"""A recording in which every objective is differentiated by what it may train, and nothing else."""

from collections.abc import Collection, Mapping

import numpy as np

from polytape.contract import Tensor
from polytape.differentiation.passes import Directions, Parts, at_once
from polytape.engines import Recording
from polytape.training.routing.routes import Routes


class Routed:
    """The scalars of a recording on their routes. The first T scalars are the objectives' losses.

    recording  one forward pass;  routes  of its T objectives
    """

    def __init__(self, recording: Recording, routes: Routes) -> None:
        self.recording, self.routes = recording, routes
        self._objectives, self._variables = routes.allowed.shape

    def vjp(self, cotangents: Mapping[int, Tensor], last: bool = False) -> Directions:
        """Directions by variable, in one backward pass per set of objectives that share a route.

        last  whether nothing is differentiated afterwards
        """
        return at_once(self.recording, self.parts(cotangents), self._variables, last)

    def parts(
        self, cotangents: Mapping[int, Tensor], among: Collection[int] | None = None
    ) -> Parts:
        """The cotangents, split by which objectives may train which variables.

        Scalars that are no objective, such as added losses, train what any objective trains.
        among  variables that are asked for; None for all
        """
        parts = []
        for objectives, variables in self.routes.parts:
            ruled_out = {*range(self._objectives)} - {*objectives}
            terms = {s: seed for s, seed in cotangents.items() if s not in ruled_out}
            chosen = [v for v in variables if among is None or v in among]
            if terms and chosen:
                parts.append((terms, chosen))
        return parts

    def rows(self, start: int, scale: Tensor) -> list[Directions]:
        """The gradients of T scalars, `scale` times, each by what the objective may train.

        start  the first of them: 0 for the losses, or those of a part of the batch
        """
        return [
            at_once(self.recording, [({start + t: scale}, self.routes.row(t))], self._variables)
            for t in range(self._objectives)
        ]

    def reach(self) -> np.ndarray:
        """(T, V) bool: which objective reaches, and may train, which variable."""
        return self.routes.within(self.recording.reach(range(self._objectives)))
