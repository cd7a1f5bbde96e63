"""Methods against TorchJD and conflictfree, where those are right; certificates where not.

PEERS is the table of conventions: our method, set to their scale, beside theirs. A method is added
as one row.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import polytape as pt
from polytape.testing.matrices import Array
from polytape.testing.trials import Trial

pytestmark = pytest.mark.engine  # PyTorch's
if keras.backend.backend() != "torch":
    pytest.skip("TorchJD and conflictfree are for PyTorch", allow_module_level=True)
torch = pytest.importorskip("torch")
jd = pytest.importorskip("torchjd.aggregation", reason="TorchJD is not installed")

# Ours; theirs, for T objectives; the largest T at which both are the same, and the tolerance.
Peer = tuple[pt.Method, Callable[[int], Any], int, float]
PEERS: dict[str, Peer] = {
    "Sum": (pt.Sum(), lambda T: jd.Sum(), 6, 1e-5),
    "Mean": (pt.Mean(), lambda T: jd.Mean(), 6, 1e-5),
    # Their solver stops at a gap of `epsilon`.
    "MGDA": (pt.MGDA(scale="mean"), lambda T: jd.MGDA(1e-7, 20_000), 6, 2e-2),
    # Each row is projected with p = 1/T; a ridge of 1e-4 on their Gramian.
    "UPGrad": (pt.UPGrad(scale="mean"), lambda T: jd.UPGrad(), 6, 3e-3),
    "IMTLG": (pt.IMTLG(scale="mean"), lambda T: jd.IMTLG(), 6, 2e-3),
    # Theirs is B (1/T), ours B 1; ours are equal in all `target`s.
    "AlignedMTL": (pt.AlignedMTL(scale="mean"), lambda T: jd.AlignedMTL(), 6, 2e-3),
    "AlignedMTL median": (
        pt.AlignedMTL("median", scale="mean"),
        lambda T: jd.AlignedMTL(scale_mode="median"),
        5,  # of an even number they take the lower of the two in the middle
        2e-3,
    ),
    "AlignedMTL mean": (
        pt.AlignedMTL("mean", scale="mean"),
        lambda T: jd.AlignedMTL(scale_mode="rmse"),
        6,
        2e-3,
    ),
    "ConFIG": (pt.ConFIG(), lambda T: jd.ConFIG(), 6, 2e-3),
    "ConFIG, preference": (
        pt.ConFIG((1.0, 2.0, 3.0)),
        lambda T: jd.ConFIG(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)),
        3,
        2e-3,
    ),
    # Each meets the others in an order drawn at random, which does not matter for two.
    "PCGrad": (pt.PCGrad(), lambda T: jd.PCGrad(), 2, 1e-5),
    "PCD": (pt.PCD(), lambda T: jd.PCD(), 6, 2e-3),
    "PCD, 0.5": (pt.PCD(tau=0.5), lambda T: jd.PCD(tau=0.5), 4, 2e-3),
    "TrimmedMean": (pt.TrimmedMean(scale="paper"), lambda T: jd.TrimmedMean(1), 6, 1e-5),
}


def random_rows(count: int, seed: int, columns: int = 12) -> Array:
    """Well-conditioned rows with a few conflicts, norms of 2 to 20."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, columns)) * rng.uniform(0.7, 6, size=(count, 1))


def theirs(aggregator: Any, rows: Array) -> Array:
    return aggregator(torch.tensor(rows, dtype=torch.float64)).numpy()


@pytest.mark.parametrize("name", PEERS)
def test_agrees_with_torchjd(name: str) -> None:
    method, peer, most, tolerance = PEERS[name]
    trial = Trial(method)
    least = most if most % 2 or name.endswith("preference") else 2
    for count in sorted({least, 3, most}) if most > 3 else (most,):
        if "TrimmedMean" in name and count < 3:
            continue
        for seed in range(3):
            rows = random_rows(count, seed)
            found = trial.update(rows, np.ones(count))
            apart = np.linalg.norm(found.direction - theirs(peer(count), rows))
            assert apart <= tolerance * found.size, (count, seed)


