"""What is believed: generative models, and families of models, as Pyro programs."""
