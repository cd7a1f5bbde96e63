"""Records of a monitored training as CSV: a line for each record, a column for each number."""

import csv
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

from polytape.diagnostics.monitor_records import StepRecord, set_aside

FIRST = ("step", "epoch", "phase", "seconds")


class MonitorTable:
    """Adds records to a CSV file, each line whole and at once.

    Its columns are those of the first records; what is no number is an empty cell.
    """

    def __init__(self, path: str | os.PathLike[str], start: int = 0) -> None:
        """path  of the file;  start  lines of steps from this one on go: they are made again"""
        self.path, self._start = Path(path), start
        self._columns: tuple[str, ...] = ()

    def write(self, records: Sequence[StepRecord]) -> None:
        """Add records.

        Args:
            records: in order
        """
        if not records:
            return
        if not self._columns:
            names = dict.fromkeys(name for record in records for name in record.scalars)
            self._open((*FIRST, *names))
        with open(self.path, "ab", buffering=0) as file:
            file.write("".join(map(self._line, records)).encode("utf-8"))

    def _open(self, columns: tuple[str, ...]) -> None:
        self._columns = columns
        title = _text(columns)
        if self.path.exists():
            lines = self.path.read_bytes().decode("utf-8").splitlines(keepends=True)
            if lines and lines[0] == title and self._start > 0:
                # Only whole lines, and none of a step that is made again.
                kept = [line for line in lines[1:] if line.endswith("\n")]
                kept = [line for line in kept if int(line.partition(",")[0]) < self._start]
                self._replace(title + "".join(kept))
                return
            set_aside(self.path)  # of another training, or with other columns
        self._replace(title)

    def _replace(self, text: str) -> None:
        unfinished = self.path.with_name(self.path.name + ".tmp")
        unfinished.write_bytes(text.encode("utf-8"))
        os.replace(unfinished, self.path)

    def _line(self, record: StepRecord) -> str:
        found = {**{name: getattr(record, name) for name in FIRST}, **record.scalars}
        return _text([_cell(found.get(name, math.nan)) for name in self._columns])


def _cell(value: float) -> str:
    return repr(value) if math.isfinite(value) else ""


def _text(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()
