"""What a piece of work cost the process that did it. Standard library only: it is read in two environments.

Both sides of a comparison are measured by this one class. Memory is told twice. *Resident* is all that is mapped and
present, pages of weight files included, which the kernel may take back at any moment; its high-water mark is kept by
Linux, which lets a process set it back. *Own* is what has no file behind it and so stays; its peak is sampled.
"""

import contextlib
import resource
import sys
import threading
import time
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_SAMPLE_S = 0.02


class Meter:
    """Measures what happens inside its `with` block; read `cost` after it."""

    def __enter__(self) -> "Meter":
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")  # sets the mark to what is resident now
        self._before = _memory()
        self._peak_own = self._before["RssAnon"]
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        wall_s, cpu_s = time.perf_counter() - self._wall_s, time.process_time() - self._cpu_s
        self._over.set()
        self._sampler.join()
        after = _memory()
        self._found = {
            "wall_s": wall_s,
            "cpu_s": cpu_s,
            "before_bytes": self._before["VmRSS"],
            "peak_bytes": after["VmHWM"],
            "before_own_bytes": self._before["RssAnon"],
            "peak_own_bytes": max(self._peak_own, after["RssAnon"]),
        }

    @property
    def cost(self) -> dict[str, float]:
        """`wall_s`, `cpu_s` of all threads; resident `before_bytes` and `peak_bytes`, and the same of `own` memory."""
        return self._found

    def _sample(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            self._peak_own = max(self._peak_own, _memory()["RssAnon"])


def _memory() -> dict[str, int]:
    """`VmRSS`, `VmHWM` and `RssAnon` in bytes; elsewhere than on Linux all of them are the process's peak so far."""
    names = ("VmRSS", "VmHWM", "RssAnon")
    if not _STATUS.exists():
        unit = 1 if sys.platform == "darwin" else 1024
        return dict.fromkeys(names, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
    lines = (line.split(":") for line in _STATUS.read_text().splitlines())
    return {name: int(value.split()[0]) * 1024 for name, value in lines if name in names}
