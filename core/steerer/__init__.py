"""Steering large models on vLLM: an extension of its workers, and the engine around it."""
