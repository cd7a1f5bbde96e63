"""JAX: a function linearized at one point, whose linear part is transposed as often as asked."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polytape.engines.contract import Marked, Measure, Scalars, Tensor, Variable
from polytape.engines.grouped import flattened
from polytape.engines.jax.jaxpr import dependencies, only
from polytape.engines.jax.layouts import is_spread
from polytape.engines.jax.lookups import Lookups
from polytape.engines.jax.looped import Piece, pays, pulled_back
from polytape.engines.jax.scope import Scope
from polytape.engines.marking import measured_at


class Linearized:
    """What a function of some values returns, and its gradients by them: a `Recording`.

    function   returns scalars and anything else; called once, and what it assigns to variables is
               assigned once
    variables  what the first of the values are inside it
    stand_ins  how many of the last are those of losses; what is between is marks
    """

    def __init__(
        self,
        function: Callable[[list[Tensor]], tuple[Scalars, Any]],
        values: Sequence[Tensor],
        variables: Sequence[Variable] = (),
        measure: Marked = "parameters",
        stand_ins: int = 0,
    ) -> None:
        touched: list[Variable] = []

        def pure(values: list[Tensor]) -> tuple[list[Tensor], Any]:
            with Scope(list(zip(variables, values, strict=False))) as scope:
                scalars, outputs = function(values)
            touched[:] = scope.touched.values()
            flat, self.groups = flattened(scalars)
            return flat, (outputs, [value for _, value in scope.updates()])

        self.measure: Measure = measured_at(measure)
        self.marks = range(len(variables), len(values) - stand_ins)
        self.stand_ins = range(self.marks.stop, len(values))
        self._values = list(values)
        self.scalars, self._linear, (self.outputs, updates) = jax.linearize(
            pure, self._values, has_aux=True
        )
        for variable, value in zip(touched, updates, strict=True):
            variable.assign(value)

    def vjp(
        self,
        cotangents: Mapping[int, Tensor],
        variables: Sequence[int],
        last: bool = False,
        sparse: bool = False,
    ) -> list[Tensor | None]:
        del last  # a compiler knows
        # Transposing only the chosen outputs keeps the others' cotangents symbolically zero, so
        # nothing is differentiated that does not lie between these scalars and the variables.
        seeds = [jnp.asarray(seed, self.scalars[index].dtype) for index, seed in cotangents.items()]
        if sparse and not is_spread() and self._lookups is not None:
            return self._lookups.vjp(seeds, list(cotangents), variables)
        chosen = only(self._jaxpr, list(cotangents))
        gradients = jax.linear_transpose(chosen, *self._values)(seeds)
        reached: Any = self._all_reach[list(cotangents)].any(axis=0)
        return [gradients[index] if reached[index] else None for index in variables]

    def loop_pays(self, scalars: Sequence[int]) -> bool:
        """Whether a loop over scalars holds little beside their gradients.

        Not where these are sparse: a loop would make tables of them.
        """
        return self._lookups is None and pays(self._jaxpr, scalars)

    def pieces(self, scalars: Sequence[int], seed: Tensor) -> list[Piece | None]:
        """By each variable the gradients of the scalars that reach it, `seed` times too large.

        They are found in a loop over the scalars. None where no path exists.
        """
        seeds = {each: jnp.asarray(seed, self.scalars[each].dtype) for each in scalars}
        found = pulled_back(self._jaxpr, scalars, seeds)
        reach: Any = self._all_reach
        return [
            piece if piece is not None and reach[list(scalars), variable].any() else None
            for variable, piece in enumerate(found[: self.marks.start])
        ]

    def zeros(self, variable: int) -> Tensor:
        return jnp.zeros_like(self._values[variable])

    def reach(self, scalars: Sequence[int]) -> np.ndarray:
        return self._all_reach[np.array(scalars, int), : self.marks.start]

    @functools.cached_property
    def _all_reach(self) -> np.ndarray:
        return dependencies(self._jaxpr.jaxpr)

    @functools.cached_property
    def _lookups(self) -> Lookups | None:
        return Lookups.of(self._jaxpr, self._values, self.marks.start)

    @functools.cached_property
    def _jaxpr(self) -> Any:
        return jax.make_jaxpr(self._linear)(self._values)
