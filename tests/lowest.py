"""The declared versions are true: the lowest of all, with one framework only, and a quick suite.

python tests/lowest.py [BACKEND ...]      tensorflow and jax if none is named

Each has a virtual environment of its own under .lowest/, and both run at the same time.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from everywhere import quick

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ("tensorflow", "jax")
QUICK = (  # what broke first with older versions: imports, saving, the command line
    "tests/users/test_import_builds_nothing.py",
    "tests/users/test_declared_versions.py",
    "tests/training/test_saving.py",
    "tests/test_combiner.py",
    "tests/test_cli.py",
    "tests/test_tape.py",
    "tests/explain/test_gallery.py",  # reads what frameworks say of their operations
)


def run(backend: str, *command: str, flags: str = "") -> bool:
    settings = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    settings |= {"XLA_FLAGS": flags, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(f"== lowest versions, {backend}: {' '.join(command[1:])}\n{done.stdout}", flush=True)
    return done.returncode == 0


def check(backend: str) -> bool:
    started = time.monotonic()
    python = str(ROOT / ".lowest" / backend / "bin" / "python")
    pins = ("-c", "tests/lowest.txt", "-e", f".[{backend}]", "pytest", "scipy")
    fine = run(backend, sys.executable, "-m", "venv", f".lowest/{backend}")
    fine = fine and run(backend, python, "-m", "pip", "install", "--quiet", *pins)
    if fine:
        suite = ("-W", "ignore", "-m", "pytest", "--durations=5", *QUICK)
        fine = run(backend, python, *suite, flags=quick(backend, python))
    seconds = time.monotonic() - started
    print(f"== lowest versions, {backend}: {'ok' if fine else 'FAILED'}, {seconds:.0f} s")
    return fine


def main(backends: list[str]) -> int:
    chosen = backends or BACKENDS
    with ThreadPoolExecutor(len(chosen)) as pool:
        return 0 if all(list(pool.map(check, chosen))) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
