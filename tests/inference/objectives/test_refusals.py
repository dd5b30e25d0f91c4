"""What the engine refuses or warns about, and that it names the site, the plate and the way out."""

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as flows
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoNormal, AutoStructured
from torch import nn

from evidentia.inference.objectives.coefficients import DeadRowWarning
from evidentia.inference.objectives.particle import ParticleELBO

DREG = ParticleELBO("iwae", "dreg", num_particles=3)


def model():
    with pyro.plate("data", 2):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(2))


def normal(name="z", size=2, **infer):
    def guide():
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", size):
            pyro.sample(name, dist.Normal(loc, 1.0), infer=infer)

    return guide


# -- sites that do not match -------------------------------------------------------------------------------


def test_a_guide_site_the_model_lacks():
    with pytest.raises(ValueError, match=r"site 'y'.*only the guide has|site 'z'.*got none there"):
        DREG.loss(model, normal("y"))

    def both():
        normal()()
        pyro.sample("y", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"site 'y'.*they are: 'z'.*is_auxiliary"):
        DREG.loss(model, both)


def test_a_model_site_the_guide_lacks():
    with pytest.raises(ValueError, match=r"site 'z': expected every latent site.*obs="):
        DREG.loss(model, lambda: None)


def test_a_model_site_meant_for_enumeration():
    def mixed():
        model()
        pyro.sample("k", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})

    with pytest.raises(ValueError, match=r"site 'k'.*enumeration.*TraceEnum_ELBO"):
        DREG.loss(mixed, normal())


def test_plates_that_differ():
    def bare():
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0))

    pyro.enable_validation(False)
    with pytest.raises(ValueError, match=r"site 'z': expected the same plates.*\['data'\] in the model"):
        ParticleELBO("iwae", "total", num_particles=1).loss(model, bare)
    with pytest.raises(ValueError, match=r"plate 'data': expected one size.*size 2 .*'z', size 3 "):
        ParticleELBO("iwae", "total", num_particles=1).loss(model, normal(size=3))


def test_shapes_that_differ():
    def wide():
        with pyro.plate("data", 2):
            pyro.sample("z", dist.Normal(torch.zeros(2, 3), 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"site 'z': expected the same shapes.*event \(\).*event \(3,\)"):
        ParticleELBO("iwae", "total", num_particles=1).loss(model_of_events, wide)


def model_of_events():
    with pyro.plate("data", 2):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def test_values_that_pair_particles():
    """A sum over the wrong dimension makes a log-probability with one dimension too many."""

    def careless():
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", 3):
            pyro.sample(
                "y", dist.Normal((w.unsqueeze(-2) * torch.ones(3, 2)).sum(-1), 1.0), obs=torch.ones(3)
            )

    def guide():
        pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    pyro.enable_validation(False)
    with pytest.raises(
        ValueError, match=r"site 'y': expected at most 2 batch dimensions.*index from the right"
    ):
        DREG.loss(careless, guide)


# -- numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_particles_are_counted(size):
    with pytest.raises(ValueError, match="num_particles: expected"):
        ParticleELBO("elbo", "total", num_particles=size)


def test_missing_data_are_named():
    def holes(mask):
        with pyro.plate("data", 3), pyro.poutine.mask(mask=mask):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            x = torch.tensor([1.0, torch.nan, torch.nan])
            pyro.sample("x", dist.Normal(z, 1.0, validate_args=False), obs=x)

    def guide(mask):
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))

    with pytest.raises(ValueError, match=r"site 'x': 2 observed values are NaN.*mask"):
        ParticleELBO("iwae", "dreg", num_particles=2, max_plate_nesting=1).loss(holes, guide, True)
    with pytest.raises(ValueError, match=r"site 'x': 1 observed value is NaN"):
        ParticleELBO("iwae", "dreg", num_particles=2, max_plate_nesting=1).loss(
            holes, guide, torch.tensor([True, False, True])
        )


def test_impossible_data_are_named_and_harm_nobody():
    """Trap 5: zero weight for the datum, a warning with its index, finite gradients for the others."""
    x = torch.tensor([0.5, 5.0, -0.2])
    width = torch.ones(3, requires_grad=True)

    def bounded():
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            reach = 2.0 * width
            inside = (x.abs() < reach.detach()).expand(z.shape)
            pyro.factor("x", torch.where(inside, -(x - z).square() * width, -torch.inf))

    loc = torch.zeros(3, requires_grad=True)

    def guide():
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Normal(loc, 1.0))

    for gradient in ("total", "dreg"):
        loc.grad = width.grad = None
        with pytest.warns(DeadRowWarning, match="plate index 1"):
            loss = ParticleELBO("iwae", gradient, num_particles=3).loss_and_grads(bounded, guide)
        assert loss == float("inf")
        assert bool(loc.grad.isfinite().all())
        assert loc.grad[1] == 0
        assert loc.grad[0] != 0
        assert width.grad[1] == 0


# -- guides ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "options", "fix"),
    [
        ("iwae", {}, "gradient='vimco' or gradient='loo'"),
        ("rws", {}, "gradient='total'"),
        ("renyi", {"alpha": 0.5}, "gradient='total'"),
        ("miwae", {"outer": 2}, "gradient='vimco'"),
    ],
)
def test_dreg_needs_reparameterised_sites(objective, options, fix):
    def pair():
        with pyro.plate("data", 2):
            pyro.sample("k", dist.Bernoulli(torch.tensor([0.3, 0.6])))

    with pytest.raises(ValueError, match=f"site 'k': expected a reparameterised.*{fix}"):
        ParticleELBO(objective, "dreg", num_particles=4, **options).loss_and_grads(pair, pair)
    with pytest.raises(ValueError, match=r"site 'k'.*objective='renyi'"):
        ParticleELBO("tail_adaptive", "total", num_particles=2).loss(pair, pair)


