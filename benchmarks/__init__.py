"""Side-by-side measurements: every claim of speed is a ratio, taken in one run on one machine."""
