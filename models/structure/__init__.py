"""Families of models: a graph whose edges carry alternative operations."""
