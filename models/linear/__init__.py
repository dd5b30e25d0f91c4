"""Conjugate linear models: evidence of every subset of columns in closed form."""
