"""From results to the groups of an InferenceData, without ArviZ."""
