"""What a warm-up tunes: step size, metric and trajectory length, each as a state and pure updates."""
