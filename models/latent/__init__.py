"""Models with a local latent for each datum whose likelihood is a network: autoencoders and their parts."""
