import numpy as np
import pytest
from keras import ops

from nasty import gramians, jacobians
from polytape.linalg.cosine import cosine_form


@pytest.mark.parametrize("size", [1, 3, 8])
def test_taken_apart_and_put_together(size):
    names, batch = gramians(size)
    cosines, norms, alive = (np.asarray(part) for part in cosine_form(ops.array(batch)))
    for index, name in enumerate(names):
        rows = jacobians(size)[name]
        length = np.linalg.norm(rows, axis=1)
        np.testing.assert_array_equal(alive[index], length > 0, err_msg=name)
        np.testing.assert_array_equal(np.diag(cosines[index]), 1.0, err_msg=name)
        expected = rows @ rows.T / np.where(length > 0, length, 1)[:, None]
        expected = expected / np.where(length > 0, length, 1)
        expected = np.where(np.eye(size) > 0, 1, expected)
        np.testing.assert_allclose(cosines[index], expected, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(norms[index], np.where(length > 0, length, 1), rtol=1e-6)


def test_an_inactive_objective_is_decoupled():
    form = cosine_form(ops.ones((2, 2)), ops.array([True, False]))
    np.testing.assert_array_equal(np.asarray(form.cosines), np.eye(2))
    np.testing.assert_array_equal(np.asarray(form.alive), [True, False])
    np.testing.assert_array_equal(np.asarray(form.norms), 1.0)
