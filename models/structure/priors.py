"""Priors on structures, by domain.

==================  ==========================================================
domain              priors
==================  ==========================================================
``simplex``         `GumbelSoftmax` (default), `Dirichlet`, `LogisticNormal`
``simplex_vertex``  `Categorical`
``cube_vertex``     `Bernoulli` (default), `BetaBinomial`
``cube``            `RelaxedBernoulli` (default), `Beta`, `LogitNormal`
==================  ==========================================================
"""

from evidentia.models.structure.cube_priors import Bernoulli as Bernoulli
from evidentia.models.structure.cube_priors import BetaBinomial as BetaBinomial
from evidentia.models.structure.domains import Domain
from evidentia.models.structure.prior import StructurePrior as StructurePrior
from evidentia.models.structure.relaxed_cube_priors import Beta as Beta
from evidentia.models.structure.relaxed_cube_priors import LogitNormal as LogitNormal
from evidentia.models.structure.relaxed_cube_priors import RelaxedBernoulli as RelaxedBernoulli
from evidentia.models.structure.simplex_priors import Categorical as Categorical
from evidentia.models.structure.simplex_priors import Dirichlet as Dirichlet
from evidentia.models.structure.simplex_priors import GumbelSoftmax as GumbelSoftmax
from evidentia.models.structure.simplex_priors import LogisticNormal as LogisticNormal


def default_prior(domain: Domain) -> StructurePrior:
    """The prior of an edge declared without one: uniform over the vertices of its domain.

    Example:
        >>> default_prior(Domain("cube_vertex"))
        Bernoulli(probs=0.5)

    References:
        Bakhteev, 2020. Bayesian selection of a suboptimal structure of a deep learning model.
    """
    if domain.is_discrete:
        return Bernoulli(0.5) if domain.is_cube else Categorical()
    return RelaxedBernoulli(1.0, 0.5) if domain.is_cube else GumbelSoftmax(1.0)
