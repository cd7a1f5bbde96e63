"""What gradients are taken by: variables, in any of the forms that people have them in."""

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from polytape.contract import received
from polytape.differentiation.replicated import told_of
from polytape.engines import check_native, engine

UNNAMED = "unnamed"  # the first part of the path of a variable that has no name


class Variables(NamedTuple):
    """Variables in order, and a path for each, the first part of which is its network."""

    variables: list[Any]
    paths: tuple[str, ...]
    frozen: tuple[str, ...]  # paths of those that are part of a module and do not train

    @classmethod
    def of(cls, caller: str, given: Any) -> "Variables":
        """The variables that are meant, or an error if there are none or one is there twice.

        caller  who asks, for errors
        given   variables, layers or models, modules of the framework; a list of them, a dict
                {name: one of them}, or pairs (name, variable) such as `named_parameters()` gives

        Of a Keras layer its trainable variables, of a PyTorch module all parameters. Raises
        `TypeError` for anything else, `ValueError` for a variable that does not train.
        """
        found = list(_expanded(caller, given, ""))
        if not found:
            raise ValueError(
                f"{caller} got no variables. A model that was never called has none yet: call it "
                "once on a batch, or pass an Input, before asking for gradients. Of a frozen model "
                "none is trainable."
            )
        variables = [item.variable for item in found]
        paths: list[str] = []
        for index, item in enumerate(found):
            paths.append(item.path or f"{UNNAMED}/{path_or_number(item.variable, index)}")
        _check_once(caller, variables, paths)
        resting = []
        for path, item in zip(paths, found, strict=True):
            if item.frozen and item.alone:
                raise ValueError(
                    f"{caller} got the variable {path!r}, which is frozen ({item.frozen}): no "
                    "gradient is taken by it. Leave it out, set it to train, or give the layer or "
                    "module that holds it, whose frozen variables are left alone."
                )
            resting += [path] if item.frozen else []
        if len(resting) == len(found):
            raise ValueError(
                f"{caller}: all {len(found)} parameters are frozen (requires_grad=False), so there "
                "is nothing to train. Call module.requires_grad_(True)."
            )
        return cls(variables, tuple(paths), tuple(resting))

    def told(self, caller: str, names: Sequence[str]) -> dict[str, Any]:
        """What processes have to say alike that take gradients of `names` together."""
        return {"at": caller, "objectives": [*names], **told_of(self.variables)}

    def check_same(self) -> None:
        """Raise `RuntimeError` where processes train together and their copies are not equal.

        Looked at once, before the first gradients by these variables.
        """
        if engine().processes() == 1 or not self.variables:
            return
        first, ids = self.variables[0], tuple(map(id, self.variables))
        known = _SAME.get(id(first))
        if known is not None and known[0]() is first and ids in known[1]:
            return
        differing = engine().differing(self.variables)
        if differing:
            raise RuntimeError(
                f"{len(differing)} of {len(ids)} variables have other values in some of the "
                f"{engine().processes()} processes, first {self.paths[differing[0]]!r}. "
                "All processes get the same updates, so their copies would never become equal. "
                "Before the loop build the networks from one seed in all processes, or give all "
                "of them what process 0 has: for p in module.parameters(): "
                "torch.distributed.broadcast(p.data, src=0); torch.nn.parallel."
                "DistributedDataParallel(module) does that, too."
            )
        others = known[1] if known is not None and known[0]() is first else set()
        _SAME[id(first)] = weakref.ref(first), {*others, ids}


# Sets of variables that were found equal in all processes, by the first: they are looked at once.
_SAME: dict[int, tuple[weakref.ref[Any], set[tuple[int, ...]]]] = {}


def layers_of(caller: str, given: Any) -> list[keras.layers.Layer]:
    """The layers and models that variables were given by; TypeError for anything else.

    caller  begins the error: "pt.gradients with `per`"
    """
    if isinstance(given, keras.layers.Layer):
        return [given]
    if isinstance(given, Mapping):
        return [layer for item in given.values() for layer in layers_of(caller, item)]
    if isinstance(given, (list, tuple)) and not (len(given) == 2 and isinstance(given[0], str)):
        return [layer for item in given for layer in layers_of(caller, item)]
    raise TypeError(
        f"{caller} reads gradients off the calls of Keras layers: give the model or the "
        f"layers themselves, not their variables. {received(given)}"
    )


def path_or_number(variable: Any, index: int) -> str:
    """The name that a variable has of itself, or its place."""
    try:
        return str(variable.name or index)
    except AttributeError:  # eager tensors of TensorFlow have none, and say so
        return str(index)


class _Found(NamedTuple):
    """A variable on its way.

    path    "" if it has none
    frozen  what freezes it; "" if it trains
    alone   whether it was given itself, and not what holds it
    """

    path: str
    variable: Any
    frozen: str = ""
    alone: bool = True


def _expanded(caller: str, given: Any, name: str) -> Iterator[_Found]:
    """The variables of one item, below the name that it was given."""
    given = engine().unwrapped(given)
    if isinstance(given, keras.Variable):
        yield _Found(name or given.path, given, "" if given.trainable else "trainable=False")
        return
    if isinstance(given, keras.layers.Layer):
        yield from _of_layer(caller, given, name)
        return
    check_native(f"{caller} got", given)
    module = engine().parameters(given)
    if module is not None:
        for key, parameter in module.items():
            path = "/".join(filter(None, [name, key.replace(".", "/")]))
            yield _Found(path, parameter, _resting(parameter), alone=False)
    elif isinstance(given, Mapping):
        for key, item in given.items():
            yield from _expanded(caller, item, "/".join(filter(None, [name, str(key)])))
    elif isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str):
        yield from _expanded(caller, given[1], "/".join(filter(None, [name, given[0]])))
    elif engine().trains(given) is not None:
        yield _Found(name.replace(".", "/"), given, _resting(given))
    elif isinstance(given, Iterable) and not _single(given):
        for item in given:
            yield from _expanded(caller, item, name)
    else:
        raise TypeError(
            f"{caller} takes variables: of Keras, of {keras.backend.backend()}, or layers, models "
            f"and dicts of them. {received(given)}"
        )


def _resting(variable: Any) -> str:
    return "" if engine().trains(variable) else _FREEZES[keras.backend.backend()]


def _single(item: Any) -> bool:
    return isinstance(item, (str, bytes, np.ndarray)) or keras.ops.is_tensor(item)


def _of_layer(caller: str, layer: Any, name: str) -> Iterator[_Found]:
    if not layer.built:
        raise ValueError(
            f"{caller} got the layer {layer.name!r}, which was never called and has no variables "
            "yet. Call it once on a batch, or pass an Input, before asking for gradients."
        )
    for variable in layer.trainable_variables:
        head, _, rest = variable.path.partition("/")
        below = rest if head == layer.name and rest else variable.path
        yield _Found(f"{name}/{below}" if name else variable.path, variable, alone=False)


def _check_once(caller: str, variables: list[Any], paths: list[str]) -> None:
    first: dict[int, int] = {}
    for index, variable in enumerate(variables):
        if first.setdefault(id(variable), index) != index:
            raise ValueError(
                f"{caller} got the variable {paths[index]!r} twice, as number "
                f"{first[id(variable)]} and {index}: it would be counted and updated twice. Two "
                "networks that share a layer both list its variables; give each one once."
            )


_FREEZES = {"torch": "requires_grad=False", "tensorflow": "trainable=False"}


def path_of(variable: Any) -> str:
    """A name for a variable that tells which network it belongs to."""
    if isinstance(variable, keras.Variable):
        return variable.path
    return str(getattr(variable, "name", None) or "variable")
