"""Small un-batched Pyro models of many kinds, with their arguments: what traced densities must pass."""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroSample

F64 = torch.float64


def t(*values):
    return torch.tensor(values, dtype=F64)


def latent(law, name="z"):
    """A model of one latent and a normal observation of its sum."""

    def model(y):
        z = pyro.sample(name, law())
        pyro.sample("y", dist.Normal(z.sum(), y.new_tensor(1.0)), obs=y)

    return model, (torch.tensor(0.3, dtype=F64),)


def observed(make, data):
    """A model with a positive latent `a` that sets the law of the observations."""

    def model(y):
        a = pyro.sample("a", dist.LogNormal(t(0.0)[0], 0.5))
        with pyro.plate("data", len(y)):
            pyro.sample("y", make(a), obs=y)

    return model, (data,)


def _mixture_same_family(y):
    loc = pyro.sample("loc", dist.Normal(t(0.0, 1.0), 1.0).to_event(1))
    parts = dist.MixtureSameFamily(dist.Categorical(t(0.4, 0.6)), dist.Normal(loc, t(1.0, 0.5)))
    with pyro.plate("data", len(y)):
        pyro.sample("y", parts, obs=y)


def _lkj(y):
    scale = pyro.sample("scale", dist.LogNormal(t(0.0, 0.0), 1.0).to_event(1))
    factor = pyro.sample("factor", dist.LKJCholesky(2, t(2.0)[0]))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.MultivariateNormal(t(0.0, 0.0), scale_tril=scale[:, None] * factor), obs=y)


def _covariance(y):
    a = pyro.sample("a", dist.LogNormal(t(0.0)[0], 1.0))
    matrix = a * torch.eye(2, dtype=F64) + 0.3
    pyro.sample("y", dist.MultivariateNormal(t(0.0, 0.0), covariance_matrix=matrix), obs=y[0])


def _low_rank(y):
    w = pyro.sample("w", dist.Normal(torch.zeros(2, 1, dtype=F64), 1.0).to_event(2))
    pyro.sample("y", dist.LowRankMultivariateNormal(t(0.0, 0.0), w, t(0.5, 0.6)), obs=y[0])


def _ordered(y):
    base = dist.Normal(t(0.0, 0.0, 0.0), 1.0).to_event(1)
    cut = pyro.sample("cut", dist.TransformedDistribution(base, [dist.transforms.OrderedTransform()]))
    pyro.sample("y", dist.Normal(cut.sum(), 1.0), obs=y)


def _horseshoe(x, y):
    tau = pyro.sample("tau", dist.HalfCauchy(t(1.0)[0]))
    lam = pyro.sample("lam", dist.HalfCauchy(torch.ones(3, dtype=F64)).to_event(1))
    beta = pyro.sample("beta", dist.Normal(torch.zeros(3, dtype=F64), tau * lam).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, 1.0), obs=y)


def _gaussian_hmm(y):
    a = pyro.sample("a", dist.Normal(t(0.0)[0], 1.0))
    eye = torch.eye(2, dtype=F64)
    start = dist.MultivariateNormal(t(0.0, 0.0), eye)
    law = dist.GaussianHMM(start, a * eye, start, eye, start, duration=4)
    pyro.sample("y", law, obs=y)


def _mask(y):
    a = pyro.sample("a", dist.Normal(t(0.0)[0], 1.0))
    with pyro.plate("data", len(y)), pyro.poutine.mask(mask=torch.tensor([True, False, True])):
        pyro.sample("y", dist.Normal(a, 1.0), obs=y)


def _factor(y):
    a = pyro.sample("a", dist.Normal(t(0.0)[0], 1.0))
    pyro.factor("pull", -(a**4) / 4)


def _scale(y):
    a = pyro.sample("a", dist.Normal(t(0.0)[0], 1.0))
    with pyro.poutine.scale(scale=0.3):
        pyro.sample("y", dist.Normal(a, 1.0).expand([3]).to_event(1), obs=y)


