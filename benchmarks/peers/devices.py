"""What a process says of its device: environment, waiting until it is done, peak memory.

Memory of a step is its peak above what is held between steps. On a CPU that is the resident set,
whose high-water mark Linux lets a process reset; elsewhere than on Linux it stays unknown, and so
does TensorFlow's, which keeps what it has freed for itself.
"""

import ctypes
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

Device = Literal["cpu", "gpu"]
LINUX = sys.platform.startswith("linux")


def environment(device: Device) -> dict[str, str]:
    """For the process of a contender. Memory is taken as it is needed, so that it can be read."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
    if device == "cpu":
        return {**quiet, "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    return {
        **quiet,
        "JAX_PLATFORMS": "cuda",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if LINUX else os.cpu_count() or 1


def confine(count: int) -> None:
    """Use so many cores from now on, and start as many threads; zero: all."""
    if count:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


class Machine:
    """One framework on one device. All compute in full float32, on a GPU, too.

    name  of the device, as the framework has it
    """

    def __init__(self, framework: str, device: Device) -> None:
        self.framework, self.device = framework, device
        self.name = {"torch": self._torch, "jax": self._jax, "tensorflow": self._tensorflow}[
            framework
        ]()
        self._held = 0

    def _torch(self) -> str:
        import torch

        if self.device == "cpu":
            return "cpu"
        if not torch.cuda.is_available():
            raise RuntimeError("PyTorch sees no CUDA device")
        torch.backends.cudnn.allow_tf32 = False
        return torch.cuda.get_device_name()

    def _jax(self) -> str:
        import jax

        found = jax.devices()[0]
        if self.device == "gpu":
            if found.platform != "gpu":
                raise RuntimeError(f"JAX sees no GPU but {found.device_kind}")
            jax.config.update("jax_default_matmul_precision", "highest")
        return str(found.device_kind)

    def _tensorflow(self) -> str:
        import tensorflow as tf

        if self.device == "cpu":
            return "cpu"
        found = tf.config.list_physical_devices("GPU")
        if not found:
            raise RuntimeError("TensorFlow sees no GPU")
        tf.config.experimental.enable_tensor_float_32_execution(False)
        return str(tf.config.experimental.get_device_details(found[0]).get("device_name", "GPU"))

    def wait(self) -> None:
        """Until all that was begun on the device is done.

        On a CPU it is, but for JAX, whose arrays are waited for by whoever holds them.
        """
        if self.device == "cpu":
            return
        if self.framework == "torch":
            import torch

            torch.cuda.synchronize()
        if self.framework == "tensorflow":
            import tensorflow as tf

            tf.test.experimental.sync_devices()

    def peak(self, run: Callable[[], Any]) -> int | None:
        """Bytes that it takes at its peak, above what was held before."""
        gc.collect()
        self.wait()
        if self.device == "gpu":
            before = self._allocated()
            run()
            self.wait()
            return self._allocated_at_most() - before
        if not LINUX or self.framework == "tensorflow":
            run()
            return None
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the mark starts anew
        before = _resident("VmRSS")
        run()
        return max(0, _resident("VmHWM") - before)

    def _allocated(self) -> int:
        """Bytes in use; from here on the most is counted, but for JAX, which cannot start anew."""
        if self.framework == "torch":
            import torch

            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
        if self.framework == "tensorflow":
            import tensorflow as tf

            tf.config.experimental.reset_memory_stats("GPU:0")
            return tf.config.experimental.get_memory_info("GPU:0")["current"]
        import jax

        return jax.devices()[0].memory_stats()["bytes_in_use"]

    def _allocated_at_most(self) -> int:
        if self.framework == "torch":
            import torch

            return torch.cuda.max_memory_allocated()
        if self.framework == "tensorflow":
            import tensorflow as tf

            return tf.config.experimental.get_memory_info("GPU:0")["peak"]
        import jax

        return jax.devices()[0].memory_stats()["peak_bytes_in_use"]


def _resident(field: str) -> int:
    """Bytes, as the kernel counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
