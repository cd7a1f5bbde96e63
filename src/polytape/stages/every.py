"""Fresh weights now and then, the last ones in between."""

from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np

from polytape.contract import Evidence, Integer, Method, Need, State, Tensor, evaluate, ops
from polytape.stages.global_clip import refuse_rows


@dataclass(frozen=True)
class Every(Method):
    """Another method asked in one step out of `steps`; its weights are reused in the others.

    As the outermost stage of `combine=`, the steps in between cost one backward pass over the
    shared variables instead of T (Nash-MTL calls this `update_weights_every`). Deeper inside a
    chain it saves the solver only. The first step always asks. So much for `pt.Model` and
    `pt.compiled_step`, which know what is due before they differentiate; `pt.gradients` does not:
    in a loop by hand there are T backward passes in every step, and this saves the solver only.

    Args:
        inner: the method that is wrapped
        steps: fresh evidence is asked for in one step out of so many

    Example:
        >>> import polytape as pt
        >>> method = pt.Every(pt.Normalize(), steps=2)
        >>> weights, state = pt.weigh(method, [[4.0]], step=0)
        >>> weights, state = pt.weigh(method, [[1.0]], state=state, step=1)
        >>> float(weights[0])
        0.5
    """

    inner: Method
    steps: Annotated[int, Integer(1)] = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_rows(self, self.inner)

    @property
    def needs(self) -> Need:  # type: ignore[override]
        return self.inner.needs

    @property
    def scope(self) -> str | None:
        return self.inner.scope

    @property
    def period(self) -> int:
        return self.steps

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        weights = np.ones((*blocks, len(names)), "float32")
        return {"inner": self.inner.init(names, blocks), "weights": weights}

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        if evidence.gramian is None and self.needs != "losses":
            return state["weights"], state
        fresh, inner = evaluate(self.inner, evidence, state["inner"])
        due = ops.equal(ops.mod(ops.cast(evidence.step, "int32"), self.steps), 0)
        weights = ops.where(due, fresh, state["weights"])
        inner = keras.tree.map_structure(
            lambda new, old: ops.where(due, new, old), inner, state["inner"]
        )
        return weights, {"inner": inner, "weights": weights}
