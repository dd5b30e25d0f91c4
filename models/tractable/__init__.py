"""Models whose evidence is exact: linear-Gaussian latents and mixtures, and their maximum likelihood."""
