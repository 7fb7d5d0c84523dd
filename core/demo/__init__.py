"""The small real language model Rayscope ships, with its sparse autoencoders and transcoders.

Everything a new user sees in the first five minutes runs on this model, without a hub and without a GPU. Importing
this package imports nothing heavy; `python -m core.demo.train` rebuilds every artefact from nothing but this folder's
code.
"""

from pathlib import Path

DEMO_MODEL_ID = "rayscope-demo"
"""The catalogue id of the demo model."""

ARTEFACTS: Path = Path(__file__).parent / "artefacts"
"""Folder of the shipped artefacts: `model/`, the dictionaries, `persona/`, `measurements.json`, the card."""
