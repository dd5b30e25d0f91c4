"""Searches: trials asked one by one of a sampler that learns from those before."""
