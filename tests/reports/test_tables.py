import csv
import io

from rich.console import Console

from made_up import made_up, spoil
from polytape.reports.tables import caption, csv_text, markdown, notes, terminal_table


def shown(comparison):
    console = Console(width=100, file=io.StringIO())
    console.print(terminal_table(comparison))
    return console.file.getvalue()


def test_markdown_has_a_line_a_method_and_marks_the_best():
    text = markdown(made_up())
    assert "| method | left accuracy ↑ | right accuracy ↑ | image mse ↓ | gain |" in text
    assert "| UPGrad | **0.905 ± 0.007** | **0.905 ± 0.007** | **0.0950 ± 0.0071** |" in text
    assert "| Sum | 0.855 ± 0.007 | 0.855 ± 0.007 | 0.1450 ± 0.0071 | – | 0.17 | 1.0× |" in text
    assert "Batch size 32, learning rate 0.001; keras 3." in text


def test_one_seed_has_no_spread():
    text = markdown(made_up(seeds=1))
    assert "±" not in text
    assert "mean over 1 seed;" in text


def test_the_caption_defines_conflict():
    text = caption(made_up())
    assert "max(0, -cosine)" in text
    assert "relative improvement over Sum" in text


def test_csv_has_full_precision_and_empty_cells():
    found = made_up(seeds=1)
    spoil(found, 0, "failed", "ValueError: a, comma")
    rows = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert rows[0]["left_accuracy_mean"] == ""
    assert rows[0]["note"] == "failed in 1 of 1: ValueError: a, comma"
    assert rows[1]["left_accuracy_mean"] == repr(0.8 + 0.05)
    assert float(rows[1]["step_ratio"]) == 1


def test_the_terminal_names_what_failed_without_hiding_the_others():
    found = made_up(seeds=1)
    spoil(found, 0, "diverged", "val_image_mse is not finite from epoch 4 on")
    text = shown(found)
    assert "diverged" in text
    assert "0.900" in text
    assert notes(found) == ["MGDA: diverged in 1 of 1: val_image_mse is not finite from epoch 4 on"]


def test_the_table_fits_a_terminal_of_80_columns():
    assert max(map(len, shown(made_up()).splitlines())) <= 80


def test_runs_not_made_are_named():
    found = made_up()
    del found.runs[3], found.runs[4]
    assert notes(found)[-1] == "Not run: Sum (seed 1), UPGrad (seed 1)."
    assert "Sum: 1 of 2 seeds run" in notes(found)
