"""The eager model engine: a plain `transformers` forward, read at TransformerLens hook points."""
