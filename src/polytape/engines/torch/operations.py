"""The operations of PyTorch that a function calls, as its overrides see them."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import keras
import torch
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from polytape.engines.contract import Forward, Tensor, Variable
from polytape.engines.operations import LeftFrameworkError, Operation, Size, Trace, name_of
from polytape.engines.places import here, line_of_error, paths_of
from polytape.engines.torch.recording import GraphRecording, raw, record

_IN_PLACE = ("setitem", "iadd", "isub", "imul", "itruediv", "ipow", "imatmul")
CUSTOM = "a custom function"
_PROPERTIES = ("data", "real", "imag", "T", "mT", "H")


class Recorder(TorchFunctionMode):
    """Notes every call of the framework while it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.dtypes: dict[int, str] = {}
        self.tensors: dict[int, Tensor] = {}
        self._custom: set[int] = set()  # numbers of what was made inside of one
        self._kept: list[Tensor] = []
        self._numbers: dict[int, int] = {}  # of tensors by identity; those met are kept alive
        self.edges: dict[int, Any] = {}  # to tensors that were changed since, in place

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = [self.number(tensor) for tensor in _tensors((args, kwargs or {}))]
        name = _name(func)
        changed = name.endswith("_") or name in _IN_PLACE or bool((kwargs or {}).get("inplace"))
        if changed and given and name:
            self._keep(given[0])
        found = _differentiable(func(*args, **(kwargs or {})))
        if not given or not name:
            return found
        made = list(_tensors(found))
        if name == "setitem":
            made = [args[0]]
        if not made and name_of(name) != "a host function":
            return found  # a shape, a flag
        grows = [t for t in _tensors((args, kwargs or {})) if t.requires_grad]
        inside = torch.is_grad_enabled()
        if grows and not inside and any(tensor.is_floating_point() for tensor in made):
            name = _switched_off(name)
        elif not inside and self._custom.intersection(given):
            name = CUSTOM
        fresh = [t for t in made if not any(t is other for other in _tensors((args, kwargs or {})))]
        outputs = [self.number(t, anew=changed or any(t is f for f in fresh)) for t in made]
        if outputs == given[:1]:
            return found  # handed back as it was: `to` of the same type
        self._custom.update(outputs if name == CUSTOM else ())
        self.operations.append(Operation(name_of(name), tuple(given), tuple(outputs), here()))
        return found

    def _keep(self, number: int) -> None:
        """What a tensor is before it is changed in place."""
        tensor = self.tensors[number]
        if tensor.requires_grad and not tensor.is_leaf:
            self.edges[number] = get_gradient_edge(tensor)
        self.tensors[number] = tensor.detach().clone()
        self._kept.append(tensor)

    def number(self, tensor: Tensor, anew: bool = False) -> int:
        """Of a tensor; another one for what it has become."""
        known = self._numbers.get(id(tensor))
        if known is None or anew:
            known = len(self.tensors)
            self._numbers[id(tensor)] = known
            self.tensors[known] = tensor
            self.dtypes[known] = str(tensor.dtype).removeprefix("torch.")
        return known


def _differentiable(found: Any) -> Any:
    """What a function returned, without the promise of a derivative that PyTorch has not."""
    known = isinstance(found, torch.Tensor) and found.grad_fn is not None
    return found.detach() if known and found.grad_fn.name().endswith("NotImplemented") else found


def _switched_off(name: str) -> str:
    """What an operation is called where PyTorch records nothing."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.endswith("torch/autograd/function.py"):
            return CUSTOM  # whose derivative is its own
        if "torch/distributions" in file:
            return "sampling"
        frame = frame.f_back
    return name if name_of(name) == "sampling" else "no_grad"


def _name(func: Any) -> str:
    """Of a function of the framework; "" for what tells only of shapes and the like."""
    name = str(getattr(func, "__name__", func))
    if name == "__get__":
        found = str(getattr(getattr(func, "__self__", None), "__name__", ""))
        return found if found in _PROPERTIES else ""
    if name in ("__float__", "__int__", "__bool__", "__index__"):
        return "python_number"
    return name.removeprefix("__").removesuffix("__")


def _tensors(nest: Any) -> Iterator[Tensor]:
    if isinstance(nest, torch.Tensor):
        yield nest
    elif isinstance(nest, keras.Variable):
        yield nest.value
    elif isinstance(nest, Mapping):
        for item in nest.values():
            yield from _tensors(item)
    elif isinstance(nest, (list, tuple)):
        for item in nest:
            yield from _tensors(item)


class _Numbers:
    def __init__(self, recorder: Recorder, scalars: Sequence[Tensor]) -> None:
        self._tensors, self._edges, self._scalars = recorder.tensors, recorder.edges, scalars

    def value(self, tensor: int) -> Any:
        return self._tensors[tensor].detach().cpu().float().numpy()

    def sizes(self, tensors: Sequence[int]) -> dict[int, Size]:
        return {tensor: size_of(self._tensors[tensor]) for tensor in tensors}

    def cotangents(self, scalar: int, tensors: Sequence[int]) -> dict[int, Size]:
        loss = self._scalars[scalar]
        moving = [n for n in tensors if n in self._edges or self._tensors[n].requires_grad]
        if not loss.requires_grad or not moving:
            return {}
        sources: Any = [self._edges.get(n, self._tensors[n]) for n in moving]
        found: Sequence[Any] = torch.autograd.grad(
            loss, sources, retain_graph=True, allow_unused=True
        )
        pairs = zip(moving, found, strict=True)
        return {n: size_of(gradient) for n, gradient in pairs if gradient is not None}


def size_of(value: Tensor) -> Size:
    entries = value.detach()
    entries = entries.to_dense() if entries.is_sparse else entries
    entries = entries.abs() if entries.is_complex() else entries
    wide = entries.dtype in (torch.float32, torch.float64)
    return Size.of((entries if wide else entries.to(torch.float32)).cpu().numpy())


def trace(
    forward: Forward, variables: Callable[[], Sequence[Variable]]
) -> tuple[GraphRecording, Trace]:
    recorder = Recorder()
    try:
        with torch.random.fork_rng(), recorder:
            recording = record(forward, variables)
    except RuntimeError as error:  # of a tensor that has gradients
        if "numpy()" not in str(error):
            raise
        raise LeftFrameworkError(line_of_error(error)) from error
    recording.lasting = True
    sources = [recorder.number(raw(variable)) for variable in variables()]
    scalars = [recorder.number(scalar) for scalar in recording.scalars]
    made = {number for operation in recorder.operations for number in operation.outputs}
    strange = {
        number: tensor
        for number, tensor in recorder.tensors.items()
        if tensor.is_leaf and tensor.requires_grad and number not in {*sources, *made}
    }
    held = zip(strange.items(), paths_of([*strange.values()]), strict=True)
    others = {n: path or f"a tensor of shape {tuple(t.shape)}" for (n, t), path in held}
    numbers = _Numbers(recorder, recording.scalars)
    return recording, Trace(recorder.operations, recorder.dtypes, sources, scalars, others, numbers)
