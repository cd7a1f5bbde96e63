"""The report: one file, complete, small, and true to what was recorded."""

import base64
import dataclasses
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from typer.testing import CliRunner

from browser import CHROMIUM, opened
from made_up import made_up, spoil
from monitored import METHOD, monitored, write
from polytape import cli
from polytape.diagnostics.monitor_records import Figures
from polytape.explanation.explanation import Explanation as ExplanationOf
from polytape.explanation.explanation import Products
from polytape.explanation.finding import Finding
from polytape.reports.html.comparisons import of_comparison
from polytape.reports.html.monitors import of_monitors
from polytape.reports.html.page import page as page_text
from polytape.reports.html.page import write as write_page
from polytape.reports.html.reading import read
from polytape.reports.html.sampling import Band, Series, fenced, over_runs, window_means

VOID = {"meta", "link", "br", "hr", "img", "input"}
NASTY = ("<b>&\"'", "</script><script>alert(1)</script>", "a%{x}b", "naïve – 数", "{{ 7 * 7 }}")


class Page(HTMLParser):
    """Reads a page as strictly as HTML is written down: every element closed in its turn."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.words, self.figures = [], [], [], [], {}
        self.library = self._script = None
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        pairs = dict(attributes)
        self.tags.append((tag, pairs))
        assert len(pairs) == len(attributes), f"an attribute twice: {attributes}"
        self.ids += [pairs["id"]] if "id" in pairs else []
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self._script = pairs

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        self._script = None

    def handle_data(self, data):
        if self._script is None:
            self.words.append(data)
        elif self._script.get("id") == "plotly":
            self.library = data
        elif "data-for" in self._script:
            self.figures[self._script["data-for"]] = json.loads(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    @property
    def sections(self):
        return [pairs["id"] for tag, pairs in self.tags if tag == "section"]

    def plots(self, prefix):
        return [name for name in self.figures if re.fullmatch(rf"{prefix}(-\d+)?", name)]


def numbers(array):
    """Of a list, or of what Plotly writes in its place."""
    if isinstance(array, dict):
        found = np.frombuffer(base64.b64decode(array["bdata"]), f"<{array['dtype']}")
        return found.reshape(
            [int(n) for n in array["shape"].split(",")] if "shape" in array else -1
        )
    return np.array(array, float)


def drawn(page, name, trace=-1):
    return numbers(page.figures[name]["data"][trace]["y"])


def page_of(found):
    """The page, read; asks of every page what must always hold."""
    text = page_text(found, "0.1.0")
    page = Page(text)
    own = text.replace(page.library, "")
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"^\s*//.*$", "", own, flags=re.M)), "a URL"
    for tag, pairs in page.tags:
        assert tag not in ("link", "iframe", "object", "base", "img")
        assert "src" not in pairs
        assert pairs.get("href", "#").startswith("#")
    policy = next(p["content"] for _, p in page.tags if "http-equiv" in p)
    assert policy.startswith("default-src 'none'; ")
    assert len(set(page.ids)) == len(page.ids)
    assert {p["href"][1:] for tag, p in page.tags if tag == "a"} == set(page.sections)
    assert [p["id"] for tag, p in page.tags if p.get("class") == "plot"] == [*page.figures]
    assert [tag for tag, _ in page.tags].count("h1") == 1
    return page


# --------------------------------------------------------------------------- what is there


def full(weighed=True, **settings):
    found = made_up(**settings)
    for run in found.runs:
        run.history.update({f"{o}_loss": [3.0, 2.0, 1.0, 0.5] for o in found.objectives})
        run.cosines.extend(run.cosines * 3)
        run.norms.extend([[1.0, 2.0, 0.001]] * 4)
        if weighed:
            run.recorded.extend([0, 10, 20])
            run.weights.update({"left": [1.0, 2.0, 3.0], "right": [0.5, 0.5, 0.5]})
            run.shares.update({"left": [0.9, 0.9, 0.9], "right": [0.1, 0.1, 0.1]})
        run.layers.update({"wide": [0.1, 0.2, 0.3, 0.4], "narrow": [0.5, 0.5, 0.5, 0.5]})
    return found


def test_a_comparison_has_all_its_figures():
    page = page_of(of_comparison(full()))
    for name, count in {
        "learning": 3,
        "losses": 3,
        "tradeoff": 1,
        "hypervolume": 1,
        "conflict": 3,
        "layers": 4,
        "norms": 3,
        "weights": 2,
        "shares": 2,
    }.items():
        assert len(page.plots(name)) == count, name
    assert "On average 2 under every method." in page.text
    assert "No weights were recorded" not in page.text
    without = page_of(of_comparison(full(weighed=False)))
    assert "No weights were recorded: the runs were not monitored" in without.text
    assert without.plots("shares") == []
    assert "Most opposed: left – right, cosine -0.50 on average, below 0 in 100 % of t" in page.text
    assert "Most opposed: narrow (0.50); least: wide (0.25)." in page.text
    assert "Adam, learning rate 0.001" in page.text
    assert "keras 3" in page.text
    assert [tag for tag, _ in page.tags].count("button") == 3


def test_a_line_is_the_mean_and_a_band_the_lowest_and_the_highest():
    page = page_of(of_comparison(full()))
    low, high, mean = (drawn(page, "learning-0", trace) for trace in range(3))
    np.testing.assert_allclose(mean, 0.805 * np.arange(1, 5) / 4, rtol=1e-6)
    np.testing.assert_allclose(low, 0.8 * np.arange(1, 5) / 4, rtol=1e-6)
    np.testing.assert_allclose(high, 0.81 * np.arange(1, 5) / 4, rtol=1e-6)


def test_a_method_has_its_colour_everywhere():
    page = page_of(of_comparison(full()))
    expected = {"MGDA": "#0072B2", "Sum": "#3B3B3B", "UPGrad": "#D55E00"}
    for name in (*page.plots("learning"), *page.plots("norms"), "tradeoff"):
        for trace in page.figures[name]["data"]:
            if "name" in trace:
                assert trace["marker"]["color"] == expected[trace["name"]]


def test_two_objectives_are_drawn_one_against_the_other():
    page = page_of(of_comparison(made_up(objectives=("left", "image"))))
    layout = page.figures["tradeoff"]["layout"]
    assert layout["yaxis"]["autorange"] == "reversed"  # an error: less is better
    assert layout["xaxis"]["autorange"] is True
    volume = page.figures["hypervolume"]["data"][0]
    best = numbers(volume["x"])[volume["y"].index("UPGrad")]
    assert best == pytest.approx(1.0)  # its best run is the best in both
    assert "the worst value of each, moved a tenth of the range beyond" in page.text


def test_what_was_not_made_is_told():
    found = full()
    spoil(found, 5, "diverged", "val_image_mse is not finite from epoch 4 on")
    page = page_of(of_comparison(found))
    assert "diverged in 1 of 2: val_image_mse is not finite" in page.text
    assert "1 to 2 runs each" in page.text
    assert "More runs cover more: compare methods with equally many." in page.text
    for index in range(6):
        spoil(found, index, "failed", "reason")
    page = page_of(of_comparison(found))
    assert not page.plots("learning")
    found.runs.clear()
    assert "Not run: " in page_of(of_comparison(found)).text


def test_a_monitored_training_has_all_its_figures():
    page = page_of(of_monitors("run", {"run": monitored()}))
    for name in ("learning", "losses", "weights", "shares", "norms"):
        assert len(page.plots(name)) == 3, name
    assert page.plots("conflict") == ["conflict-0"]
    assert page.plots("layers") == ["layers-0"]
    assert "tradeoff" not in page.figures
    assert numbers(page.figures["conflict-0"]["data"][0]["z"]).shape == (3, 40)
    assert "UPGrad" in page.text
    assert "monitored every step" in page.text
    assert "optimizer Adam(learning_rate=0.001)" in page.text


def test_weights_that_each_network_has_for_itself():
    run = monitored(8)
    inside = Figures(weights={"left": 0.5, "image": 2.0})
    run.steps[:] = [
        dataclasses.replace(step, weights={}, networks={"encoder": inside}) for step in run.steps
    ]
    page = page_of(of_monitors("run", {"run": run}))
    titles = [words.strip() for words in page.words if " in encoder" in words]
    assert titles == ["left in encoder", "image in encoder"]
    assert drawn(page, "weights-1").tolist() == [2.0] * 8
    assert len(page.plots("shares")) == 3


def test_cosines_are_those_of_the_record():
    run = monitored()
    page = page_of(of_monitors("run", {"run": run}))
    found = numbers(page.figures["conflict-0"]["data"][0]["z"])[1]
    np.testing.assert_allclose(found, run.column("cosine/left/image"), rtol=1e-5)


def test_several_trainings_are_grouped_by_method(tmp_path):
    for seed in (0, 1):
        write(monitored(seed=seed), tmp_path / "up" / str(seed))
        for c in (0.1, 0.4):
            method = {"name": "CAGrad", "settings": {"c": c, "rescale": 1}}
            write(monitored(seed=seed, method=method), tmp_path / f"ca-{c}" / str(seed))
    found = read(tmp_path)
    assert found.methods == ("CAGrad (c=0.1)", "CAGrad (c=0.4)", "UPGrad")
    assert [track.name for track in found.of("UPGrad")] == ["up/0", "up/1"]
    page = page_of(found)
    assert len(page.plots("conflict")) == 3
    assert "tradeoff" in page.figures
    assert "ca-0.1/0" in page.text


def test_runs_recorded_at_different_moments_have_no_mean():
    runs = {"a": monitored(every=2), "b": monitored(every=3)}
    page = page_of(of_monitors("runs", runs))
    lengths = [len(numbers(trace["x"])) for trace in page.figures["losses-0"]["data"]]
    assert lengths == [20, 14]


def test_a_torn_record_and_one_without_steps(tmp_path):
    write(monitored(4), tmp_path)
    path = tmp_path / "monitor.jsonl"
    path.write_bytes(path.read_bytes() + b'{"kind": "st')
    assert "stopped in the middle of a line" in page_of(read(tmp_path)).text
    page = page_of(of_monitors("run", {"run": monitored(0)}))
    assert not page.plots("losses")
    assert page.plots("learning")


def test_an_explanation_has_its_place(tmp_path):
    write(monitored(4), tmp_path)
    assert "The folder holds no explanation." in page_of(read(tmp_path)).text
    (tmp_path / "explanation.txt").write_text("image  <cut> by argmax\n  in decoder")
    page = page_of(read(tmp_path))
    assert "image  <cut> by argmax\n  in decoder" in "".join(page.words)


def explained(*findings):
    """What `pt.explain` says of two objectives and two networks."""
    count = np.ones((4, 2, 2))
    products = Products(count, np.ones((4, 2)), np.ones(4), np.full((4, 2), 0.5))
    reach = np.array([[True, True, True, True], [True, False, False, False]])
    return ExplanationOf(
        objectives=("left", "right"),
        networks=("encoder", "decoder"),
        method="UPGrad",
        losses={"left": 0.5, "right": math.nan},
        paths=("a", "b", "c", "d"),
        owners=("encoder", "encoder", "decoder", "decoder"),
        layers=("a", "b", "c", "d"),
        reach=reach,
        routes=np.ones((2, 4), bool),
        products=products,
        findings=findings,
    )


def test_an_explanation_that_was_saved_is_shown_as_tables(tmp_path):
    write(monitored(4), tmp_path)
    cut = Finding(
        "right", "decoder", "cut", "argmax lets none through", "Use a softmax.", line="m.py:3"
    )
    explained(cut).save(tmp_path / "explanation.json")
    page = page_of(read(tmp_path))
    assert "objective loss encoder decoder left 0.5 norm 1.41e+00, share 50%" in page.text
    assert "no path" in page.text
    expected = "right x decoder: cut. argmax lets none through, at m.py:3. Use a softmax."
    assert expected in page.text
    (tmp_path / "inner").mkdir()
    explained().save(tmp_path / "inner" / "explanation.json")
    assert "Nothing is wrong: every gradient is where it should be." in page_of(read(tmp_path)).text


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"findings": [], "networks": ["a"]}'])
def test_a_file_that_is_no_explanation(tmp_path, text):
    write(monitored(4), tmp_path)
    (tmp_path / "explanation.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"explanation\.json is no explanation: .*or write it again"
    ):
        read(tmp_path)


@pytest.mark.parametrize("count", [2, 5])
def test_names_are_shown_and_never_read_as_code(count):
    found = of_comparison(made_up(objectives=NASTY[:count], methods=(*NASTY, "Sum")))
    text, page = page_text(found, "0.1.0"), page_of(found)
    for name in NASTY:
        assert name in "".join(page.words)
    assert "<script>alert" not in text
    for figure in page.figures.values():
        for trace in figure["data"]:
            assert "<" not in trace.get("name", "")
    titles = json.dumps([figure["layout"] for figure in page.figures.values()])
    assert "<b>" not in titles
    assert "</script>" not in titles


# --------------------------------------------------------------------------- how much is there


@pytest.fixture(scope="module")
def long_run():
    return monitored(100_000, ("left", "right"), ("encoder",), spike=77_777)


def test_100_000_steps_stay_small_and_lose_no_extreme(long_run):
    text = page_text(of_monitors("long", {"a": long_run}), "0.1.0")
    assert len(text.encode()) < 10e6
    page = Page(text)
    low, high, mean = page.figures["losses-0"]["data"]
    assert len(numbers(high["x"])) == 600
    spike = numbers(high["y"]).argmax()
    assert numbers(high["y"])[spike] == 1e6
    assert numbers(high["x"])[spike] <= 77_777 <= numbers(high["x"])[spike + 1]
    assert numbers(low["y"]).min() == pytest.approx(min(long_run.column("loss/left")))
    assert numbers(low["x"])[[0, -1]].tolist() == [0, 99_999]
    losses = np.array(long_run.column("loss/left"))
    assert numbers(mean["y"])[0] == pytest.approx(losses[:333].mean())
    assert numbers(page.figures["conflict-0"]["data"][0]["z"]).shape == (1, 200)
    assert "Long curves show the mean in each of 300 windows of time, and a band from" in page.text
    assert "Each column is the mean over one of 200 windows of time." in page.text


def test_many_methods_and_objectives_stay_small_too():
    random = np.random.default_rng(0)
    names = tuple(f"objective {i}" for i in range(8))
    methods = tuple(f"method {i}" for i in range(25))
    found = made_up(names, methods, seeds=2, epochs=300)
    for run in found.runs:
        run.history.update({f"{name}_loss": random.uniform(size=300).tolist() for name in names})
        run.cosines[:] = random.uniform(-1, 1, (300, 8, 8)).tolist()
        run.recorded.extend(range(300))
        run.weights.update({name: random.uniform(size=300).tolist() for name in names})
        run.layers.update({f"layer {i}": random.uniform(size=300).tolist() for i in range(50)})
    text = page_text(of_comparison(found), "0.1.0")
    assert len(text.encode()) < 10e6
    assert "Only the 40 with the most conflict are shown." in Page(text).text


def test_a_thinned_band_keeps_gaps_and_ends():
    x = np.arange(10_000.0)
    y = np.random.default_rng(1).normal(size=10_000)
    y[4000:6000] = np.nan
    low, high = fenced(over_runs([Series(x, y)]), 100)
    assert len(low.x) == 200
    assert np.nanmax(high.y) == np.nanmax(y)
    assert np.nanmin(low.y) == np.nanmin(y)
    assert np.isnan(high.y[(high.x > 4100) & (high.x < 5900)]).all()
    assert (low.x[0], low.x[-1]) == (0, 9999)


def test_a_thinned_band_holds_every_value():
    runs = [
        Series(np.arange(5000.0), row) for row in np.random.default_rng(2).normal(size=(3, 5000))
    ]
    band = over_runs(runs)
    low, high = fenced(band, 100)
    assert len(low.x) == 200
    for run in runs:
        assert (np.interp(run.x, low.x, low.y) <= run.y + 1e-12).all()
        assert (np.interp(run.x, high.x, high.y) >= run.y - 1e-12).all()


def test_windows_of_a_heat_map_are_means():
    rows = np.random.default_rng(3).normal(size=(2, 1000))
    x, means = window_means(np.arange(1000.0), rows, 10)
    np.testing.assert_allclose(means, rows.reshape(2, 10, 100).mean(axis=2))
    np.testing.assert_allclose(x, np.arange(1000.0).reshape(10, 100).mean(axis=1))


def test_a_run_that_was_stopped_is_part_of_the_mean_as_far_as_it_got():
    whole, half = Series(np.arange(4.0), np.full(4, 2.0)), Series(np.arange(2.0), np.full(2, 4.0))
    band = over_runs([whole, half])
    assert isinstance(band, Band)
    assert band.mean.tolist() == [3, 3, 2, 2]
    assert band.high.tolist() == [4, 4, 2, 2]


# --------------------------------------------------------------------------- the command


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_the_command_writes_the_file(tmp_path):
    write(monitored(4), tmp_path)
    done = run("report", tmp_path)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"Written to {tmp_path / 'report.html'}.\n"
    assert Page((tmp_path / "report.html").read_text("utf-8")).figures
    assert run("report", tmp_path, "--out", tmp_path / "other.html").exit_code == 0
    assert {p.name for p in tmp_path.iterdir()} == {"monitor.jsonl", "report.html", "other.html"}


def test_the_command_says_what_is_wrong(tmp_path):
    done = run("report", tmp_path)
    assert done.exit_code == 2
    assert done.stderr == (
        f"There is nothing to report in {tmp_path}: neither a records.json of `polytape compare` "
        "nor a monitor.jsonl of pt.callbacks.GradientMonitor, also not in its folders.\n"
    )
    done = run("report", tmp_path / "nowhere")
    assert done.exit_code == 2
    assert done.stderr.endswith(" It is no folder.\n")
    write(monitored(4), tmp_path)
    done = run("report", tmp_path, "--out", tmp_path / "no" / "report.html")
    assert done.exit_code == 2
    assert done.stderr.startswith("The report cannot be written: [Errno 2]")
    assert done.stderr.count("\n") == 1
    (tmp_path / "records.json").write_text("{}")
    assert "is not a record of a comparison" in run("report", tmp_path).stderr


# --------------------------------------------------------------------------- in a browser


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_in_chromium(tmp_path, width, dark):
    pytest.importorskip("playwright", reason="playwright drives the browser")
    path = tmp_path / "report.html"
    found = of_monitors("runs", {str(s): monitored(seed=s) for s in range(2)}) if dark else None
    write_page(found or of_comparison(full()), path, "0.1.0")
    with opened(path, width=width, dark=dark) as (tab, seen):
        assert seen.messages == []
        assert seen.requests == []
        assert seen.drawn == seen.expected > 5
        assert seen.overflow <= 0
        if not dark:
            tab.click("#legend button")
            assert tab.get_attribute("#legend button", "aria-pressed") == "false"
            hidden = "document.getElementById('learning-0').data.map(trace => trace.visible)"
            assert tab.evaluate(hidden)[:3] == [False, False, False]


def test_the_library_is_there_once():
    text = page_text(of_monitors("run", {"run": monitored(4)}), "0.1.0")
    assert text.count('<script id="plotly">') == 1
    assert len(Page(text).library) > 1e6
    assert METHOD["name"] in text


def test_advice_is_shown(tmp_path):
    run = monitored()
    for record in run.steps:
        record.share["left"] = -0.1
    study = of_monitors("run", {"run": run})
    shown = Page(page_text(study, "0"))
    assert "advice" in shown.sections
    assert "'left' had a negative share of the update in 40 of 40 steps" in shown.text
    assert "advice" not in Page(page_text(of_monitors("run", {"run": monitored()}), "0")).sections
