"""Sparse autoencoders: loading, encoding, and what is read from their features."""
