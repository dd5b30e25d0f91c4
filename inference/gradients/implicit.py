"""Implicit reparameterisation, re-exported: the rules live beside the distributions that use them."""

from evidentia.models.distributions.implicit import ImplicitReparam as ImplicitReparam
from evidentia.models.distributions.implicit import closed_form_sample as closed_form_sample
from evidentia.models.distributions.implicit import implicit_sample as implicit_sample
