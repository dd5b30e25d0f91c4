"""How a study is declared, run, kept, reported and compared."""
