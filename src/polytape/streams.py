"""Standard output and error that cost nobody a result: any encoding, a full disk, a closed pipe."""

import codecs
import contextlib
import io
import os
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any

PLAIN = {"✓": "+", "✗": "x", "↑": "^", "↓": "v", "±": "+-", "–": "-", "—": "-", "…": ".", "·": "."}
PLAIN |= {"×": "x", "−": "-", "≤": "<=", "≥": ">=", "≠": "!=", "√": "sqrt", "∞": "inf"}
PLAIN |= {"─": "-", "━": "-", "│": "|", "●": "*", "“": '"', "”": '"', "’": "'"}


def plain(error: UnicodeError) -> tuple[str, int]:
    """What stands in place of characters that an encoding does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = (_closest(letter) for letter in error.object[error.start : error.end])
    return "".join(found), error.end


def _closest(letter: str) -> str:
    if letter in PLAIN:
        return PLAIN[letter]
    without_accent = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return without_accent or "?"


codecs.register_error("polytape.plain", plain)


class Surviving:
    """A stream that goes on silently once it cannot be written to, and remembers why."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        stream.reconfigure(errors="polytape.plain")
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        with self._surviving():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._surviving():
            self._stream.flush()

    @contextlib.contextmanager
    def _surviving(self) -> Iterator[None]:
        try:
            yield
        except OSError as failure:
            self.failure = self.failure or failure
            nowhere = os.open(os.devnull, os.O_WRONLY)  # takes what is buffered, now and at exit
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def surviving_streams() -> Iterator[None]:
    """For the duration of a command; ends it with status 1 if its output was lost."""
    kept = sys.stdout, sys.stderr
    wrapped = [Surviving(s) if isinstance(s, io.TextIOWrapper) else s for s in kept]
    sys.stdout, sys.stderr = wrapped  # type: ignore[assignment]
    try:
        yield
    finally:
        out, err = wrapped
        sys.stdout, sys.stderr = kept
        out.flush()
        if isinstance(out, Surviving) and out.failure is not None:
            if not isinstance(out.failure, BrokenPipeError):  # `| head` has read what it wanted
                err.write(f"The output could not be written: {out.failure}.\n")
                err.flush()
            sys.exit(1)
