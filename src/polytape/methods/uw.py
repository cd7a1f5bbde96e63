"""UW: weights by a trained noise level of each loss."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, Need, Range, State, Tensor, ops
from polytape.linalg.adam import Trained, untrained

LIMIT = 40.0  # of the logarithm of a weight, so that float32 holds it times a loss


@dataclass(frozen=True)
class UW(Method):
    """Uncertainty weighting: each loss is divided by a trained variance.

    Kendall, Gal & Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene
    Geometry and Semantics", CVPR 2018, eq. 7, with the log variance s = log sigma^2 trained as the
    paper advises: the function sum_t (exp(-s_t) L_t + s_t) / 2 is lowered over the network and over
    s, so w_t = exp(-s_t) / 2. One backward pass in all.

    Departs from the paper in that optimizer: s has an Adam of its own in the state of the method,
    so that no other optimizer and no weight decay act on it. The factors 1/2 are the paper's for
    every loss; some published codes leave them out of one term or both. Up to the factor 1/2 it is
    `IMTLL`.

    Weights: positive; 1/2 each at the start. For steady losses they tend to 1 / (2 L_t), which is
    degree 0 in the loss scale; on the way there it has none, hence no `scale`. Equal gradients:
    half their sum, at the start. Opposed gradients of equal length: in the end the one of the
    smaller loss wins. T = 1: the same numbers. A zero row keeps its weight, without effect. An
    inactive objective keeps s. A loss of zero or below has no best variance: its weight grows by a
    factor of at most about exp(rate) in each step, up to exp(40) / 2.

    Args:
        rate: of the Adam that trains s, one step in each step of training; s starts at zero. The
            paper hands s to the optimizer of the network: take its rate. Default 1e-3, that of
            Keras's Adam

    Example:
        >>> import polytape as pt
        >>> method = pt.UW(rate=0.5)
        >>> _, state = pt.weigh(method, losses=[0.1, 10.0])
        >>> weights, _ = pt.weigh(method, losses=[0.1, 10.0], state=state)
        >>> [f"{float(w):.3f}" for w in weights]
        ['0.824', '0.303']
    """

    rate: Annotated[float, Range(0.0, 1e6)] = 1e-3

    needs: ClassVar[Need] = "losses"
    reference: ClassVar[str] = "Kendall, Gal and Cipolla, CVPR 2018"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation"})

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> Trained:
        return untrained((*blocks, len(names)))

    def weigh(self, evidence: Evidence, state: Trained) -> tuple[Tensor, State]:
        weights = 0.5 * ops.exp(-state.value)
        gradient = 0.5 - ops.clip(weights * evidence.losses, -1e30, 1e30)
        trained = state.descended(gradient, self.rate, evidence.active)
        return weights, trained._replace(value=ops.clip(trained.value, -LIMIT, LIMIT))
