"""PyTorch: what several processes print, write, save and go on from."""

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import polytape as pt
from processes import each
from small import everything
from spread import CLOSE, SIZE, apart, batches, made, part, train, weights

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="torch.distributed is of PyTorch"
)
Found = dict[str, Any]


def given(rank: int, count: int) -> Any:
    return part(batches(), rank, count)


def optimizer() -> Any:
    return keras.optimizers.Adam(0.01)


def method() -> Any:
    return pt.Smoothed(pt.PCGrad())


class Stops(keras.callbacks.Callback):
    """As one that looks at its own clock."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.stop_training = epoch == 1


def writes(rank: int, count: int, folder: str) -> Found:
    keras.utils.set_random_seed(rank)
    found, own = made(method(), optimizer(), busy=True, seed=None), Path(folder, str(rank))
    own.mkdir()
    callbacks = [
        keras.callbacks.ModelCheckpoint(own / "best.keras", monitor="val_loss", mode="min"),
        keras.callbacks.CSVLogger(own / "log.csv"),
        keras.callbacks.BackupAndRestore(own / "backup", delete_checkpoint=False),
        pt.callbacks.GradientMonitor(own / "monitor", every=2),
        *([Stops()] if rank == 1 else []),
    ]
    said = io.StringIO()
    x, y = given(rank, count)
    with redirect_stdout(said):
        history = found.fit(
            x,
            y,
            batch_size=SIZE // count,
            epochs=4,
            validation_data=given(rank, count),
            callbacks=callbacks,
        ).history
        found.evaluate(x, y)
    files = sorted(str(p.relative_to(own)) for p in own.rglob("*") if p.is_file())
    found.save(own / "whole.keras")
    return {
        "all": everything(found),
        "files": files,
        "said": said.getvalue(),
        "epochs": len(history["loss"]),
        "seed": found.compilation.settings.seed,
        "dropout": [v.numpy() for v in found.variables if "seed_generator" in v.path],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def pair(folder: Path) -> list[Found]:
    return each(__name__, "writes", 2, folder=str(folder))


def test_process_0_prints_and_writes(pair: list[Found]) -> None:
    first, second = pair
    assert "Epoch 2/4" in first["said"]
    assert second["said"] == ""
    assert {"best.keras", "log.csv", "monitor/monitor.jsonl"} <= {*first["files"]}
    assert any(name.startswith("backup") for name in first["files"])
    assert second["files"] == []


def test_one_that_stops_stops_all_after_the_epoch(pair: list[Found]) -> None:
    assert [found["epochs"] for found in pair] == [2, 2]


def test_processes_stay_equal_beside_their_seeds_of_dropout(pair: list[Found]) -> None:
    """Also the statistics of BatchNorm, which each keeps of its part until the epoch ends."""
    first, second = pair
    assert first["seed"] == second["seed"]
    for one, other in zip(first["all"], second["all"], strict=True):
        np.testing.assert_array_equal(one, other)


def backed_up(rank: int, count: int, folder: str) -> Found:
    """Stopped after two epochs, and begun anew by a program that knows only the folder."""
    epochs = []
    for until in (2, 4):
        found = made(method(), optimizer())
        for variable in found.trainable_variables if until == 4 else ():
            variable.assign(0.0 * variable.value)
        backup = keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False)
        x, y = given(rank, count)
        options = {"batch_size": SIZE // count, "shuffle": False, "verbose": 0}
        epochs.append(found.fit(x, y, epochs=until, callbacks=[backup], **options).epoch)
    whole = made(method(), optimizer())
    whole.fit(x, y, epochs=4, **options)
    return {"all": everything(found), "whole": everything(whole), "epochs": epochs}


def test_a_backup_is_written_by_one_and_read_by_all(tmp_path: Path) -> None:
    for found in each(__name__, "backed_up", 2, folder=str(tmp_path)):
        assert found["epochs"] == [[0, 1], [2, 3]]
        for one, other in zip(found["all"], found["whole"], strict=True):
            np.testing.assert_array_equal(one, other)


# ------------------------------------------------------------------ saved, and on


def first_half(rank: int, count: int, path: str, whole: bool) -> Found:
    """Half of a training, saved by process 0 alone; or all of it."""
    found = made(method(), optimizer())
    for epoch in range(2 if whole else 1):
        keras.utils.set_random_seed(epoch)
        train(found, given(rank, count), SIZE // count)
    if rank == 0 and not whole:
        found.save(path)
    return {"all": everything(found), "weights": weights(found)}


def second_half(rank: int, count: int, path: str, first_only: bool = False) -> Found:
    """Loaded by all processes, or by process 0 alone."""
    if rank == 0 or not first_only:
        found = keras.saving.load_model(path)
    else:
        found = made(method(), optimizer())
    keras.utils.set_random_seed(1)
    train(found, given(rank, count), SIZE // count)
    return {"all": everything(found), "weights": weights(found)}


def halves(rank: int, count: int, folder: str) -> dict[str, Found]:
    import torch.distributed as dist

    path = str(Path(folder, "half.keras"))
    found = {"whole": first_half(rank, count, path, True)}
    found["half"] = first_half(rank, count, path, False)
    dist.barrier()
    found["all load"] = second_half(rank, count, path)
    found["one loads"] = second_half(rank, count, path, True)
    return found


def resumed(rank: int, count: int, path: str) -> Found:
    return second_half(rank, count, path)


def test_a_checkpoint_goes_on_on_as_many_on_one_and_on_more(tmp_path: Path) -> None:
    one, other = each(__name__, "halves", 2, folder=str(tmp_path))
    for how in ("all load", "one loads"):
        for found in (one[how], other[how]):
            assert len(found["all"]) == len(one["whole"]["all"])
            for ours, uninterrupted in zip(found["all"], one["whole"]["all"], strict=True):
                np.testing.assert_array_equal(ours, uninterrupted, err_msg=how)
    path = str(tmp_path / "half.keras")
    alone = resumed(0, 1, path)
    assert apart(alone["weights"], one["whole"]["weights"]) < CLOSE
    for found in each(__name__, "resumed", 4, path=path):
        assert apart(found["weights"], one["whole"]["weights"]) < CLOSE
