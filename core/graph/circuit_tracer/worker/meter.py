"""What a piece of work cost the process that did it. Standard library only: it is read in two environments.

Both sides of a comparison are measured by this one class. Peak memory is the resident set's high-water mark, which
Linux lets a process set back; where it does not, the mark is that of the whole process's life.
"""

import contextlib
import resource
import sys
import time
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class Meter:
    """Measures what happens inside its `with` block; read `cost` after it."""

    def __enter__(self) -> "Meter":
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")  # sets VmHWM to what is resident now
        self._before_bytes = _resident_bytes("VmRSS")
        self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        wall_s, cpu_s = time.perf_counter() - self._wall_s, time.process_time() - self._cpu_s
        self._found = {
            "wall_s": wall_s,
            "cpu_s": cpu_s,
            "before_bytes": self._before_bytes,
            "peak_bytes": _resident_bytes("VmHWM"),
        }

    @property
    def cost(self) -> dict[str, float]:
        """`wall_s`, `cpu_s` of all threads, and resident `before_bytes` and `peak_bytes` of the whole process."""
        return self._found


def _resident_bytes(name: str) -> int:
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
