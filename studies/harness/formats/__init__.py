"""A run in the formats of other programs: Parquet, zarr and the DOT language; imported on use."""
