import itertools

import matplotlib.image
import pytest

from made_up import made_up, spoil
from polytape.reports.figures import curves, tradeoff
from polytape.reports.style import COLOURS, spread_out, strokes

NAMES = ("left", "right", "image", "four", "five")
MANY = ("Sum", "MGDA", "PCGrad", "UPGrad", "IMTLG", "NashMTL", "CAGrad", "FairGrad", "GradVac")


@pytest.mark.parametrize("draw", [curves, tradeoff])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_pictures_are_drawn(tmp_path, draw, count):
    path = tmp_path / "picture.png"
    draw(made_up(objectives=NAMES[:count], methods=MANY[: 4 * count]), path)
    image = matplotlib.image.imread(path)
    assert min(image.shape[:2]) > 400
    assert image[..., :3].min() < 0.3  # something dark was drawn on the white ground
    assert image[..., :3].max() == 1


@pytest.mark.parametrize("draw", [curves, tradeoff])
@pytest.mark.parametrize("count", [2, 3])
def test_pictures_leave_out_what_has_no_finished_run(tmp_path, draw, count):
    found = made_up(objectives=NAMES[:count], seeds=1, epochs=1)
    spoil(found, 0, "diverged", "reason")
    draw(found, tmp_path / "some.png")
    for index in (1, 2):
        spoil(found, index, "failed", "reason")
    draw(found, tmp_path / "none.png")
    assert (tmp_path / "none.png").stat().st_size > 1000


def test_every_method_has_a_look_of_its_own():
    methods = ["Sum", *(f"method {i}" for i in range(3 * len(COLOURS)))]
    looks = strokes(methods, "Sum").values()
    assert len({(look["color"], look["linestyle"]) for look in looks}) == len(methods)


@pytest.mark.parametrize(
    "positions", [[0.5] * 4, [0.0, 0.0, 0.9, 1.0], [0.1, 0.15, 0.2, 0.7], [1.0, 1.0, 0.99]]
)
def test_labels_keep_their_order_and_their_distance(positions):
    places = spread_out(positions, gap=0.1, low=0.0, high=1.0)
    order = sorted(range(len(positions)), key=lambda index: places[index])
    assert [positions[i] for i in order] == sorted(positions)
    gaps = [places[b] - places[a] for a, b in itertools.pairwise(order)]
    assert min(gaps) >= 0.1 - 1e-6
    assert min(places) >= -1e-6
    assert max(places) <= 1 + 1e-6
