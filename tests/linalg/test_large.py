"""256 objectives: the certificates of small problems."""

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
from nasty import breach, gramians, unit
from polytape.linalg.bargaining import bargain
from polytape.linalg.cosine import cosine_form
from polytape.linalg.dual_cone import project_onto_dual_cone
from polytape.linalg.min_norm import min_norm_point
from polytape.linalg.nonneg import nonneg_qp
from polytape.linalg.solve import with_ridge
from polytape.methods.pcgrad import project

SIZE = 256
NAMES, BATCH = gramians(SIZE)
KINDS = ["wide", "half rank", "balanced", "duplicates", "spread", "condition 1e6", "zero row"]
CALLED = keras.backend.backend() in ("numpy", "torch")  # where T x T numbers are arrays
ALL = np.ones(SIZE, bool)


def of(name):
    return BATCH[NAMES.index(name)]


def alive(gramian):
    kept = np.diag(gramian) > 0
    cosines, norms = unit(gramian)
    return kept, cosines, norms


@pytest.mark.parametrize("name", KINDS)
def test_projections_on_the_dual_cone(name):
    gramian = of(name)
    kept, cosines, norms = alive(gramian)
    u = np.stack([np.eye(SIZE)[0], np.ones(SIZE) / SIZE, np.logspace(-3, 3, SIZE)])
    u = u.astype("float32")
    found = project_onto_dual_cone(ops.array(gramian), ops.array(ALL), None, ops.array(u))
    for given, v in zip(u, np.asarray(found, "float64"), strict=True):
        lower = np.where(kept, norms * given, 0)
        extra = np.where(kept, norms * (v - given), 0)
        assert breach(cosines, -cosines @ lower, extra) <= 1e-5 * (lower + extra).sum()


def test_all_projections_of_upgrad():
    gramian = of("wide")
    _, cosines, norms = alive(gramian)
    found = project_onto_dual_cone(
        ops.array(gramian), ops.array(ALL), None, ops.eye(SIZE, dtype="float32")
    )
    for row, v in enumerate(np.asarray(found, "float64")):
        lower = norms * np.eye(SIZE)[row]
        extra = norms * v - lower
        assert breach(cosines, -cosines @ lower, extra) <= 1e-5 * (lower + extra).sum()
    weights, _ = pt.weigh(pt.UPGrad(), gramian)
    gains = gramian.astype("float64") @ np.asarray(weights, "float64")
    assert (gains / norms).min() >= -1e-5 * norms @ np.asarray(weights)


@pytest.mark.parametrize("name", KINDS[:-1])
def test_duality_gap_of_the_min_norm_point(name):
    gramian = of(name)
    w = np.asarray(min_norm_point(ops.array(gramian), ops.array(ALL)), "float64")
    _, cosines, norms = alive(gramian)
    assert w.min() >= 0
    assert w.sum() == pytest.approx(1, abs=1e-5)
    y = norms * w / (norms * w).sum()
    pulls = cosines @ y
    value = y @ pulls / w.sum() * (norms * w).sum() / norms
    assert (value - pulls).max() <= 1e-5
    assert np.minimum(y, pulls - value).max() <= 1e-5


@pytest.mark.parametrize("name", ["wide", "spread", "duplicates"])
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_gains_of_a_bargain(name, alpha):
    gramian = of(name)
    a = np.asarray(bargain(ops.array(gramian), ops.array(ALL), alpha), "float64")
    _, cosines, norms = alive(gramian)
    scale = norms.max()
    beta, norms = norms * a, norms / scale  # in units of the longest
    unit_beta = beta * scale ** ((alpha - 1.0) / (alpha + 1.0))
    gains, demanded = cosines @ unit_beta, unit_beta ** (-1 / alpha) * norms ** (1 / alpha - 1)
    parts = np.abs(cosines) @ unit_beta
    assert (np.abs(gains - demanded) / parts).max() <= 1e-4


