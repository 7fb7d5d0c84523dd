"""Automatic interpretability: replicas that explain and score, and what they share."""
