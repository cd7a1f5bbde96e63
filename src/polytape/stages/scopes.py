"""Scopes: one Gramian per variable or per network instead of one for the whole model."""

from dataclasses import dataclass

from polytape.contract import Evidence, Method, State, Tensor, ask
from polytape.stages.global_clip import refuse_rows


@dataclass(frozen=True)
class PerVariable(Method):
    """Another method applied to each variable on its own.

    Every variable that two or more objectives reach has its own T x T Gramian, in which only the
    objectives that reach it take part; the inner method sees the stack of them as a batch axis.

    >>> import polytape as pt
    >>> pt.PerVariable(pt.PCGrad()).scope
    'variable'
    """

    inner: Method

    def __post_init__(self) -> None:
        check_scopable(self, self.inner)

    @property
    def scope(self) -> str | None:
        return "variable"

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        return self.inner.init(names, blocks)

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        return ask(self.inner, evidence.per_block(), state)


@dataclass(frozen=True)
class PerNetwork(Method):
    """Another method applied to each network (top-level layer or sub-model) on its own.

    A network is the first part of a variable's path: in `encoder/dense/kernel`, `encoder`.

    >>> import polytape as pt
    >>> pt.PerNetwork(pt.UPGrad()).scope
    'network'
    """

    inner: Method

    def __post_init__(self) -> None:
        check_scopable(self, self.inner)

    @property
    def scope(self) -> str | None:
        return "network"

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        return self.inner.init(names, blocks)

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        return ask(self.inner, evidence.per_block(), state)


def check_scopable(outer: Method, inner: Method) -> None:
    """Raise unless `inner` can be applied block by block."""
    refuse_rows(outer, inner)
    if inner.scope is not None:
        raise ValueError(
            f"{type(outer).__name__}({type(inner).__name__}(...)): a scope inside a scope. "
            "Keep one of PerVariable and PerNetwork."
        )
