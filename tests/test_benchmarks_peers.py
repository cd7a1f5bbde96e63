"""`python -m benchmarks.peers`: what it computes, and what it makes of its figures."""

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

# `pytest` alone does not find the benchmarks, which are not installed.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.peers import nets, page, picture
from benchmarks.peers.contender import all_peers
from benchmarks.peers.contenders import libmtl_style, polytape_fit
from benchmarks.peers.devices import Machine
from benchmarks.peers.methods import METHODS, TOLERANCE
from benchmarks.peers.runner import Found, Line
from benchmarks.processes import NoAnswerError, Worker

BACKEND = keras.backend.backend()
TINY = nets.KNOWN["tiny-mlp-4"]


def rows_of_tiny_mlp(weights: list[Any]) -> tuple[Any, list[Any]]:
    """Gradients of the four losses by the trunk, (4, P), and those by their heads, in float64."""
    x, y = nets.batch(TINY)
    parts = [np.asarray(part, "float64") for part in weights]
    trunk, heads = list(zip(parts[:6:2], parts[1:6:2], strict=True)), parts[6:]
    values = [x.astype("float64")]
    for kernel, bias in trunk:
        values.append(np.maximum(values[-1] @ kernel + bias, 0))
    rows, own = [], []
    for (kernel, bias), target in zip(
        zip(heads[::2], heads[1::2], strict=True), y.values(), strict=True
    ):
        error = 2 * (values[-1] @ kernel + bias - target) / len(target)
        own += [(values[-1].T @ error).ravel(), error.sum(0)]
        cotangent, row = error @ kernel.T, []
        for (layer, _), before, after in reversed(
            list(zip(trunk, values[:-1], values[1:], strict=True))
        ):
            cotangent = cotangent * (after > 0)
            row = [(before.T @ cotangent).ravel(), cotangent.sum(0), *row]
            cotangent = cotangent @ layer.T
        rows.append(np.concatenate(row))
    return np.stack(rows), own


