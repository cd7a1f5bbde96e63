"""Event files that TensorBoard reads, written without TensorFlow."""

import importlib
import importlib.util
import io
import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class EventFile:
    """Scalars and pictures for TensorBoard, by the package `tensorboard` alone."""

    def __init__(self, folder: str | os.PathLike[str], start: int = 0) -> None:
        """start  what earlier files say of steps from this one on is forgotten"""
        check_tensorboard()
        module = importlib.import_module
        self._event: Any = module("tensorboard.compat.proto.event_pb2")
        self._summary: Any = module("tensorboard.compat.proto.summary_pb2")
        writer: Any = module("tensorboard.summary.writer.record_writer")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        now = f"{time.time():.3f}.{socket.gethostname()}.{os.getpid()}"
        self.path = folder / f"events.out.tfevents.{now}.polytape"
        self._file = writer.RecordWriter(open(self.path, "ab"))  # noqa: SIM115
        self._write(self._event.Event(wall_time=time.time(), file_version="brain.Event:2"))
        log = self._event.SessionLog(status=self._event.SessionLog.START)
        self._write(self._event.Event(wall_time=time.time(), step=start, session_log=log))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Points of curves.

        Args:
            step: where they lie
            values: {tag: number}; what is not finite is left out
        """
        values = {tag: value for tag, value in values.items() if math.isfinite(value)}
        self._add(step, [self._value(tag, simple_value=value) for tag, value in values.items()])

    def heat_map(
        self, step: int, tag: str, names: Sequence[str], matrix: Sequence[Sequence[float]]
    ) -> None:
        """A matrix of cosines as a picture.

        Args:
            step: where it lies
            tag: its name
            names: of rows and columns
            matrix: numbers from -1 to 1; NaN is left white
        """
        picture, width, height = _drawn(tag, names, matrix)
        image = self._summary.Summary.Image(
            width=width, height=height, colorspace=4, encoded_image_string=picture
        )
        self._add(step, [self._value(tag, image=image)])

    def _value(self, tag: str, **content: Any) -> Any:
        return self._summary.Summary.Value(tag=tag, **content)

    def _add(self, step: int, values: list[Any]) -> None:
        if values:
            summary = self._summary.Summary(value=values)
            self._write(self._event.Event(wall_time=time.time(), step=step, summary=summary))

    def _write(self, event: Any) -> None:
        self._file.write(event.SerializeToString())

    def flush(self) -> None:
        """Leave what was written to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Nothing more is added."""
        self._file.close()


def check_tensorboard() -> None:
    """Raise unless the package is there.

    Raises:
        ImportError: If it is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ImportError(
            "GradientMonitor(tensorboard=...) writes its files with the package `tensorboard`, "
            "which is not installed. `pip install tensorboard` (TensorFlow is not needed), or "
            "leave out `tensorboard`: the records are in monitor.jsonl all the same."
        )


def _drawn(
    title: str, names: Sequence[str], matrix: Sequence[Sequence[float]]
) -> tuple[bytes, int, int]:
    """A picture in PNG, its width and its height."""
    count, dots = len(names), 100
    side = 1.8 + 0.5 * count
    drawing: Any = importlib.import_module("matplotlib.figure")  # takes long, and few draw
    figure = drawing.Figure(figsize=(side + 0.6, side), dpi=dots, layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu")
    axes.set_xticks(range(count), names, rotation=45, ha="right")
    axes.set_yticks(range(count), names)
    axes.set_title(title, fontsize=9)
    if count <= 8:
        for row, numbers in enumerate(matrix):
            for column, value in enumerate(numbers):
                if math.isfinite(value):
                    colour = "white" if abs(value) > 0.6 else "black"
                    axes.text(
                        column, row, f"{value:.2f}", ha="center", va="center", color=colour, size=7
                    )
    figure.colorbar(drawn, ax=axes, shrink=0.8)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    width, height = (round(inches * dots) for inches in figure.get_size_inches())
    return picture.getvalue(), width, height
