"""The compiled step: one evaluation of an objective as a static graph of tensor operations."""
