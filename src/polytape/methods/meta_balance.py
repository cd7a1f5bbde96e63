"""MetaBalance: auxiliary gradients brought near the norm of the main one, tensor by tensor."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, OneOf, Range, Scale, State, Tensor, ops
from polytape.linalg.average import Average


@dataclass(frozen=True)
class MetaBalance(Method):
    """Auxiliary gradients moved towards the norm of the main objective's, in each variable.

    He et al., "MetaBalance: Improving Multi-Task Recommendations via Adapting Gradient Magnitudes
    of Auxiliary Tasks", WWW 2022. With n_i the exponential moving average of the
    gradient norm of objective i in one variable, and main objective m,

        w_i = relax * n_m / n_i + (1 - relax),    w_m = 1.

    T backward passes; the norms are read off the diagonals of the Gramians.

    The averages here start without bias. It makes no difference while all objectives take part, as
    the bias cancels.

    Weights: positive. Degree 1 in the loss scale. Equal gradients: their sum. Opposed gradients:
    what is left of the longer one. A zero row enters its average and weighs one while that is zero.
    Where the main objective does not reach a variable, or has had no gradient yet, all weigh one.
    An inactive objective keeps its averages; if it is the main one, the others are still brought to
    them. T = 1: one. rank < T: no exception.

    Args:
        main: name of the main objective; None: the first
        strategy: "both" (the paper's strategy C, default): auxiliary gradients are shortened and
            lengthened; "reduce" (A): only shortened; "enlarge" (B): only lengthened
        relax: r, from 0 (the plain sum) to 1 (equal norms); the paper tunes it; default 0.7, as in
            the authors' code
        decay: beta of the moving averages; the paper's 0.9
        per: "variable", as in the paper, "network", or None for the norms over all shared variables
            at once
        scale: "sum" is the paper's

    Example:
        >>> import polytape as pt
        >>> weights, _ = pt.weigh(pt.MetaBalance(relax=1.0), [[1.0, 0.0], [0.0, 4.0]])
        >>> [float(w) for w in weights]
        [1.0, 0.5]
    """

    main: str | None = None
    strategy: Annotated[str, OneOf(("both", "reduce", "enlarge"))] = "both"
    relax: Annotated[float, Range(0.0, 1.0)] = 0.7
    decay: Annotated[float, Range(0.0, 1.0, open="high")] = 0.9
    per: Annotated[str | None, OneOf(("variable", "network", None))] = "variable"
    scale: Scale = "sum"

    native_scale: ClassVar[str | None] = "sum"
    reference: ClassVar[str] = "He, Feng, Cheng, Ji, Guo and Caverlee, WWW 2022"
    guarantees: ClassVar[frozenset[str]] = frozenset({"scale-free"})
    exempt: ClassVar[dict[str, str]] = {"permutation": "one objective is the main one"}

    @property
    def scope(self) -> str | None:
        return self.per

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> Average:
        if self.main is not None and self.main not in names:
            raise ValueError(
                f"MetaBalance(main={self.main!r}): no objective of that name. "
                f"Objectives: {', '.join(map(repr, names))}."
            )
        return Average.empty((*blocks, len(names)))

    def weigh(self, evidence: Evidence, state: Average) -> tuple[Tensor, State]:
        main = 0 if self.main is None else evidence.names.index(self.main)
        evidence = evidence.per_block()
        state = state.after(evidence.norms, self.decay, evidence.active)
        mean = state.mean
        goal = mean[..., main : main + 1]
        known = ops.logical_and(mean > 0, goal > 0)
        factor = ops.where(known, goal / ops.where(known, mean, 1.0), 1.0)
        if self.strategy == "reduce":
            factor = ops.minimum(factor, 1.0)
        if self.strategy == "enlarge":
            factor = ops.maximum(factor, 1.0)
        weights = self.relax * factor + (1.0 - self.relax)
        return ops.where(evidence.active, weights, 0.0), state