@pyro.poutine.reparam(config={"theta": LocScaleReparam(0.0)})
def _reparam(y):
    mu = pyro.sample("mu", dist.Normal(t(0.0)[0], 1.0))
    tau = pyro.sample("tau", dist.LogNormal(t(0.0)[0], 1.0))
    with pyro.plate("data", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def _deterministic(y):
    a = pyro.sample("a", dist.Normal(t(0.0)[0], 1.0))
    b = pyro.deterministic("b", a.exp())
    pyro.sample("y", dist.Normal(b, 1.0).expand([3]).to_event(1), obs=y)


def _param(y):
    w = pyro.param("w", t(0.7)[0])
    scale = pyro.param("scale", t(1.5)[0], constraint=dist.constraints.positive)
    a = pyro.sample("a", dist.Normal(t(0.0)[0], 1.0))
    pyro.sample("y", dist.Normal(w * a, scale).expand([3]).to_event(1), obs=y)


def _static_loop(y):
    state = pyro.sample("x_0", dist.Normal(t(0.0)[0], 1.0))
    for step in range(3):
        state = pyro.sample(f"x_{step + 1}", dist.Normal(0.9 * state, 0.5))
        pyro.sample(f"y_{step}", dist.Normal(state, 1.0), obs=y[step])


def _where(y):
    a = pyro.sample("a", dist.Normal(t(0.0)[0], 1.0))
    mean = torch.where(a > 0, a, 0.1 * a**2)
    pyro.sample("y", dist.Normal(mean, 1.0).expand([3]).to_event(1), obs=y)


def _process(x, y):
    length = pyro.sample("length", dist.LogNormal(t(0.0)[0], 1.0))
    kernel = torch.exp(-0.5 * ((x[:, None] - x) / length) ** 2) + 0.1 * torch.eye(len(x), dtype=F64)
    pyro.sample("y", dist.MultivariateNormal(torch.zeros_like(x), kernel), obs=y)


def _full_subsample(y):
    a = pyro.sample("a", dist.Normal(t(0.0)[0], 1.0))
    with pyro.plate("data", len(y), subsample_size=len(y)) as rows:
        pyro.sample("y", dist.Normal(a, 1.0), obs=y[rows])


def _enumerated_mixture(y):
    weight = pyro.sample("weight", dist.Dirichlet(t(1.0, 2.0)))
    loc = pyro.sample("loc", dist.Normal(t(-1.0, 1.0), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        which = pyro.sample("which", dist.Categorical(weight), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(loc[which], 0.7), obs=y)


def _hidden_markov(y):
    stay = pyro.sample("stay", dist.Beta(t(2.0)[0], 2.0))
    loc = pyro.sample("loc", dist.Normal(t(-1.0, 1.0), 1.0).to_event(1))
    moves = torch.stack([torch.stack([stay, 1 - stay]), torch.stack([1 - stay, stay])])
    state = 0
    for step in pyro.markov(range(len(y))):
        state = pyro.sample(f"s_{step}", dist.Categorical(moves[state]), infer={"enumerate": "parallel"})
        pyro.sample(f"y_{step}", dist.Normal(loc[state], 1.0), obs=y[step])


def _spike_and_slab(x, y):
    rate = pyro.sample("rate", dist.Beta(t(1.0)[0], 1.0))
    mean = 0.0
    for k in range(2):
        on = pyro.sample(f"on_{k}", dist.Bernoulli(rate), infer={"enumerate": "parallel"})
        mean = mean + x[:, k] * pyro.sample(f"beta_{k}", dist.Normal(t(0.0)[0], 0.1 + on))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


class _Network(PyroModule):
    def __init__(self):
        super().__init__()
        self.first = PyroModule[torch.nn.Linear](3, 2, dtype=F64)
        # Built here, so with validation on: the flag of the distribution stays.
        self.first.weight = PyroSample(dist.Normal(t(0.0)[0], 1.0).expand([2, 3]).to_event(2))
        self.first.bias = PyroSample(dist.Normal(t(0.0)[0], 1.0).expand([2]).to_event(1))

    def forward(self, x, y):
        mean = torch.tanh(self.first(x)).sum(-1)
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def _flow():
    torch.manual_seed(3)
    flow = dist.transforms.affine_coupling(2, [4]).to(F64)

    def model(y):
        base = dist.Normal(t(0.0, 0.0), 1.0).to_event(1)
        z = pyro.sample("z", dist.TransformedDistribution(base, [flow]))
        pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y[:2])

    return model


X = torch.linspace(-1, 1, 12, dtype=F64).reshape(4, 3) ** 3
Y3, Y4, COUNTS = t(0.5, -0.3, 1.2), t(0.5, -0.3, 1.2, 0.1), t(0.0, 2.0, 5.0)
PAIRS = t(0.1, -0.4, 0.9, 0.2).reshape(2, 2)
SERIES = t(0.1, -0.4, 0.9, 0.2, 0.3, -0.1, 0.0, 0.4).reshape(4, 2)

FAMILIES = {
    "normal": latent(lambda: dist.Normal(t(0.1)[0], 2.0)),
    "student": latent(lambda: dist.StudentT(t(4.0)[0], 0.1, 2.0)),
    "laplace": latent(lambda: dist.Laplace(t(0.1)[0], 2.0)),
    "cauchy": latent(lambda: dist.Cauchy(t(0.1)[0], 2.0)),
    "asymmetric_laplace": latent(lambda: dist.AsymmetricLaplace(t(0.1)[0], t(2.0)[0], t(1.5)[0])),
    "gamma": latent(lambda: dist.Gamma(t(2.0)[0], 1.5)),
    "inverse_gamma": latent(lambda: dist.InverseGamma(t(2.0)[0], t(1.5)[0])),
    "beta": latent(lambda: dist.Beta(t(2.0, 1.5), 1.5).to_event(1)),
    "weibull": latent(lambda: dist.Weibull(t(2.0)[0], 1.5)),
    "exponential": latent(lambda: dist.Exponential(t(2.0)[0])),
    "log_normal": latent(lambda: dist.LogNormal(t(0.1)[0], 1.5)),
    "uniform": latent(lambda: dist.Uniform(t(-1.0)[0], 3.0)),
    "dirichlet": latent(lambda: dist.Dirichlet(t(2.0, 1.5, 1.0))),
    "von_mises": observed(lambda a: dist.VonMises(t(0.3)[0], a), t(0.1, -1.0, 2.0)),
    "poisson": observed(dist.Poisson, COUNTS),
    "negative_binomial": observed(lambda a: dist.NegativeBinomial(a, t(0.4)[0]), COUNTS),
    "gamma_poisson": observed(lambda a: dist.GammaPoisson(a, t(0.7)[0]), COUNTS),
    "zero_inflated": observed(lambda a: dist.ZeroInflatedPoisson(a, gate=t(0.3)[0]), COUNTS),
    "bernoulli": observed(lambda a: dist.Bernoulli(logits=a - 1), t(0.0, 1.0, 1.0)),
    "binomial": observed(lambda a: dist.Binomial(6, logits=a - 1), COUNTS),
    "beta_binomial": observed(lambda a: dist.BetaBinomial(a, 1 + a, total_count=6), COUNTS),
    "categorical": observed(
        lambda a: dist.Categorical(logits=torch.stack([a, 2 * a, -a])), COUNTS.clamp(max=2)
    ),
    "mixture_same_family": (_mixture_same_family, (Y3,)),
    "lkj": (_lkj, (PAIRS,)),
    "latent_covariance": (_covariance, (PAIRS,)),
    "low_rank": (_low_rank, (PAIRS,)),
    "ordered": (_ordered, (Y3[0],)),
    "horseshoe": (_horseshoe, (X, Y4)),
    "gaussian_hmm": (_gaussian_hmm, (SERIES,)),
    "mask": (_mask, (Y3,)),
    "obs_mask": (
        lambda y: pyro.sample(
            "y",
            dist.Normal(pyro.sample("a", dist.Normal(t(0.0)[0], 1.0)), 1.0).expand([3]),
            obs=y,
            obs_mask=torch.tensor([True, True, False]),
        ),
        (Y3,),
    ),
    "factor": (_factor, (Y3,)),
    "scale": (_scale, (Y3,)),
    "reparam": (_reparam, (Y3,)),
    "deterministic": (_deterministic, (Y3,)),
    "param": (_param, (Y3,)),
    "static_loop": (_static_loop, (Y3,)),
    "where": (_where, (Y3,)),
    "gaussian_process": (_process, (Y3, Y3)),
    "full_subsample": (_full_subsample, (Y3,)),
    "flow": (_flow(), (Y3,)),
    "network": (_Network(), (X, Y4)),
}
ENUMERATED = {
    "mixture": (_enumerated_mixture, (Y3,)),
    "hidden_markov": (_hidden_markov, (Y3,)),
    "spike_and_slab": (_spike_and_slab, (X, Y4)),
}
