"""What is believed: generative models, and families of models, as Pyro programs."""

from evidentia.models.hyper import Hyper as Hyper
from evidentia.models.likelihood import Bernoulli as Bernoulli
from evidentia.models.likelihood import Categorical as Categorical
from evidentia.models.likelihood import Gaussian as Gaussian
from evidentia.models.likelihood import Likelihood as Likelihood
from evidentia.models.likelihood import Poisson as Poisson
from evidentia.models.linear.priors import GPrior as GPrior
from evidentia.models.linear.priors import NormalInverseGamma as NormalInverseGamma
from evidentia.models.linear.priors import NormalPrior as NormalPrior
from evidentia.models.pair import Pair as Pair
from evidentia.models.regression import SubsetRegression as SubsetRegression
from evidentia.models.structure.base_op import Op as Op
from evidentia.models.structure.custom_ops import op as op
from evidentia.models.structure.errors import FamilyError as FamilyError
from evidentia.models.structure.family import Family as Family
from evidentia.models.structure.layers import Dense as Dense
from evidentia.models.structure.layers import Linear as Linear
from evidentia.models.structure.model import FamilyModel as FamilyModel
from evidentia.models.structure.ops import GLM as GLM
from evidentia.models.structure.ops import Constant as Constant
from evidentia.models.structure.ops import Identity as Identity
from evidentia.models.structure.ops import Zero as Zero
from evidentia.models.structure.structure import Structure as Structure
from evidentia.models.structure.weights import ARD as ARD