@pytest.mark.parametrize("transform", [flows.Planar, flows.Radial])
def test_flows_without_an_inverse(transform):
    """Trap 3: refused where the cut needs the inverse, fine with the total derivative."""
    flow = transform(2)

    def program():
        with pyro.plate("data", 2):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    def guide():
        pyro.module("flow", flow)
        with pyro.plate("data", 2):
            base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    with pytest.raises(ValueError, match=f"site 'z'.*{transform.__name__}.*no inverse.*gradient='total'"):
        DREG.loss_and_grads(program, guide)
    for parameter in flow.parameters():
        parameter.grad = None
    ParticleELBO("iwae", "total", num_particles=3).loss_and_grads(program, guide)
    assert all(parameter.grad is not None for parameter in flow.parameters())


@pytest.mark.parametrize(
    ("make", "columns"),
    [(lambda: flows.affine_autoregressive(2, [4]), 2), (lambda: flows.affine_coupling(2, [4]), 2)],
)
def test_flows_with_an_inverse(make, columns):
    flow = make()

    def program():
        with pyro.plate("data", 2):
            pyro.sample("z", dist.Normal(torch.zeros(columns), 1.0).to_event(1))

    def guide():
        pyro.module("flow", flow)
        with pyro.plate("data", 2):
            base = dist.Normal(torch.zeros(columns), 1.0).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    DREG.loss_and_grads(program, guide)
    assert any(bool((parameter.grad != 0).any()) for parameter in flow.parameters())


def test_rejection_samplers():
    """Trap 4."""
    from pyro.distributions.testing.rejection_gamma import ShapeAugmentedGamma

    def program():
        pyro.sample("z", dist.Gamma(2.0, 1.0))

    def guide():
        pyro.sample("z", ShapeAugmentedGamma(torch.tensor(2.0), torch.tensor(1.0)))

    with pytest.raises(NotImplementedError, match=r"site 'z': the rejection sampler ShapeAugmentedGamma"):
        ParticleELBO("elbo", "stl").loss(program, guide)


def test_enumerated_sites():
    """Trap 4."""

    def program():
        pyro.sample("k", dist.Bernoulli(0.4))

    guide = pyro.infer.config_enumerate(program)
    with pytest.raises(NotImplementedError, match=r"site 'k': enumeration \('parallel'\).*TraceEnum_ELBO"):
        ParticleELBO("elbo", "total").loss(program, guide)


def _normalised(training):
    decoder = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).train(training)

    def program():
        pyro.module("decoder", decoder)
        with pyro.plate("data", 2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            loc = decoder(z.reshape(-1, 1)).reshape(z.shape)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=torch.zeros(2, 1))

    def guide():
        with pyro.plate("data", 2):
            loc = pyro.param("loc", torch.zeros(2, 1))
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    return program, guide


@pytest.mark.parametrize("validation", [True, False])
def test_batch_norm_over_particles(validation):
    """Trap 2: refused where every particle's gradient has its own factor; fine elsewhere."""
    pyro.enable_validation(validation)
    with pytest.raises(ValueError, match=r"batch norm in training mode.*module\.eval\(\)"):
        DREG.loss_and_grads(*_normalised(True))
    DREG.loss_and_grads(*_normalised(False))
    ParticleELBO("iwae", "total", num_particles=3).loss_and_grads(*_normalised(True))
    ParticleELBO("elbo", "stl", num_particles=3).loss_and_grads(*_normalised(True))
    ParticleELBO("iwae", "dreg", num_particles=1).loss_and_grads(*_normalised(True))


def test_batch_norm_of_the_data_is_fine():
    encoder = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def guide():
        pyro.module("encoder", encoder)
        with pyro.plate("data", 2):
            pyro.sample("z", dist.Normal(encoder(torch.tensor([[0.3], [1.0]])).squeeze(-1), 1.0))

    DREG.loss_and_grads(model, guide)
    assert encoder[0].weight.grad is not None


def test_point_masses_with_parameters():
    guide = AutoDelta(model)
    with pytest.raises(ValueError, match=r"site 'z': its Delta depends on.*gradient='total'"):
        DREG.loss_and_grads(model, guide)
    ParticleELBO("iwae", "total", num_particles=3).loss_and_grads(model, guide)
    assert all(p.grad is not None for p in guide.parameters())
    # An autoguide whose Jacobian factors hold parameters; the others' point masses follow their samples.
    with pytest.raises(ValueError, match=r"its Delta depends on"):
        DREG.loss_and_grads(model, AutoStructured(model, conditionals="normal", dependencies="linear"))
    DREG.loss_and_grads(model, AutoNormal(model))


def test_factors_of_a_guide_say_where_they_come_from():
    def guide(**options):
        normal()()
        pyro.factor("jacobian", pyro.param("loc").exp(), **options)

    with pytest.raises(ValueError, match=r"site 'jacobian'.*has_rsample=True"):
        DREG.loss(model, guide)
    with pytest.raises(ValueError, match=r"site 'jacobian': its Unit depends on"):
        DREG.loss_and_grads(model, lambda: guide(has_rsample=True))
    ParticleELBO("iwae", "total", num_particles=3).loss_and_grads(model, lambda: guide(has_rsample=True))


def test_a_combination_is_refused_at_construction():
    with pytest.raises(ValueError, match="did you mean 'dreg'"):
        ParticleELBO("iwae", "drag", num_particles=2)


def test_the_printed_object_says_what_it_promises():
    assert repr(DREG) == ("ParticleELBO('iwae', 'dreg', num_particles=3)  # " + DREG.promise.text)
    assert "lower bound" in repr(DREG)
