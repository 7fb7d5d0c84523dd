"""Steering: changing activations while a model writes. What is asked for, its mathematics, and where directions are."""