@pytest.mark.engine
@pytest.mark.parametrize("method", ["sum", "upgrad"])
def test_the_first_step_is_that_of_the_exact_solution(method: str) -> None:
    training = polytape_fit.training(BACKEND, TINY, method, 1.0, Machine(BACKEND, "cpu"))
    before = training.read()
    rows, own = rows_of_tiny_mlp(before)
    weights = np.ones(4) if method == "sum" else libmtl_style.WEIGHTS[method](rows @ rows.T)
    expected = np.concatenate([weights @ rows, *own])
    training.ways["fit"](1)
    update = nets.flat(before) - nets.flat(training.read())
    assert np.linalg.norm(update - expected) < 1e-5 * np.linalg.norm(expected)
    training.restore(1e-4)
    np.testing.assert_array_equal(nets.flat(training.read()), nets.flat(before))


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's nets beside Keras's")
@pytest.mark.parametrize("kind", nets.KINDS)
def test_the_nets_are_twins(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from benchmarks.peers import keras_nets, torch_nets

    net = next(net for net in nets.NETS if net.kind == kind)
    network = torch_nets.Network(net)
    torch_nets.load_first(network)
    model, variables = keras_nets.build(keras.Model, net)
    keras_nets.load_first(variables)
    theirs, ours = torch_nets.read(network), keras_nets.read(variables)
    for one, other in zip(theirs, ours, strict=True):
        np.testing.assert_array_equal(one, other)
    if net.per_example:
        assert sum(part.size for part in ours) == 130_890
    x, _ = nets.batch(net)
    with torch.no_grad():
        features = network.trunk(torch.from_numpy(nets.channels_first(x[:4])))
        expected = [head(features) for head in network.heads] or [features]
        found = model(x[:4], training=True).values()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_solutions_are_exact() -> None:
    rows = np.random.default_rng(0).standard_normal((5, 3))  # in conflict, and of low rank
    gramian = rows @ rows.T
    shortest = libmtl_style.mgda(gramian)
    assert shortest.min() >= 0
    assert shortest.sum() == pytest.approx(1)
    assert (gramian @ shortest).min() >= shortest @ gramian @ shortest - 1e-9
    for found in (libmtl_style.upgrad(gramian), libmtl_style.dualproj(gramian)):
        assert (gramian @ found).min() > -1e-9
    rows = np.random.default_rng(0).standard_normal((3, 8))
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    even = units @ (libmtl_style.config(rows @ rows.T) @ rows)
    np.testing.assert_allclose(even, even[0])
    projections = units @ (libmtl_style.imtlg(rows @ rows.T) @ rows)
    np.testing.assert_allclose(projections, projections[0])


def test_contenders_are_found_by_their_files() -> None:
    peers = {peer.name: peer for peer in all_peers()}
    assert {"polytape jax", "polytape torch, loop", "TorchJD", "conflictfree"} <= peers.keys()
    for peer in peers.values():
        assert set(peer.methods) <= METHODS.keys()
        assert set(peer.differs) <= METHODS.keys()
        assert peer.pip.startswith("pip install")


def test_a_process_that_ends_says_why() -> None:
    worker = Worker("benchmarks.peers.no_such_module", pause=0.0)
    with pytest.raises(NoAnswerError, match="no_such_module"):
        worker.wait(60)


def line(peer: str, way: str, milliseconds: list[float], **more: Any) -> Line:
    times = [value / 1e3 for value in milliseconds]
    family = "TorchJD" if peer.startswith("TorchJD") else ""
    known: dict[str, Any] = {"distance": 1e-6, "first": 1.0, "memory": 2**20} | more
    return Line("tiny-mlp", 4, "upgrad", peer, family, way, times, times, **known)


@pytest.fixture
def found() -> Found:
    about = {
        "day": "1 January 2026",
        "python": "3.11",
        "versions": {"keras": "3.15"},
        "device": "cpu",
        "devices": {},
        "processor": "a processor",
        "cores": 1,
        "load": [0.5, 4.0],
        "rounds": 3,
        "seconds": 0.1,
        "clock": "cpu",
        "command": "python -m benchmarks.peers",
        "not measured": ["resnet-8"],
        "not installed": {"conflictfree": "pip install conflictfree"},
    }
    lines = [
        line("TorchJD", "all at once", [2.0, 4.0, 2.0]),
        line("TorchJD", "one by one", [9.0], failed="over 1.5 times as slow as its best setting"),
        line("polytape jax", "step", [0.5, 1.0, 0.6]),
        line("polytape torch, loop", "loop", [2.4, 4.8, 2.4], distance=0.5, differs="of a reason"),
        line("polytape torch", "step", [], failed="ValueError: no", distance=None),
    ]
    return Found(about, lines)


def test_the_page_tells_ratios_aims_and_what_is_not_the_same(found: Found, tmp_path: Path) -> None:
    told = page.page(found)
    assert "| tiny-mlp | 4 | upgrad | 2.00 | **0.25** |" in told  # of 0.25, 0.25, 0.3
    assert "| tiny-mlp, T = 4: JAX | 0.33 | 0.25 | ✓ |" in told
    assert "| tiny-mlp: PyTorch, a loop of one's own | 1.00 | 1.20 | ✗ |" in told
    assert f"within\n{TOLERANCE:g} of it" in told
    assert "Of 3 first steps 2 are the same." in told
    assert "| tiny-mlp, 4 | upgrad | polytape torch, loop | 5.0e-01 | of a reason |" in told
    assert "fails: ValueError: no" in told
    assert "conflictfree was not installed: `pip install conflictfree`." in told
    assert "resnet-8" in told
    assert "0.5 to 4.0" in told
    picture.draw(found, tmp_path / "peers.svg")
    assert "<svg" in (tmp_path / "peers.svg").read_text()


def test_records_are_kept_and_added_to(found: Found, tmp_path: Path) -> None:
    found.save(tmp_path / "records.json")
    again = Found.load(tmp_path / "records.json")
    assert again == found
    new = line("TorchJD", "all at once", [3.0, 3.0])
    other = Line("resnet", 8, "upgrad", "TorchJD", "TorchJD")
    more = again.with_more(Found(found.about, [new, other]))
    assert more.lines == [new, other]  # the net was measured anew
    assert more.about["not measured"] == []
