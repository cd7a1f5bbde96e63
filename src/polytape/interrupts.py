"""Ctrl-C that is not lost where Python swallows it, and that waits for a save."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupts:
    """As a context manager: Ctrl-C raises KeyboardInterrupt as always, and is remembered.

    Python throws away what is raised in a destructor or in a callback of the garbage collector, as
    JAX installs one, and a good part of the time is spent there. `check` raises it again.
    Outside the main thread, where Python has no signals, nothing is done.
    """

    def __init__(self) -> None:
        self.asked = False
        self._putting_off = False

    def __enter__(self) -> "Interrupts":
        self._ours = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if self._ours:
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed, whatever has become of it."""
        if self.asked:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def put_off(self) -> Iterator[None]:
        """Ctrl-C waits until the end of the block, for something that must not be done by half."""
        self._putting_off = True
        try:
            yield
        finally:
            self._putting_off = False
        self.check()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        self.asked = True
        if not self._putting_off:
            raise KeyboardInterrupt
