"""The operations that methods and solvers are written in: those of `keras.ops`, or NumPy's own.

On T x T numbers an operation of an eager framework takes longer to be called than to be done. Where
numbers are at hand on the CPU, an engine may evaluate a method on NumPy arrays instead: inside
`on_arrays` every operation here is NumPy's, at a tenth of the price of `keras.ops`. It is always so
on the NumPy backend. Anything written in these operations, and in those that arrays and tensors
have themselves, works both ways; where values may be read, `eager()` says so, and iterations may
end as soon as they are done.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

_BACKEND = keras.backend.backend()
_SWITCHES = _BACKEND == "torch"  # other engines compile what they evaluate


class _Now(threading.local):
    arrays = _BACKEND == "numpy"


_now = _Now()


def eager() -> bool:
    """Whether tensors are NumPy arrays here, whose values may be read."""
    return _now.arrays


@contextlib.contextmanager
def on_arrays() -> Iterator[None]:
    """Inside, and in this thread, all tensors are NumPy arrays."""
    before = _now.arrays
    _now.arrays = True
    try:
        with np.errstate(all="ignore"):  # what is not finite is looked for where it matters
            yield
    finally:
        _now.arrays = before


def _either(name: str, of_numpy: Callable[..., Any]) -> Callable[..., Any]:
    of_keras: Callable[..., Any] = getattr(keras.ops, name)
    if _BACKEND == "numpy":
        return of_numpy
    if not _SWITCHES:
        return of_keras

    @functools.wraps(of_keras)
    def run(*args: Any, **kwargs: Any) -> Any:
        return (of_numpy if _now.arrays else of_keras)(*args, **kwargs)

    @functools.wraps(of_keras)
    def run_on(first: Any, second: Any) -> Any:  # quicker to be called
        return (of_numpy if _now.arrays else of_keras)(first, second)

    return run_on if isinstance(of_numpy, np.ufunc) and of_numpy.nin == 2 else run


def _where(condition: Any, first: Any, second: Any) -> Any:
    if type(first) is float and type(second) is float:
        first = np.float32(first)
    return np.where(condition, first, second)


def _clip(values: Any, low: Any, high: Any) -> Any:
    return np.minimum(np.maximum(values, low), high)


def _reduced(ufunc: np.ufunc) -> Callable[..., Any]:
    reduce: Callable[..., Any] = ufunc.reduce

    def run(values: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return reduce(values, axis, None, None, keepdims)

    return run


def _mean(values: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return np.mean(values, axis=axis, keepdims=keepdims, dtype="float32")


def _cast(values: Any, dtype: Any) -> Any:
    return values.astype(dtype) if isinstance(values, np.ndarray) else np.asarray(values, dtype)


def _diagonal(values: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    return values.diagonal(offset, axis1, axis2)


def _zeros_like(values: Any, dtype: Any = None) -> Any:
    return np.zeros(np.shape(values), dtype or values.dtype)


def _ones_like(values: Any, dtype: Any = None) -> Any:
    return np.ones(np.shape(values), dtype or values.dtype)


def _convert_to_tensor(values: Any, dtype: Any = None) -> Any:
    array = np.asarray(values)
    if dtype is None and not isinstance(values, (np.ndarray, np.generic)):
        dtype = {"f": "float32", "i": "int32"}.get(array.dtype.kind)
    return array if dtype is None else array.astype(dtype, copy=False)


@functools.lru_cache(maxsize=128)
def _eye(size: int, dtype: Any = "float32") -> Any:
    found = np.eye(size, dtype=dtype)
    found.flags.writeable = False  # several callers have it
    return found


def _arange(*limits: Any, dtype: Any = "int32") -> Any:
    return np.arange(*limits, dtype=dtype)


def _zeros(shape: Any, dtype: Any = "float32") -> Any:
    return np.zeros(shape, dtype)


def _ones(shape: Any, dtype: Any = "float32") -> Any:
    return np.ones(shape, dtype)


def _full(shape: Any, value: Any, dtype: Any = "float32") -> Any:
    return np.full(shape, value, dtype)


def _pad(values: Any, widths: Sequence[tuple[int, int]]) -> Any:
    shape = [low + size + high for size, (low, high) in zip(values.shape, widths, strict=True)]
    found = np.zeros(shape, values.dtype)
    inside = (slice(low, low + n) for n, (low, _) in zip(values.shape, widths, strict=True))
    found[tuple(inside)] = values
    return found


def _one_hot(places: Any, count: int, dtype: Any = "float32") -> Any:
    return (np.asarray(places)[..., None] == np.arange(count)).astype(dtype)


def _flip(values: Any, axis: Any = None) -> Any:
    return np.ascontiguousarray(np.flip(values, axis))


def _segment_sum(values: Any, segments: Any, num_segments: int) -> Any:
    found = np.zeros((num_segments, *values.shape[1:]), values.dtype)
    np.add.at(found, segments, values)
    return found


def _softmax(logits: Any, axis: int = -1) -> Any:
    power = np.exp(logits - np.max(logits, axis=axis, keepdims=True))
    return power / np.sum(power, axis=axis, keepdims=True)


def _solve(matrix: Any, rhs: Any) -> Any:
    return np.linalg.solve(matrix, rhs)


def _eigh(matrix: Any) -> tuple[Any, Any]:
    found = np.linalg.eigh(matrix)
    return found[0], found[1]


def _while_loop(going: Callable[..., Any], step: Callable[..., Any], start: Sequence[Any]) -> Any:
    now = tuple(start)
    while going(*now):
        now = tuple(step(*now))
    return now


def _fori_loop(first: int, end: int, step: Callable[..., Any], start: Any) -> Any:
    for index in range(first, end):
        start = step(index, start)
    return start


def _cond(condition: Any, one: Callable[[], Any], other: Callable[[], Any]) -> Any:
    return one() if condition else other()


abs = _either("abs", np.absolute)
absolute = abs
add = _either("add", np.add)
all = _either("all", _reduced(np.logical_and))
any = _either("any", _reduced(np.logical_or))
arange = _either("arange", _arange)
argmax = _either("argmax", np.argmax)
argmin = _either("argmin", np.argmin)
argsort = _either("argsort", functools.partial(np.argsort, kind="stable"))
array = _either("array", _convert_to_tensor)
broadcast_to = _either("broadcast_to", np.broadcast_to)
cast = _either("cast", _cast)
clip = _either("clip", _clip)
concatenate = _either("concatenate", np.concatenate)
cond = _either("cond", _cond)
convert_to_numpy = _either("convert_to_numpy", np.asarray)
convert_to_tensor = _either("convert_to_tensor", _convert_to_tensor)
cumsum = _either("cumsum", np.cumsum)
diag = _either("diag", np.diag)
diagonal = _either("diagonal", _diagonal)
eigh = _either("eigh", _eigh)
equal = _either("equal", np.equal)
exp = _either("exp", np.exp)
expm1 = _either("expm1", np.expm1)
eye = _either("eye", _eye)
flip = _either("flip", _flip)
floor = _either("floor", np.floor)
fori_loop = _either("fori_loop", _fori_loop)
full = _either("full", _full)
full_like = _either("full_like", np.full_like)
is_tensor = _either("is_tensor", lambda value: isinstance(value, (np.ndarray, np.generic)))
isfinite = _either("isfinite", np.isfinite)
isnan = _either("isnan", np.isnan)
log = _either("log", np.log)
log1p = _either("log1p", np.log1p)
logical_and = _either("logical_and", np.logical_and)
logical_not = _either("logical_not", np.logical_not)
logical_or = _either("logical_or", np.logical_or)
max = _either("max", _reduced(np.maximum))
maximum = _either("maximum", np.maximum)
mean = _either("mean", _mean)
min = _either("min", _reduced(np.minimum))
minimum = _either("minimum", np.minimum)
mod = _either("mod", np.mod)
multiply = _either("multiply", np.multiply)
not_equal = _either("not_equal", np.not_equal)
one_hot = _either("one_hot", _one_hot)
ones = _either("ones", _ones)
ones_like = _either("ones_like", _ones_like)
pad = _either("pad", _pad)
power = _either("power", np.power)
reshape = _either("reshape", np.reshape)
roll = _either("roll", np.roll)
segment_sum = _either("segment_sum", _segment_sum)
shape = _either("shape", np.shape)
sign = _either("sign", np.sign)
softmax = _either("softmax", _softmax)
solve = _either("solve", _solve)
sort = _either("sort", np.sort)
sqrt = _either("sqrt", np.sqrt)
square = _either("square", np.square)
squeeze = _either("squeeze", np.squeeze)
stack = _either("stack", np.stack)
stop_gradient = _either("stop_gradient", np.asarray)
sum = _either("sum", _reduced(np.add))
swapaxes = _either("swapaxes", np.swapaxes)
take = _either("take", np.take)
take_along_axis = _either("take_along_axis", np.take_along_axis)
transpose = _either("transpose", np.transpose)
unstack = _either("unstack", lambda values, axis=0: list(np.moveaxis(values, axis, 0)))
where = _either("where", _where)
while_loop = _either("while_loop", _while_loop)
zeros = _either("zeros", _zeros)
zeros_like = _either("zeros_like", _zeros_like)


def uniform(shape: tuple[int, ...], seed: Any, minval: float = 0.0, maxval: float = 1.0) -> Any:
    """Random numbers between two bounds, the same ones whatever they are evaluated on."""
    return _drawn(keras.random.uniform(shape, minval, maxval, seed=seed))


def normal(shape: tuple[int, ...], seed: Any) -> Any:
    """Random numbers of a normal distribution, the same ones whatever they are evaluated on."""
    return _drawn(keras.random.normal(shape, seed=seed))


def _drawn(numbers: Any) -> Any:
    return keras.ops.convert_to_numpy(numbers) if _now.arrays else numbers
