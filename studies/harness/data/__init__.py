"""Data sets as studies name them, checked before anything is written."""
