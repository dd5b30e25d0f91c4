"""Markov chain kernels: pure batched steps and one adapter to Pyro."""
