"""Particle objectives: bounds, gradient coefficients, and the engine that applies them."""
