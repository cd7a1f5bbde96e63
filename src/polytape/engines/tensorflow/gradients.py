"""The gradients of several objectives by one variable, dense or sparse."""

from collections.abc import Sequence

import tensorflow as tf

from polytape.engines.contract import Rows, Tensor

_SMALL = 4096  # entries of a gradient
_LONG = 2**16  # entries of a row that is not kept side by side with others


class _Rows:
    """Rows as they lie, if they are long; else side by side."""

    sliced = False

    def __init__(self, gradients: Sequence[Tensor]) -> None:
        self._like = gradients
        self._sparse = all(isinstance(gradient, tf.IndexedSlices) for gradient in gradients)
        self._rows = (
            _compact(gradients) if self._sparse else [*map(tf.convert_to_tensor, gradients)]
        )
        size = self._rows[0].shape.num_elements()
        self._long = size is not None and size > _LONG
        # One row, as every private variable has, needs no matrix: a small graph is all overhead.
        self._matrix = None if len(self._rows) == 1 or self._long else self._side_by_side()

    def _side_by_side(self) -> Tensor:
        stacked = tf.cast(tf.stack(self._rows), _precision(self._rows[0]))
        return tf.reshape(stacked, [len(self._rows), -1])

    def _flat(self) -> list[Tensor]:
        return [tf.reshape(tf.cast(row, _precision(row)), [-1]) for row in self._rows]

    def gram(self, mixed: Tensor | None = None, kept: Tensor | None = None) -> Tensor:
        def product(matrix: Tensor) -> Tensor:
            if kept is not None:
                matrix = tf.where(kept[:, None], matrix, tf.zeros((), matrix.dtype))
            if mixed is not None:
                matrix = tf.matmul(tf.cast(mixed, matrix.dtype), matrix)
            return tf.matmul(matrix, matrix, transpose_b=True)

        if not self._long:
            return tf.cast(product(self._all()), tf.float32)
        # In as many pieces as there are rows: a stacked copy is never larger than one of them, and
        # short sums are rounded less.
        rows = self._flat()
        pieces, size = min(len(rows), 16), rows[0].shape[0]
        width = size // pieces

        length = tf.constant([width])

        def piece(number: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
            start = tf.reshape(number * width, [1])  # once for all rows: their number is what costs
            cut = tf.stack([tf.slice(row, start, length) for row in rows])
            return number + 1, total + product(cut)

        if pieces * width < size:
            total = product(tf.stack([row[pieces * width :] for row in rows]))
        else:
            count = len(rows) if mixed is None else mixed.shape[0]
            total = tf.zeros([count, count], rows[0].dtype)
        _, total = tf.while_loop(
            lambda number, _: number < pieces, piece, [0, total], parallel_iterations=1
        )
        return tf.cast(total, tf.float32)

    def squares(self) -> list[Tensor]:
        if self._matrix is not None:
            sums = tf.reduce_sum(tf.square(self._matrix), axis=1)
            return tf.unstack(tf.cast(sums, tf.float32))
        rows = [tf.cast(row, _precision(row)) for row in self._rows]
        return [tf.cast(2.0 * tf.nn.l2_loss(row), tf.float32) for row in rows]

    def _all(self) -> Tensor:
        return self._side_by_side() if self._matrix is None else self._matrix

    def matrix(self) -> Tensor:
        return tf.cast(self._all(), tf.float32)

    def weighted_sum(self, weights: Tensor, kept: Tensor | None) -> Tensor:
        if len(self._rows) == 1:  # as of every private variable: in as few operations as it takes
            row, weight = self._rows[0], tf.reshape(weights, [])
            row = tf.cast(row, _precision(row))
            weight = tf.cast(weight, row.dtype)
            if kept is None:
                return self.unflatten(weight * row)
            weight = tf.where(tf.reshape(kept, []), weight, tf.zeros((), row.dtype))
            return self.unflatten(tf.math.multiply_no_nan(row, weight))  # zero times NaN is zero
        if self._matrix is None:  # a stacked copy would be another one of all rows
            rows = self._flat()
            weights = tf.cast(weights, rows[0].dtype)
            terms = [weights[index] * row for index, row in enumerate(rows)]
            if kept is not None:
                none = tf.zeros((), rows[0].dtype)
                terms = [tf.where(kept[index], term, none) for index, term in enumerate(terms)]
            return self.unflatten(tf.add_n(terms))
        matrix, none = self._matrix, tf.zeros((), self._matrix.dtype)
        matrix = matrix if kept is None else tf.where(kept[:, None], matrix, none)
        return self.unflatten(tf.matmul(tf.cast(weights, matrix.dtype)[None, :], matrix)[0])

    def unflatten(self, flat: Tensor) -> Tensor:
        like = self._like[0]
        if not self._sparse:
            known = like.shape.is_fully_defined()  # not behind Dense layers of batches of any size
            same = known and flat.shape == like.shape
            shaped = flat if same else tf.reshape(flat, like.shape if known else tf.shape(like))
            return tf.cast(shaped, like.dtype)
        values = tf.cast(tf.reshape(flat, [-1, *like.values.shape[1:]]), like.values.dtype)
        return tf.IndexedSlices(values, _touched(self._like), like.dense_shape)


def _precision(gradient: Tensor) -> tf.DType:
    return tf.float64 if gradient.dtype == tf.float64 else tf.float32


def rows(gradients: Sequence[Tensor]) -> _Rows:
    return _Rows(gradients)


def _touched(gradients: Sequence[tf.IndexedSlices]) -> Tensor:
    """The table rows that any of the gradients touches, sorted, repeated as often as touched."""
    return tf.sort(tf.concat([gradient.indices for gradient in gradients], axis=0))


def _compact(gradients: Sequence[tf.IndexedSlices]) -> list[Tensor]:
    """Each gradient's values in the layout of `_touched`, all of a table row in its first slot.

    Shapes are static, so this compiles under XLA, and sizes are those of the batch, never of the
    table.
    """
    touched = _touched(gradients)
    return [_place(gradient, touched) for gradient in gradients]


def _place(gradient: tf.IndexedSlices, touched: Tensor) -> Tensor:
    slots = tf.searchsorted(touched, gradient.indices)
    return tf.math.unsorted_segment_sum(gradient.values, slots, tf.shape(touched)[0])


def squares(rows: Sequence[Rows]) -> Tensor:
    return tf.stack([square for each in rows for square in each.squares()])


def has_value(tensor: Tensor) -> bool:
    if isinstance(tensor, tf.Variable):  # its value in the function being traced
        return not tf.inside_function()
    return not tf.is_symbolic_tensor(tensor)


def dense(gradient: Tensor) -> Tensor:
    return tf.cast(tf.convert_to_tensor(gradient), tf.float32)


def as_update(gradient: Tensor) -> Tensor:
    return gradient


def add_where(total: Tensor, condition: Tensor, gradient: Tensor) -> Tensor:
    if not isinstance(total, tf.IndexedSlices):
        dense = tf.convert_to_tensor(gradient)
        return total + tf.where(condition, dense, tf.zeros_like(dense))
    values = _place(gradient, total.indices)
    values = total.values + tf.where(condition, values, tf.zeros_like(values))
    return tf.IndexedSlices(values, total.indices, total.dense_shape)


def zeros_like(gradient: Tensor) -> Tensor:
    if not isinstance(gradient, tf.IndexedSlices):
        return tf.zeros_like(gradient)
    values = tf.zeros_like(gradient.values)
    return tf.IndexedSlices(values, _touched([gradient]), gradient.dense_shape)


def where(condition: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """One of two gradients or other tensors of a shape; of two sparse ones as a sparse one."""
    pair = first, second
    if not all(isinstance(gradient, tf.IndexedSlices) for gradient in pair):
        return tf.where(condition, *map(tf.convert_to_tensor, pair))
    none = [tf.zeros_like(gradient.values) for gradient in pair]
    values = [
        tf.where(condition, first.values, none[0]),
        tf.where(condition, none[1], second.values),
    ]
    indices = tf.concat([gradient.indices for gradient in pair], axis=0)
    return tf.IndexedSlices(tf.concat(values, axis=0), indices, first.dense_shape)


def finite(gradients: Sequence[Tensor]) -> Tensor:
    # A sum is finite only if every term is, and costs no boolean copy of the gradient. A product
    # with ones is the fastest one. Small gradients are summed in one go: their number is what
    # costs.
    small, sums = [], []
    for gradient in gradients:
        sparse = isinstance(gradient, tf.IndexedSlices)
        values = tf.cast(gradient.values if sparse else gradient, tf.float32)
        size, width = values.shape.num_elements(), values.shape[-1:]
        if size is not None and size <= _SMALL:
            small.append(values if values.shape.rank == 1 else tf.reshape(values, [-1]))
            continue
        if width.is_fully_defined() and width.rank:
            values = tf.linalg.matvec(tf.reshape(values, [-1, *width]), tf.ones(width))
        sums.append(tf.reduce_sum(values))
    if small:
        sums.append(tf.reduce_sum(tf.concat(small, axis=0)))
    return tf.math.is_finite(tf.add_n(sums))


def in_range(
    gradients: Sequence[Tensor], values: Sequence[Tensor] = (), exact: bool = False
) -> Tensor:
    if exact:  # XLA would join the squares with the step, and round otherwise
        return finite([*gradients, *values])
    small: dict[tf.DType, list[Tensor]] = {}
    flat = []
    for gradient in gradients:
        found = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
        found = tf.cast(found, _precision(found))
        size = found.shape.num_elements()
        if size is not None and size <= _SMALL:
            found = found if found.shape.rank == 1 else tf.reshape(found, [-1])
            small.setdefault(found.dtype, []).append(found)
        else:
            flat.append(found)
    flat += [tf.concat(found, axis=0) for found in small.values()]
    # One kernel on all cores, which makes half of the sum of squares.
    squares = [tf.cast(2.0 * tf.nn.l2_loss(found), tf.float32) for found in flat]
    sums = [tf.reduce_sum(tf.cast(value, tf.float32)) for value in values]
    return tf.math.is_finite(tf.add_n([*squares, *sums]))


def stack(scalars: Sequence[Tensor]) -> Tensor:
    return tf.stack(list(scalars))


def matmul(first: Tensor, second: Tensor) -> Tensor:
    return tf.matmul(first, second)