def test_nash_mtl_agrees_with_torchjd() -> None:
    """Alone: their solver is an extra."""
    pytest.importorskip("ecos", reason="TorchJD's Nash-MTL needs ECOS")
    from torchjd.aggregation import NashMTL

    for seed in range(3):
        rows = random_rows(3, seed)
        found = Trial(pt.NashMTL()).update(rows, np.ones(3)).direction
        right = NashMTL(n_tasks=3)(torch.tensor(rows)).numpy()
        np.testing.assert_allclose(found, right, atol=2e-2)


def test_config_agrees_with_conflictfree() -> None:
    operator = pytest.importorskip("conflictfree.grad_operator", reason="not installed")
    for count in (3, 5):
        rows = random_rows(count, count)
        found = Trial(pt.ConFIG()).update(rows, np.ones(count)).direction
        right = operator.ConFIG_update(torch.tensor(rows.astype("float32"))).numpy()
        np.testing.assert_allclose(found, right, atol=1e-3 * np.linalg.norm(right))


def opposing(size: float) -> Array:
    """Three rows, two of which conflict, of about this norm."""
    return size * np.array([[1.0, 0.2, 0.0], [-0.9, 0.3, 0.1], [0.1, 0.0, 1.0]])


def worst(rows: Array, direction: Array) -> float:
    """The least cosine of a direction with the rows."""
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(direction)
    return float((rows @ direction / lengths).min())


def test_small_gradients_are_freed_of_conflict_too() -> None:
    """Below a trace of 1e-4 the Gramian is set to zero there: UPGrad is then the mean."""
    rows = opposing(2e-3) + np.array([[4e-3, 0, 0], [0, 0, 0], [0, 0, 0]])
    peer = theirs(jd.UPGrad(), rows)
    np.testing.assert_allclose(peer, rows.mean(0), rtol=1e-6)
    assert worst(rows, peer) < -0.3
    found = Trial(pt.UPGrad(scale="mean")).update(rows, np.ones(3)).direction
    assert worst(rows, found) > -1e-5
    # The same as for large ones, where both are right.
    large = theirs(jd.UPGrad(), 1e4 * rows)
    np.testing.assert_allclose(1e4 * found, large, atol=1e-2 * np.linalg.norm(large))


def gap(rows: Array, direction: Array) -> float:
    """How far <g_t, d> >= |d|^2, the certificate of the min-norm point, fails, in units of rows."""
    lengths = np.linalg.norm(rows, axis=1)
    breach = (direction @ direction - rows @ direction) / lengths
    return float(breach.max() / lengths.min())


def test_the_min_norm_point_is_one() -> None:
    """Frank-Wolfe from equal weights is not done after its 100 steps on rows that differ."""
    trial, longer = Trial(pt.MGDA(scale="mean")), []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rows = rng.normal(size=(8, 10)) * 10.0 ** rng.uniform(-2, 2, size=(8, 1))
        found, peer = trial.update(rows, np.ones(8)).direction, theirs(jd.MGDA(), rows)
        assert gap(rows, found) < 1e-5
        longer.append(peer @ peer / (found @ found))
    assert min(longer) > 0.999
    assert max(longer) > 1.5


def test_large_gradients_have_an_impartial_update() -> None:
    """A sum of weights below 1e-12 counts as zero there: so do gradients of 1e15."""
    rows = opposing(1e15)
    assert (theirs(jd.IMTLG(), rows) == 0).all()
    found = Trial(pt.IMTLG()).update(rows, np.ones(3)).direction
    shadows = rows @ found / np.linalg.norm(rows, axis=1)
    assert shadows.min() > 0
    np.testing.assert_allclose(shadows, shadows.mean(), rtol=1e-3)
