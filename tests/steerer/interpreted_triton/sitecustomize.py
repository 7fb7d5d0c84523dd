"""Lets vLLM find a Triton for CPUs, which is Triton's own interpreter: for tests of what only runs with Triton.

Python imports a module of this name at start, before anything asks for Triton. Only the test that wants it puts this
folder on the path.
"""

import os
from types import SimpleNamespace

os.environ["TRITON_INTERPRET"] = "1"

from triton.backends import backends


class _Driver:
    @staticmethod
    def is_active() -> bool:
        return True


backends["cpu"] = SimpleNamespace(driver=_Driver, compiler=None)
