"""Golden numbers of the project: exact or published values, each with where it comes from."""
