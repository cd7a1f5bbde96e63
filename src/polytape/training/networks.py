"""What may be given as the networks of a model."""

import inspect
import itertools
from collections.abc import Mapping

import keras

from polytape.contract.types import Anything, Function
from polytape.engines import check_distribution, engine


def bare(networks: Anything) -> Anything:
    """Named networks without the wrappers that some of them are in."""
    if not isinstance(networks, Mapping):
        return networks
    return {name: engine().unwrapped(network) for name, network in networks.items()}


def check_networks(networks: Anything, forward: Function | None) -> None:
    """Raise unless these are named networks and a function."""
    if not isinstance(networks, Mapping) or not networks:
        raise TypeError(
            'pt.Model(networks=...) takes a dict {"encoder": encoder, ...} of Keras models or '
            f"layers. Received: {networks!r}."
        )
    for name, network in networks.items():
        if not isinstance(network, keras.layers.Layer):
            check_distribution(f"pt.Model(networks={{{name!r}: ...}})", network)
            raise TypeError(
                f"Network {name!r} is no Keras model or layer. Received: {network!r} of type "
                f"{type(network).__name__}."
            )
        if not isinstance(name, str) or not name or name == "*":
            raise ValueError(f'A network needs a name other than "*". Received: {name!r}.')
    if forward is not None and not _takes_two(forward):
        raise TypeError(
            "`forward` is a function of the networks and the inputs, as in "
            'lambda networks, x: {"code": networks["encoder"](x)}. '
            f"Received: {forward!r}."
        )


def _takes_two(forward: Function) -> bool:
    """Whether it is a function of two arguments, as far as can be known."""
    if not callable(forward):
        return False
    try:
        inspect.signature(forward).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # written in C
        return True
    return True


def refuse_shared(networks: Mapping[str, keras.layers.Layer]) -> None:
    """Raise if networks share variables: Keras would save, and load, them as separate ones."""
    for (first, one), (second, other) in itertools.combinations(networks.items(), 2):
        shared = {id(v) for v in one.variables} & {id(v) for v in other.variables}
        if shared:
            path = next(v.path for v in one.variables if id(v) in shared)
            raise ValueError(
                f"Networks {first!r} and {second!r} share the variable {path!r}, which a saved "
                "file would hold apart: after loading they would train two copies. Give the shared "
                "layer an entry of its own in `networks` and call it in `forward`, or use "
                "save_weights() and build the networks in code."
            )
