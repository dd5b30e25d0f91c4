"""The figures of studies and reports, in one style."""
