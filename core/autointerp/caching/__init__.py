"""Activation caching: from a corpus to sparse records of every latent, and from those to examples."""
