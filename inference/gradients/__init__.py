"""Gradient estimators of expectations over discrete sites, as pure functions of tensors."""
