"""The whole check: linters, types, layers, and the suite on every backend.

python tests/everywhere.py [BACKEND ...]      all of tensorflow, jax and torch if none is named
XLA_FLAGS= python tests/everywhere.py         with XLA's own optimisation, before a release
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ("tensorflow", "jax", "torch")
STATIC = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("lint-imports",),
)
# Compiling takes most of the time, and one process at a time uses one core for it. PyTorch's
# processes get one thread each, or they would fight over the cores. Groups of tests are handed out
# in the order of `conftest.py`, where it is also said how XLA is told to be quick.
SPREAD = ("-n", "auto", "--maxprocesses", "4", "--dist", "loadgroup", "--no-loadscope-reorder")


def run(title: str, command: tuple[str, ...], **environment: str) -> bool:
    print(f"\n== {title}: {' '.join(command)}", flush=True)
    started = time.monotonic()
    here = Path(sys.executable).parent
    path = f"{here}{os.pathsep}{os.environ.get('PATH', '')}"
    settings = {**os.environ, "PATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    code = subprocess.run(command, cwd=ROOT, env=settings, check=False).returncode
    print(
        f"== {title}: {'ok' if code == 0 else f'FAILED ({code})'}, "
        f"{time.monotonic() - started:.0f} s",
        flush=True,
    )
    return code == 0


def main(backends: list[str]) -> int:
    unknown = set(backends) - set(BACKENDS)
    if unknown:
        print(f"Unknown backend: {', '.join(sorted(unknown))}. Expected some of {BACKENDS}.")
        return 2
    results = {" ".join(command): run("static", command) for command in STATIC}
    for backend in backends or BACKENDS:
        command = (sys.executable, "-m", "pytest", "--durations=8", *SPREAD)
        threads = {"OMP_NUM_THREADS": "1"} if backend == "torch" else {}
        results[backend] = run(f"suite on {backend}", command, KERAS_BACKEND=backend, **threads)
    lines = [f"{'ok    ' if ok else 'FAILED'}  {name}" for name, ok in results.items()]
    print("\n" + "\n".join(lines))
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
