"""The inferences, baselines and metrics that a study can name."""
