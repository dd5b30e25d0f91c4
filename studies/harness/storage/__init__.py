"""The run folder: atomic writes, checkpoints, manifest, locks, and reading it back."""
