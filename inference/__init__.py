"""How belief is updated: fitting, sampling, evidence, structure selection, diagnostics."""
