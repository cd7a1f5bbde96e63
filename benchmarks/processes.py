"""A process for each contender, which measures when it is asked: nobody shares another's threads.

The one who asks writes a line and gets a line. What else a process prints is not an answer.
"""

import importlib.util
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping

ANSWER = "answer: "


def installed(package: str) -> bool:
    """Whether it can be imported, without doing so."""
    return importlib.util.find_spec(package) is not None


def answer(text: object) -> None:
    """In the process that is asked: reply."""
    print(f"{ANSWER}{text}", flush=True)


def questions() -> Iterator[str]:
    """In the process that is asked: what comes in, until the other one closes."""
    for line in sys.stdin:
        yield line.strip()


class NoAnswerError(RuntimeError):
    """A process gave no answer."""


class Worker:
    """A process that runs a module and answers.

    pause  seconds before each question: threads of the process asked before may spin for a while
    echo  whether to pass on what it says on stderr;  env  variables beside those of this process
    """

    def __init__(
        self,
        module: str,
        *arguments: object,
        pause: float = 0.1,
        echo: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.pause, self.echo = pause, echo
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            text=True,
        )
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._errors: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._collect, daemon=True).start()

    def ask(self, question: str, seconds: float | None = None) -> str:
        """The answer; NoAnswerError after so many seconds, or if the process ends."""
        time.sleep(self.pause)
        try:
            print(question, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise NoAnswerError(self._reason()) from None
        return self.wait(seconds)

    def wait(self, seconds: float | None = None) -> str:
        """The next answer, nothing being asked."""
        try:
            found = self._answers.get(timeout=seconds)
        except queue.Empty:
            self.process.kill()
            raise NoAnswerError(f"no answer in {seconds:.0f} s") from None
        if found is None:
            raise NoAnswerError(self._reason())
        return found

    def close(self) -> None:
        if self.process.poll() is None and self.process.stdin:
            self.process.stdin.close()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def _reason(self) -> str:
        code = self.process.wait()
        last = next((line.strip() for line in reversed(self._errors) if line.strip()), "")
        return f"the process ended with code {code}: {last}"

    def _listen(self) -> None:
        for line in self.process.stdout or ():
            if line.startswith(ANSWER):
                self._answers.put(line.removeprefix(ANSWER).strip())
        self._answers.put(None)

    def _collect(self) -> None:
        for line in self.process.stderr or ():
            self._errors = [*self._errors[-20:], line]
            if self.echo:
                sys.stderr.write(line)
