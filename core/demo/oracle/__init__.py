"""A scripted language model that explains and judges features of the demo, so that all of it runs without a key.

questions   what a prompt asks
concepts    what there is to be said of the demo's texts
fitting     which of it fits marked tokens best
answers     the answer, in the form the prompt asks for
model       the `Endpoint`
"""

from core.demo.oracle.model import ORACLE_MODEL, DemoOracle, demo_models

__all__ = ["ORACLE_MODEL", "DemoOracle", "demo_models"]
