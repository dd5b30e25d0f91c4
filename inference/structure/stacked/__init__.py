"""Many Gaussian guides as one stack of tensors: training and evidence."""
