"""IMTL-L: weights trained to bring every loss to the same size."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from polytape.contract import Evidence, Method, Need, Range, State, Tensor, ops
from polytape.linalg.adam import Trained, untrained

LIMIT = 40.0  # of the logarithm of a weight, so that float32 holds it times a loss


@dataclass(frozen=True)
class IMTLL(Method):
    """Impartial multi-task learning by the losses: a trained weight brings each of them to one.

    Liu et al., "Towards Impartial Multi-Task Learning", ICLR 2021, section 3.2: the function sum_t
    (exp(s_t) L_t - s_t) is lowered over the network and over s, so w_t = exp(s_t), and for steady
    losses w_t L_t tends to one. One backward pass in all. The paper puts it before IMTL-G:
    `Chain(IMTLL(), IMTLG())` is its IMTL.

    Departs from the paper in that optimizer: s has an Adam of its own in the state of the method,
    so that no other optimizer and no weight decay act on it.

    Weights: positive; one each at the start. They tend to 1 / L_t, which is degree 0 in the loss
    scale; on the way there it has none, hence no `scale`. Equal gradients: their sum, at the start.
    Opposed gradients of equal length: in the end the one of the smaller loss wins. T = 1: the same
    numbers. A zero row keeps its weight, without effect. An inactive objective keeps s. A loss of
    zero or below has no best weight: it grows by a factor of at most about exp(rate) in each step,
    up to exp(40).

    Args:
        rate: of the Adam that trains s, one step in each step of training; s starts at zero. The
            paper hands s to the optimizer of the network: take its rate. Default 1e-3, that of
            Keras's Adam

    Example:
        >>> import polytape as pt
        >>> method = pt.IMTLL(rate=0.5)
        >>> _, state = pt.weigh(method, losses=[0.1, 10.0])
        >>> weights, _ = pt.weigh(method, losses=[0.1, 10.0], state=state)
        >>> [f"{float(w):.3f}" for w in weights]
        ['1.649', '0.607']
    """

    rate: Annotated[float, Range(0.0, 1e6)] = 1e-3

    needs: ClassVar[Need] = "losses"
    reference: ClassVar[str] = "Liu, Li, Kuang, Xue, Chen, Yang, Liao and Zhang, ICLR 2021"
    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation"})

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> Trained:
        return untrained((*blocks, len(names)))

    def weigh(self, evidence: Evidence, state: Trained) -> tuple[Tensor, State]:
        weights = ops.exp(state.value)
        gradient = ops.clip(weights * evidence.losses, -1e30, 1e30) - 1.0
        trained = state.descended(gradient, self.rate, evidence.active)
        return weights, trained._replace(value=ops.clip(trained.value, -LIMIT, LIMIT))
