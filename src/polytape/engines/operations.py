"""What a forward pass did, operation by operation, in the same words on all frameworks."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from polytape.engines.places import Line, Place

Number = int  # of a tensor in a trace


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a forward pass.

    name     as `NAMES` has it: "relu", "argmax", "stop_gradient"; else the framework's own name
    inputs   the tensors it reads;  outputs  those it makes, none where it hands them to Python
    """

    name: str
    inputs: tuple[Number, ...]
    outputs: tuple[Number, ...]
    place: Place


class Size(NamedTuple):
    """How large the entries of a tensor are.

    largest  magnitude, of the finite ones;  finite  whether all are;  nan  whether any is NaN
    """

    largest: float
    finite: bool
    nan: bool = False

    @property
    def zero(self) -> bool:
        return self.finite and self.largest == 0

    @classmethod
    def of(cls, entries: np.ndarray) -> "Size":
        """Of an array of any dtype."""
        if not entries.size:
            return cls(0.0, True)
        lowest, highest = float(entries.min()), float(entries.max())  # NaN if there is one
        if math.isfinite(lowest) and math.isfinite(highest):
            return cls(max(-lowest, highest, 0.0), True)
        there = np.abs(entries[np.isfinite(entries)])
        return cls(float(there.max(initial=0.0)), False, bool(np.isnan(entries).any()))


class Numbers(Protocol):
    """The values of the tensors of a trace, and the gradients of its scalars by them."""

    def value(self, tensor: Number) -> Any:
        """As a NumPy array."""
        ...

    def sizes(self, tensors: Sequence[Number]) -> dict[Number, Size]: ...

    def cotangents(self, scalar: int, tensors: Sequence[Number]) -> dict[Number, Size]:
        """Of those to which a differentiable path leads."""
        ...


@dataclass
class Trace:
    """The operations of a forward pass, in their order, over numbered tensors.

    dtypes   of the tensors;  sources  the tensor of each variable;  scalars  of each scalar
    others   paths of trainable variables that were read and are not among the sources, by tensor
    numbers  None while a function is being traced
    left     the line at which a tensor became NumPy, if one did and the operations do not show it
    """

    operations: Sequence[Operation]
    dtypes: Mapping[Number, str]
    sources: Sequence[Number]
    scalars: Sequence[Number]
    others: Mapping[Number, str] = field(default_factory=dict)
    numbers: Numbers | None = None
    left: Callable[[], Line | None] = lambda: None

    def floating(self, tensor: Number) -> bool:
        """Whether a tensor has numbers that can move a little."""
        kind = self.dtypes.get(tensor, "")
        return "float" in kind or "complex" in kind or kind == "resource"


class LeftFrameworkError(Exception):
    """A function needs the value of a tensor where it has none: NumPy does, while JAX traces."""

    def __init__(self, line: Line | None) -> None:
        super().__init__("a tensor was made into NumPy or a Python number")
        self.line = line


