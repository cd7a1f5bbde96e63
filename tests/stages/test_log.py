"""Log: another method on the gradients of log-losses, the weights rescaled."""

import numpy as np
import pytest
from keras import ops

import polytape as pt

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(4, 6)) * np.array([[1.0], [30.0], [0.1], [5.0]])
LOSSES = np.array([0.5, 40.0, 1e-3, 2.0])


def weights(method: pt.Method, losses=LOSSES, rows=ROWS, active=None) -> np.ndarray:
    gramian = ops.convert_to_tensor(np.float32(rows @ rows.T))
    losses = ops.convert_to_tensor(np.float32(losses))
    found, _ = pt.weigh(method, gramian, losses, active=active)
    return np.float64(ops.convert_to_numpy(found))


def test_log_mgda_is_the_shortest_convex_combination_of_log_gradients() -> None:
    found = weights(pt.Log(pt.MGDA(), scale="mean"))
    assert found.sum() == pytest.approx(1, rel=1e-5)
    convex = found * LOSSES / (found * LOSSES).sum()  # undo 1 / L and c
    logs = ROWS / LOSSES[:, None]
    point = convex @ logs
    assert convex.min() >= 0
    # No vertex of the hull lies before the plane through the point, so none of it is nearer.
    rounding = 1e-5 * np.linalg.norm(logs, axis=1) * np.linalg.norm(point)
    assert (logs @ point >= point @ point - rounding).all()


def test_log_of_the_sum_weighs_by_inverse_losses() -> None:
    found = weights(pt.Log(pt.Sum()))
    np.testing.assert_allclose(found, 4 / LOSSES / (1 / LOSSES).sum(), rtol=1e-5)


def test_log_imtl_projects_equally_on_all_gradients() -> None:
    update = ROWS.T @ weights(pt.Log(pt.IMTLG()))
    onto = ROWS @ update / np.linalg.norm(ROWS, axis=1)
    np.testing.assert_allclose(onto, onto.mean(), rtol=1e-3)


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_a_common_factor_of_all_losses_changes_nothing(factor: float) -> None:
    found = weights(pt.Log(pt.MGDA()), factor * LOSSES, factor * ROWS)
    np.testing.assert_allclose(found, weights(pt.Log(pt.MGDA())), rtol=1e-3)


def test_a_loss_of_zero_is_left_out_and_a_negative_one_counts_by_its_size() -> None:
    method = pt.Log(pt.MGDA())
    found = weights(method, LOSSES * [1, -1, 0, 1], active=[True, True, True, False])
    alone = weights(method, LOSSES[:2], ROWS[:2])
    np.testing.assert_allclose(found, [*(alone * 1.5), 0, 0], rtol=1e-4)
    assert (weights(method, np.zeros(4)) == 0).all()


def test_weights_that_cancel_stay_finite() -> None:
    found = weights(pt.Log(pt.Reweight({"0": -1.0})), [1.0, 1.0], np.eye(2))
    assert found == pytest.approx([-100, 100])


def test_scopes_go_outside() -> None:
    with pytest.raises(ValueError, match=r"Log\(PerVariable\(...\)\).*Put the scope outside"):
        pt.Log(pt.PerVariable(pt.MGDA()))
    assert pt.PerVariable(pt.Log(pt.MGDA())).scope == "variable"
