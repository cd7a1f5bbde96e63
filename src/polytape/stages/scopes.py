"""Scopes: one Gramian per variable or per network instead of one for the whole model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polytape.contract import Evidence, Method, State, Tensor, did_you_mean, evaluate, ops, received
from polytape.stages.global_clip import refuse_rows


@dataclass(frozen=True)
class PerVariable(Method):
    """Another method applied to each variable on its own.

    Every variable that two or more objectives reach has its own T x T Gramian, in which only the
    objectives that reach it take part; the inner method sees the stack of them as a batch axis.

    Args:
        inner: the method that is wrapped

    Example:
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

    def states(self) -> dict[str, Method]:
        return {"": self.inner}

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        return evaluate(self.inner, evidence.per_block(), state)


@dataclass(frozen=True)
class PerNetwork(Method):
    """A method applied to each network on its own, or a method of its own for each network.

    The networks are those of `pt.Model(networks={...})`; of other models the top-level layers and
    sub-models; in a loop of one's own the first part of a variable's path: in
    `encoder/dense/kernel`, `encoder`. In a network only the objectives that reach it take part.

    Args:
        inner: the method, or {network: method} with "*" for all others

    Example:
        >>> import polytape as pt
        >>> pt.PerNetwork(pt.UPGrad()).scope
        'network'
        >>> pt.PerNetwork({"encoder": pt.PCGrad(), "*": pt.Sum()}).scope
        'network'
    """

    inner: Method | Mapping[str, Method]

    def __post_init__(self) -> None:
        if not self._methods:
            raise ValueError(
                'No method for any network: name one for each, or one for all as "*". '
                "Received: an empty dict."
            )
        for network, method in self._methods.items():
            if not isinstance(network, str):
                raise TypeError(f"Methods are given by the names of networks. {received(network)}")
            check_scopable(self, method)

    @property
    def _methods(self) -> Mapping[str, Method]:
        return self.inner if isinstance(self.inner, Mapping) else {"*": self.inner}

    @property
    def scope(self) -> str | None:
        return "network"

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        return {key: method.init(names, blocks) for key, method in self._methods.items()}

    def states(self) -> dict[str, Method]:
        return dict(self._methods)

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        evidence = evidence.per_block()
        states = {}
        total: Any = 0.0
        # Each method sees every block, as an axis; a block takes the weights of its own.
        for key, owned in self.owned(evidence.blocks):
            weights, states[key] = evaluate(self._methods[key], evidence, state[key])
            if not all(owned):
                weights = ops.where(ops.convert_to_tensor(owned)[:, None], weights, 0.0)
            total = total + weights
        return total, states

    def owned(self, networks: tuple[str, ...]) -> list[tuple[str, list[bool]]]:
        """The key of each method, and which networks are its own.

        Args:
            networks: names of the blocks, in order

        Returns:
            [(key, one bool for each network)].

        Raises:
            ValueError: For a method without a network, and for a network without a method.
        """
        methods = self._methods
        unknown = [key for key in methods if key not in (*networks, "*")]
        if unknown:
            raise ValueError(
                f"A method is given for the network {unknown[0]!r}, which does not exist or has no "
                f"trainable variable.{did_you_mean(unknown[0], networks)} "
                f"Networks: {', '.join(map(repr, networks)) or 'none'}."
            )
        missing = [name for name in networks if name not in methods]
        if missing and "*" not in methods:
            raise ValueError(
                f"No method is given for the network {missing[0]!r}. Name one, or one for all "
                'others as "*".'
            )
        chosen = [name if name in methods else "*" for name in networks]
        return [(key, [name == key for name in chosen]) for key in methods]


def check_scopable(outer: Method, inner: Method) -> None:
    """Raise unless `inner` can be applied block by block."""
    refuse_rows(outer, inner)
    if inner.scope is not None:
        raise ValueError(
            f"{type(outer).__name__}({type(inner).__name__}(...)): a scope inside a scope. "
            "Keep one of PerVariable and PerNetwork."
        )
