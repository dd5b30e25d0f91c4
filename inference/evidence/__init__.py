"""Log evidence with error bars: one estimator per file."""
