"""k-means of numbers on a line, solved exactly."""

from typing import Any

from polytape.contract import Tensor, ops


def cluster_means(values: Tensor, active: Tensor, groups: int) -> Tensor:
    """Each value replaced by the mean of its group, (..., T); zero where inactive.

    values  (..., T)  not negative
    active  (..., T)  bool; values that take no part
    groups  the groups minimise the sum of squared distances to their means, the aim of k-means.
            With no more active values than groups, each keeps its own

    On a line the best groups are intervals of the sorted values, so dynamic programming over the
    last member finds them (Wang and Song, "Ckmeans.1d.dp", R Journal 2011): T steps of T * groups
    operations, no random start.

    >>> from keras import ops
    >>> means = cluster_means(ops.array([1.0, 9.0, 3.0, 10.0]), ops.array([True] * 4), 2)
    >>> [float(m) for m in means]
    [2.0, 9.5, 2.0, 9.5]
    """
    count = values.shape[-1]
    groups = min(groups, count)
    largest = ops.max(ops.where(active, values, 0.0), axis=-1, keepdims=True)
    unit = ops.where(active, values / ops.where(largest > 0, largest, 1.0), 2.0)  # inactive last
    order = ops.argsort(unit, axis=-1)
    line = ops.take_along_axis(unit, order, axis=-1)
    mass = ops.where(line <= 1.0, 1.0, 0.0)
    group = _intervals(line, mass, groups)
    same = ops.cast(group[..., :, None] == group[..., None, :], "float32") * mass[..., None, :]
    kept = ops.where(mass > 0, ops.take_along_axis(values, order, axis=-1), 0.0)
    size = ops.maximum(ops.sum(same, axis=-1), 1.0)
    means = mass * ops.sum(same * kept[..., None, :], axis=-1) / size
    return ops.take_along_axis(means, ops.argsort(order, axis=-1), axis=-1)


def _intervals(line: Tensor, mass: Tensor, groups: int) -> Tensor:
    """The group of each of the sorted values, (..., T) integers."""
    count = line.shape[-1]
    index = ops.arange(count)
    row = ops.arange(groups)[:, None]

    # `mass`, `mean` and `cost` (..., T) are those of the interval from each first member to `last`;
    # the running update does not cancel as a difference of sums would. `before` (..., groups, T)
    # is the least cost of all that precedes a first member, in as many groups as the row says.
    def extend(last: Tensor, carry: Any) -> Any:
        weight, mean, cost, before, begins = carry
        here = ops.take(line, last, axis=-1)[..., None]
        heavy = ops.where(index <= last, ops.take(mass, last, axis=-1)[..., None], 0.0)
        weight = weight + heavy
        new = mean + heavy * (here - mean) / ops.maximum(weight, 1.0)
        cost = cost + heavy * (here - mean) * (here - new)
        total = ops.where(index <= last, cost, 1e30)[..., None, :] + before
        begin = ops.cast(ops.argmin(total, axis=-1), "int32")[..., None]
        least = ops.roll(ops.min(total, axis=-1, keepdims=True), 1, axis=-2)
        following = ops.logical_and(index == last + 1, row > 0)
        before = ops.where(following, least, before)
        return weight, new, cost, before, ops.where(index == last, begin, begins)

    zeros = ops.zeros_like(line)
    before = zeros[..., None, :] + ops.where(ops.logical_and(index == 0, row == 0), 0.0, 1e30)
    begins = ops.cast(ops.zeros_like(before), "int32")
    *_, begins = ops.fori_loop(0, count, extend, (zeros, zeros, zeros, before, begins))
    group = ops.cast(zeros, "int32")
    end = group[..., :1] + count - 1
    for k in reversed(range(groups)):
        begin = ops.take_along_axis(begins[..., k, :], end, axis=-1)
        group = group + ops.cast(index >= begin, "int32")
        end = ops.maximum(begin - 1, 0)
    return group
