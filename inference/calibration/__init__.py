"""Are the posteriors right? Simulation-based calibration of samplers, guides and exact methods."""
