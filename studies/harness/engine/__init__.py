"""How points are computed: problem, handler, executor, signals, resume."""
