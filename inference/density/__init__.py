"""A fast batched log density out of any Pyro model: sites, recorded graph, executors, fallbacks."""
