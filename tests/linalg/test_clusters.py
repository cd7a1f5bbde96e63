"""k-means on a line: the optimum, certified by trying every partition."""

import numpy as np
import pytest
from keras import ops
from sklearn.cluster import KMeans

from compiled import compiled
from partitions import best_groups
from polytape.linalg.clusters import cluster_means

Array = np.ndarray


def found(values: Array, active: Array, groups: int) -> Array:
    inputs = (ops.convert_to_tensor(np.float32(values)), ops.convert_to_tensor(active))
    means = compiled(lambda v, a: cluster_means(v, a, groups))(*inputs)
    return np.float64(ops.convert_to_numpy(means))


def cost(values: Array, means: Array) -> Array:
    return ((values - means) ** 2).sum(-1)


@pytest.mark.parametrize("groups", [1, 2, 3, 5, 9])
def test_no_partition_is_better(groups: int) -> None:
    rng = np.random.default_rng(groups)
    values = np.concatenate([rng.uniform(size=(8, 7)), np.exp(3 * rng.normal(size=(8, 7)))])
    values[0], values[1, 2:6] = 0.3, values[1, 0]
    active = rng.random(values.shape) > 0.2
    active[:, 0] = True
    means = found(values, active, groups)
    assert (means[~active] == 0).all()
    for value, mean, on in zip(values, means, active, strict=True):
        right = best_groups(value[on], groups)
        assert cost(value[on], mean[on]) <= cost(value[on], right) + 1e-5 * (value[on] ** 2).sum()
        assert len(np.unique(mean[on].round(5))) <= groups
        assert mean[on].sum() == pytest.approx(value[on].sum(), rel=1e-5)


def test_small_values_are_told_apart_beside_large_ones() -> None:
    values = np.array([1e6, 1.0, 10.0, 1.5])
    np.testing.assert_allclose(
        found(values, np.ones(4, bool), 3), [1e6, 1.25, 10.0, 1.25], rtol=1e-5
    )


def test_many_values_are_no_worse_than_with_random_starts() -> None:
    values = np.random.default_rng(0).gamma(0.7, size=64)
    means = found(values, np.ones(64, bool), 6)
    other = KMeans(6, n_init=10, random_state=0).fit(values[:, None])
    assert cost(values, means) <= other.inertia_ * (1 + 1e-4)
    assert len(np.unique(means.round(5))) == 6