# The words of all frameworks for the same operation.
NAMES: dict[str, tuple[str, ...]] = {
    # what has no derivative, or zero everywhere
    "stop_gradient": (
        "StopGradient",
        "PreventGradient",
        "stop_gradient",
        "detach",
        "detach_",
        "data",
    ),
    "round": ("Round", "Rint", "round", "round_"),
    "floor": ("Floor", "FloorDiv", "floor", "floor_", "floor_divide", "floordiv"),
    "ceil": ("Ceil", "ceil", "ceil_"),
    "trunc": ("trunc", "fix"),
    "sign": ("Sign", "sign", "sign_", "sgn", "heaviside"),
    "argmax": ("ArgMax", "argmax"),
    "argmin": ("ArgMin", "argmin"),
    "argsort": ("argsort",),
    "one_hot": ("OneHot", "one_hot"),
    "a comparison": (
        *("Greater", "GreaterEqual", "Less", "LessEqual", "Equal", "NotEqual", "ApproximateEqual"),
        *(
            "gt",
            "ge",
            "lt",
            "le",
            "eq",
            "ne",
            "greater",
            "less",
            "equal",
            "isclose",
            "greater_equal",
        ),
        *("less_equal", "not_equal"),
    ),
    "a logical operation": (
        *("LogicalAnd", "LogicalOr", "LogicalNot", "and", "or", "not", "xor", "logical_and"),
        *("logical_or", "logical_not", "logical_xor", "invert"),
    ),
    "isfinite": ("IsFinite", "IsNan", "IsInf", "is_finite", "isfinite", "isnan", "isinf"),
    "cast": (
        *("Cast", "convert_element_type", "to", "type", "float", "double", "half", "int", "long"),
        *("bool", "short", "byte", "bfloat16", "type_as"),
    ),
    "an assignment": ("AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"),
    "a copy": ("tensor", "new_tensor"),
    "bitcast": ("Bitcast", "bitcast_convert_type", "view"),
    "a host function": (
        *("PyFunc", "PyFuncStateless", "EagerPyFunc", "pure_callback", "io_callback"),
        *("numpy", "item", "tolist", "array", "python_number"),
    ),
    "a string operation": ("AsString", "StringFormat", "StringToNumber", "StringJoin"),
    "sampling": (
        *("Multinomial", "StatelessMultinomial", "StatelessRandomBinomial", "RandomPoissonV2"),
        *("StatelessRandomPoisson", "RandomBinomial"),
        *("multinomial", "bernoulli", "poisson", "binomial", "normal"),
    ),
    "bincount": ("Bincount", "DenseBincount", "bincount", "histc", "histogram"),
    "bucketize": (
        "Bucketize",
        "SearchSorted",
        "UpperBound",
        "LowerBound",
        "bucketize",
        "searchsorted",
        "digitize",
        "_searchsorted",
    ),
    # what can be flat
    "relu": ("Relu", "relu", "relu_", "threshold"),
    "relu6": ("Relu6", "relu6"),
    "sigmoid": ("Sigmoid", "logistic", "sigmoid", "sigmoid_"),
    "tanh": ("Tanh", "tanh", "tanh_"),
    "softmax": ("Softmax", "softmax"),
    "log_softmax": ("LogSoftmax", "log_softmax"),
    "softplus": ("Softplus", "softplus"),
    "gelu": ("gelu",),
    "silu": ("silu", "swish"),
    "elu": ("Elu", "elu", "Selu", "selu"),
    "hard_sigmoid": ("hard_sigmoid", "hardsigmoid"),
    "maximum": ("Maximum", "max", "maximum", "fmax"),
    "minimum": ("Minimum", "min", "minimum", "fmin"),
    "clip": ("ClipByValue", "clamp", "clip", "clip_", "clamp_", "hardtanh", "hard_tanh"),
    "where": ("SelectV2", "Select", "select_n", "where"),
    "abs": ("Abs", "abs", "absolute"),
    "erf": ("Erf", "erf"),
    "product": ("Prod", "prod", "reduce_prod"),
    "join": (
        *("ConcatV2", "concatenate", "cat", "stack", "Pack", "hstack", "vstack", "concat"),
        *("pad", "Pad", "PadV2", "MirrorPad", "constant_pad_nd"),
    ),
    "square": ("Square", "square", "SquaredDifference", "squared_difference"),
    "power": ("Pow", "pow", "integer_pow", "rpow", "power"),
    "multiply": ("Mul", "mul", "multiply", "rmul", "imul", "mul_", "MulNoNan"),
    "matmul": (
        *("MatMul", "BatchMatMulV2", "BatchMatMulV3", "dot_general", "matmul", "linear", "addmm"),
        *("bmm", "mm", "Einsum", "einsum", "XlaDotV2", "rmatmul", "baddbmm", "tensordot"),
    ),
    "convolution": (
        *("Conv2D", "Conv3D", "DepthwiseConv2dNative", "conv_general_dilated", "conv1d"),
        *("conv2d", "conv3d", "Conv2DBackpropInput", "conv_transpose2d"),
    ),
    # what can be infinite
    "log": ("Log", "log", "log_"),
    "log1p": ("Log1p", "log1p"),
    "sqrt": ("Sqrt", "sqrt", "sqrt_"),
    "rsqrt": ("Rsqrt", "rsqrt"),
    "norm": ("norm", "EuclideanNorm", "linalg_norm", "linalg_vector_norm", "vector_norm", "cdist"),
    "divide": ("RealDiv", "Div", "div", "truediv", "divide", "true_divide", "rtruediv", "Xdivy"),
    "reciprocal": ("Reciprocal", "Inv", "reciprocal"),
    "exp": ("Exp", "exp", "exp_", "expm1", "Expm1"),
    "arccos": ("Acos", "acos", "arccos"),
    "arcsin": ("Asin", "asin", "arcsin"),
    "atan2": ("Atan2", "atan2"),
}
_FOUND = {theirs: ours for ours, names in NAMES.items() for theirs in names}


def name_of(theirs: str) -> str:
    """The word for an operation that a framework calls so."""
    return _FOUND.get(theirs, theirs)
