"""Models whose evidence is exact: linear-Gaussian latents and mixtures, with maximum likelihood beside them."""