def test_the_duality_gap_of_cagrad():
    rows = np.random.default_rng(7).normal(size=(SIZE, SIZE // 2))
    rows += np.random.default_rng(8).normal(size=SIZE // 2)  # of low rank, and with a mean
    rows *= np.random.default_rng(9).uniform(0.3, 3, (SIZE, 1))
    method = pt.CAGrad(c=0.5, rescale=0, scale="paper")
    weights = np.asarray(pt.weigh(method, np.float32(rows @ rows.T))[0], "float64")
    mean, share = rows.mean(axis=0), weights - 1 / SIZE
    assert share.min() >= -1e-6
    share /= share.sum()
    radius, mix, update = 0.5 * np.linalg.norm(mean), share @ rows, weights @ rows
    assert np.linalg.norm(update - mean) <= radius * (1 + 1e-4)
    bound = mix @ mean + radius * np.linalg.norm(mix)  # on the least gain of any update so near
    longest = np.linalg.norm(rows, axis=1).max()
    assert bound - (rows @ update).min() <= 1e-4 * radius * longest


def test_pcgrad_is_its_loops():
    rng = np.random.default_rng(10)
    rows = rng.normal(size=(SIZE, SIZE // 2)) * rng.uniform(0.3, 3, (SIZE, 1))
    order = rng.permuted(np.tile(np.arange(SIZE), (SIZE, 1)), axis=-1)
    form = cosine_form(ops.array(np.float32(rows @ rows.T)))
    weights = np.asarray(project(form.cosines, form.norms, ops.array(order)), "float64")
    left, own = rows.copy(), np.arange(SIZE)
    for others in order.T:
        other = rows[others]
        inner = np.where(others == own, 0, np.minimum(np.sum(left * other, axis=1), 0))
        left -= (inner / np.sum(other * other, axis=1))[:, None] * other
    size = np.linalg.norm(left, axis=1).sum()
    np.testing.assert_allclose(weights @ rows, left.sum(axis=0), atol=1e-4 * size)


def test_every_row_of_a_small_and_a_low_rank_problem_settles():
    """Alone and in a batch, also where all indices in breach cannot move at once."""
    for size in (33, 64):
        names, batch = gramians(size)
        cosines = unit(batch[names.index("half rank")])[0].astype("float32")
        matrix = with_ridge(ops.array(cosines))
        linear = -cosines / np.abs(cosines).max(axis=-1, keepdims=True)
        linear[0] = np.sqrt(np.arange(1.0, size + 1)) / size**0.5
        together = np.asarray(nonneg_qp(matrix[None], ops.array(linear)), "float64")
        for row, y in zip(linear, together, strict=True):
            alone = np.asarray(nonneg_qp(matrix, ops.array(row)), "float64")
            for found in (y, alone):
                gap = breach(np.asarray(matrix, "float64"), row.astype("float64"), found)
                assert gap <= 1e-5 * (found.sum() + 1)


@pytest.mark.skipif(not CALLED, reason="what is compiled does not call them one by one")
def test_a_low_rank_is_no_reason_to_begin_anew(monkeypatch):
    """One index after the other would take over 100 systems of equations for each problem."""
    size, solve, calls = 128, np.linalg.solve, []

    def counted(matrix, right):
        calls.append(matrix.shape)
        return solve(matrix, right)

    monkeypatch.setattr(np.linalg, "solve", counted)
    rows = np.random.default_rng(11).normal(size=(size, size // 2))
    gramian = np.float32(rows @ rows.T)
    weights = np.asarray(pt.weigh(pt.UPGrad(), gramian)[0], "float64")
    assert len(calls) <= 70 * size
    _, cosines, norms = alive(gramian)
    assert (cosines @ (norms * weights)).min() >= -1e-4 * norms @ weights


def test_methods_in_closed_form():
    rows = np.random.default_rng(5).normal(size=(SIZE, 3 * SIZE))
    rows *= np.random.default_rng(6).uniform(0.3, 3, (SIZE, 1))
    gramian = np.float32(rows @ rows.T)
    weights = np.asarray(pt.weigh(pt.ConFIG(), gramian)[0], "float64")
    direction = rows.T @ weights
    cosines = rows @ direction / np.linalg.norm(rows, axis=1) / np.linalg.norm(direction)
    np.testing.assert_allclose(cosines, cosines.mean(), rtol=2e-3)
    weights = np.asarray(pt.weigh(pt.AlignedMTL(), gramian)[0], "float64")
    values, base = np.linalg.eigh(rows @ rows.T)
    right = base @ (np.sqrt(values[0] / values) * (base.T @ np.ones(SIZE)))
    np.testing.assert_allclose(weights, right, rtol=2e-3, atol=1e-3)
    weights = np.asarray(pt.weigh(pt.PCGrad(), gramian)[0], "float64")
    assert weights.min() >= 1 - 1e-5
    # Without a conflict nothing is projected, in whatever order.
    agreeing = np.float32(np.abs(rows) @ np.abs(rows).T)
    np.testing.assert_allclose(np.asarray(pt.weigh(pt.PCGrad(), agreeing)[0]), 1.0, rtol=1e-5)
