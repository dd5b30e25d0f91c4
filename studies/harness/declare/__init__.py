"""What a study declares, and how its points get their identity."""
