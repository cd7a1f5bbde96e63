"""The scalarizations of losses that TorchJD has, too, against it."""

import keras
import numpy as np
import pytest

import polytape as pt
from polytape.testing.trials import Trial
from stepping import each

pytestmark = pytest.mark.engine  # PyTorch's
if keras.backend.backend() != "torch":
    pytest.skip("TorchJD needs PyTorch", allow_module_level=True)
scalarization = pytest.importorskip("torchjd.scalarization")
torch = pytest.importorskip("torch")

LOSSES = np.random.default_rng(0).lognormal(size=(5, 3))
SHARE = torch.tensor([0.5, 0.25, 0.25])
PREFERENCE = (2.0, 1.0, 1.0)


def theirs(scalarizer, losses=LOSSES):
    found = []
    for loss in np.float32(losses):
        values = torch.tensor(loss, requires_grad=True)
        found.append(torch.autograd.grad(scalarizer(values), values)[0].numpy())
    return np.array(found)


def test_same_weights_up_to_the_scale():
    # Their weights of STCH add up to one, ours to T: a factor of T on mu and on the function.
    smooth = 3 * theirs(scalarization.STCH(0.2, SHARE))
    np.testing.assert_allclose(
        each(pt.STCH(0.6, PREFERENCE, scale="mean"), LOSSES), smooth, rtol=1e-4
    )
    mean = theirs(scalarization.GeometricMean())
    np.testing.assert_allclose(each(pt.GLS(scale="paper"), LOSSES), mean, rtol=1e-4)
    cosmos = theirs(scalarization.COSMOS(0.8, SHARE))
    ours = each(pt.COSMOS(0.8, PREFERENCE, scale="paper"), LOSSES)
    np.testing.assert_allclose(ours, cosmos, rtol=1e-4, atol=1e-5)
    pbi = np.sqrt(3) * theirs(scalarization.PBI(5.0, SHARE))
    np.testing.assert_allclose(each(pt.PBI(5.0, PREFERENCE), LOSSES), pbi, rtol=1e-4, atol=1e-5)


def test_famo_over_some_steps():
    other, trial = scalarization.FAMO(3), Trial(pt.FAMO(scale="paper"))
    state, active = trial.start((3,)), np.ones(3, bool)
    for before, after in zip(LOSSES, LOSSES * [0.9, 0.7, 1.05], strict=True):
        weights, state = trial.step(np.zeros((3, 1)), before, active, state)
        np.testing.assert_allclose(weights, theirs(other, before[None])[0], rtol=1e-4)
        before, after = torch.tensor(np.float32(before)), torch.tensor(np.float32(after))
        other.update(after)
        state = trial.method.review(before, after, torch.ones(3, dtype=torch.bool), state)
    np.testing.assert_allclose(state.value, other._w.detach(), rtol=1e-4)
