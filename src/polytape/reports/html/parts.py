"""What a page is made of: sections of figures, and how figures look."""

import dataclasses
import html
from typing import Any

import numpy as np
import plotly.graph_objects as go

from polytape.reports.html.study import Study
from polytape.reports.style import strokes

Look = dict[str, Any]
Strokes = dict[str, Look]
PANEL = 300  # pixels high
LONGEST = 26  # letters of a name beside a heat map
POINTS = 180_000  # of all curves together: some 2 MB
CELLS = 160_000  # of all heat maps together: some 1 MB
ROWS = 40  # of a heat map at most


@dataclasses.dataclass(frozen=True)
class Plot:
    """A figure with its words.

    name     of its element in the page
    title    what it shows
    seen     what is seen in it, in a sentence or two
    wide     whether it takes the whole width, and not a column
    """

    name: str
    title: str
    figure: go.Figure
    height: int = PANEL
    seen: str = ""
    wide: bool = False

    @property
    def json(self) -> str:
        """For a script element: no character in it ends one."""
        text = str(self.figure.to_json())
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    name   of its element
    lead   what is shown and how to read it
    empty  what is said in the place of figures where there are none
    """

    name: str
    title: str
    lead: str
    plots: list[Plot] = dataclasses.field(default_factory=list)
    empty: str = ""


@dataclasses.dataclass(frozen=True)
class Budget:
    """Into how many windows of time curves and heat maps are cut in this report, if they are."""

    windows: int
    columns: int

    @classmethod
    def of(cls, study: Study) -> "Budget":
        """So few that the page stays small, whatever the number of methods and objectives."""
        curves = rows = 0
        for method in study.methods:
            tracks = study.of(method)
            curves += max((sum(map(len, track.curves.values())) for track in tracks), default=0)
            for table in ([track.pairs for track in tracks], [track.parts for track in tracks]):
                rows += min(ROWS, max(map(len, table), default=0))
        return cls(
            # In a window a curve takes 5 points: its mean, and two for either edge of its band.
            windows=min(max(POINTS // (5 * max(curves, 1)), 12), 300),
            columns=min(max(CELLS // max(rows, 1), 20), 200),
        )


def looks(study: Study) -> Strokes:
    """{method: its colour, and its dash as Plotly writes it}."""
    found = strokes(study.methods, study.base)
    return {
        method: {"color": look["color"], "dash": _dash(look["linestyle"])}
        for method, look in found.items()
    }


def safe(text: str) -> str:
    """Plotly reads tags in every text; a name is to be shown as it is."""
    return html.escape(text, quote=False)


def empty() -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        template=go.layout.Template(),
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        showlegend=False,
        hovermode="closest",
        dragmode=False,  # a finger scrolls the page; the tools above a figure zoom it
    )
    figure.update_xaxes(automargin=True, nticks=6)
    figure.update_yaxes(automargin=True, nticks=6)
    return figure


def short(numbers: np.ndarray) -> np.ndarray:
    """Seven digits are enough for the eye, and half as long in the page."""
    return np.asarray(numbers, np.float32)


def cut(name: str) -> str:
    """The beginning and the end of a long name."""
    if len(name) <= LONGEST:
        return name
    half = (LONGEST - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _dash(linestyle: Any) -> str:
    return "solid" if linestyle == "-" else ",".join(f"{2 * step:g}px" for step in linestyle[1])


def whole_epochs(figure: go.Figure, epochs: np.ndarray) -> None:
    """There is no half an epoch to put a number at."""
    if np.ptp(epochs) < 6:
        figure.update_xaxes(dtick=1)


def plain(value: Any) -> str:
    """A setting, as one would say it.

    >>> plain({"name": "Adam", "settings": {"learning_rate": 0.004999999888, "clipnorm": None}})
    'Adam(learning_rate=0.005, clipnorm=none)'
    """
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(plain, value))})"
    if isinstance(value, dict):
        name, inner = value.get("class_name", value.get("name")), settings_of(value)
        said = ", ".join(f"{key}={plain(item)}" for key, item in inner.items() if key != "name")
        return f"{name}({said})" if isinstance(name, str) else f"{{{said}}}"
    return str(value)


def settings_of(described: dict[str, Any]) -> dict[str, Any]:
    """Of something that Keras serialised, that a monitor described, or that is settings itself."""
    inner = described.get("config", described.get("settings", described))
    return inner if isinstance(inner, dict) else {}
