import math

import pytest

from made_up import made_up, spoil
from polytape.diagnostics.records import Run
from polytape.reports.summary import baseline, conflict, summarise


def test_baseline_is_the_sum_or_else_the_first_method():
    assert baseline(made_up()) == "Sum"
    assert baseline(made_up(methods=("UPGrad", "MGDA"))) == "UPGrad"


def test_cells_are_means_and_sample_deviations_over_seeds():
    row = summarise(made_up())[1]
    assert row.cells["left"].mean == pytest.approx(0.855)
    assert row.cells["left"].spread == pytest.approx(0.01 / math.sqrt(2))
    assert row.cells["image"].mean == pytest.approx(0.145)


def test_best_respects_the_goal_of_each_objective():
    best = [row.method for row in summarise(made_up()) if row.cells["image"].best]
    assert best == ["UPGrad"]


def test_gain_is_the_mean_relative_improvement_over_the_baseline():
    rows = summarise(made_up())
    up = 0.05 / 0.855
    assert rows[1].gain == 0
    assert rows[2].gain == pytest.approx(100 * (2 * up + 0.05 / 0.145) / 3)


def test_step_time_leaves_the_first_epoch_out():
    rows = summarise(made_up())
    assert rows[0].cost == pytest.approx(0.5)
    assert rows[2].seconds == pytest.approx(0.03)
    assert summarise(made_up(epochs=1))[0].cost is None


def test_conflict_counts_opposed_pairs_only_and_no_angle_as_none():
    assert conflict(made_up().runs[0]) == pytest.approx(0.5 / 3)
    nan = math.nan
    assert conflict(Run("Sum", 0, cosines=[[[1.0, nan], [nan, 1.0]]])) == 0
    assert conflict(Run("Sum", 0)) is None


def test_a_bad_seed_is_left_out_and_noted():
    found = made_up()
    spoil(found, 5, "diverged", "val_image_mse is not finite from epoch 4 on")
    row = summarise(found)[2]
    assert row.cells["left"].mean == pytest.approx(0.9)
    assert row.cells["left"].spread is None
    assert row.note == "diverged in 1 of 2: val_image_mse is not finite from epoch 4 on"


def test_a_baseline_without_a_finished_run_leaves_gains_empty():
    found = made_up(seeds=1)
    spoil(found, 1, "failed", "ValueError: no")
    rows = summarise(found)
    assert [row.gain for row in rows] == [None, None, None]
    assert rows[1].cells["left"] is None
