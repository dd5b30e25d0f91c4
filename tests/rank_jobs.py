"""Programs of two processes for the tests of data-parallel training; torchrun starts them.

python -m torch.distributed.run --standalone --nproc-per-node 2 tests/rank_jobs.py JOB FOLDER
"""

import os
import signal
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch.nn.parallel import DistributedDataParallel

from evidentia.inference.fit import FitError, fit
from evidentia.inference.objectives.particle import ParticleELBO
from evidentia.inference.training.distributed import join
from evidentia.models.latent.vae import vae_pair
from evidentia.models.pair import Pair
from evidentia.models.tractable.exact_guide import exact_pair
from evidentia.models.tractable.ppca import ProbabilisticPCA, ppca_maximum_likelihood

N, WIDTH, LATENT = 40, 6, 2


def rows(dtype=torch.float32):
    """Data of two factors, centred off zero."""
    draw = torch.Generator().manual_seed(3)
    z, noise = torch.randn(N, LATENT, generator=draw), torch.randn(N, WIDTH, generator=draw)
    factor = torch.linspace(-1.5, 1.5, WIDTH * LATENT).sin().reshape(LATENT, WIDTH)
    return (z @ factor + 0.5 * noise + 1.0).to(dtype)


class Noise(Messenger):
    """Give the guide's z this noise, so that a half batch can draw what the whole batch draws."""

    def __init__(self, eps):
        super().__init__()
        self.eps = eps

    def _pyro_sample(self, msg):
        if msg["name"] == "z" and msg["value"] is None:
            law = msg["fn"]
            if hasattr(law, "scale_tril"):
                msg["value"] = law.loc + (law.scale_tril @ self.eps[..., None]).squeeze(-1)
            else:
                msg["value"] = law.base_dist.loc + law.base_dist.scale * self.eps


class FixedGuide(PyroModule):
    """A guide with given noise; with `model_guide` a guide that has no parameters of its own."""

    def __init__(self, guide):
        super().__init__()
        if isinstance(guide, torch.nn.Module):
            self.inner = guide
        else:
            self.plain = (guide,)

    def forward(self, x, eps, **kwargs):
        with Noise(eps):
            return self.inner(x, **kwargs) if hasattr(self, "inner") else self.plain[0](x, **kwargs)


class Ignoring(PyroModule):
    """A model that leaves the noise aside."""

    def __init__(self, model):
        super().__init__()
        self.inner = model

    def forward(self, x, eps, **kwargs):
        return self.inner(x, **kwargs)


def ppca(dtype=torch.float32):
    factor = torch.linspace(-1.0, 1.2, WIDTH * LATENT, dtype=dtype).cos().reshape(WIDTH, LATENT)
    return exact_pair(ProbabilisticPCA(torch.zeros(WIDTH, dtype=dtype), factor, 0.8))


def vae(dtype=torch.float32):
    torch.manual_seed(7)
    model, guide = vae_pair(LATENT, WIDTH, [8])
    return Pair(model.to(dtype), guide.to(dtype))


def binary():
    return (rows() > 1.0).float()


def half_gradients(pair, x, ranks):
    """The gradient that DDP makes of two half batches, and that of the whole batch, both as one vector."""
    eps = torch.randn(N, LATENT, generator=torch.Generator().manual_seed(5))
    programs = (Ignoring(pair.model), FixedGuide(pair.guide))
    module = ParticleELBO("elbo", "total")(*programs)
    mine = ranks.shard(N)
    module(x[mine], eps[mine], size=N)
    wrapped = DistributedDataParallel(module)
    wrapped(x[mine], eps[mine], size=N).backward()
    parallel = torch.cat([p.grad.reshape(-1) for p in module.parameters()])
    module.zero_grad()
    module(x, eps, size=N).backward()
    return {"parallel": parallel, "single": torch.cat([p.grad.reshape(-1) for p in module.parameters()])}


def ddp(ranks):
    """O27 and O28: torch's own wrapper around our objectives."""
    found = {}
    with pyro.settings.context(module_local_params=True):
        found["ppca"] = half_gradients(ppca(), rows(), ranks)
        found["vae"] = half_gradients(vae(), binary(), ranks)
        x, mine = rows(), ranks.shard(N)
        for name, pair, data in (("ppca", ppca(), x), ("vae", vae(), binary())):
            module = ParticleELBO("elbo", "total")(*pair)
            torch.manual_seed(100 + ranks.rank)
            module(data[mine], size=N)
            wrapped = DistributedDataParallel(module)
            optimizer = torch.optim.Adam(wrapped.parameters(), lr=0.03)
            losses = []
            for _ in range(300):
                optimizer.zero_grad()
                loss = wrapped(data[mine], size=N)
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
            found[f"{name}_trained"] = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
            found[f"{name}_losses"] = torch.tensor(losses)
            if name == "ppca":
                with torch.no_grad():
                    best = ProbabilisticPCA(*ppca_maximum_likelihood(x, LATENT))
                    found["evidence"] = float(pair.model.log_evidence(x).sum())
                    found["best"] = float(best.log_evidence(x).sum())
    return found


# -- fit(data_parallel=True) --

PRIOR, SD = 1.0, 0.7


def covariates():
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(N, 2, generator=draw, dtype=torch.float64)
    y = x @ torch.tensor([1.0, -2.0]).double() + SD * torch.randn(N, generator=draw, dtype=torch.float64)
    return x, y


def regression(x, y, size=N):
    b = pyro.sample("b", dist.Normal(x.new_zeros(2), PRIOR).to_event(1))
    with pyro.plate("data", size, subsample=torch.arange(len(x))):
        pyro.sample("obs", dist.Normal((b.unsqueeze(-2) * x).sum(-1), SD), obs=y)


def fixed_regression():
    """Noise that all ranks share, so that the gradient is that of one process."""
    loc = torch.tensor([0.3, -0.4], dtype=torch.float64)

    def guide(x, y, size=N):
        mean = pyro.param("loc", loc.clone())
        eps = torch.tensor([0.5, -1.5], dtype=torch.float64)
        pyro.sample("b", dist.Delta(mean + eps, event_dim=1))

    return regression, guide


def sgd(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr)


class Local(PyroModule):
    """A model with one latent for each row."""

    def forward(self, x, y, size=N):
        with pyro.plate("data", size, subsample=torch.arange(len(x))):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("obs", dist.Normal(z, 1.0), obs=y)


class Normed(PyroModule):
    """A network with buffers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
        self.double()

    def forward(self, x, y, size=N):
        with pyro.plate("data", size, subsample=torch.arange(len(x))):
            pyro.sample("obs", dist.Normal(self.net(x).squeeze(-1), 1.0), obs=y)


def nothing(x, y, size=N):
    """No latents."""


def auto():
    pyro.set_rng_seed(0)
    return regression, AutoNormal(regression)


def refusal(**changes):
    """The message that a fit with these changes refuses with."""
    given = {"pair": auto(), "args": changes.pop("args"), "num_steps": 2, "seed": 0} | changes
    try:
        fit(given.pop("pair"), *given.pop("args"), data_parallel=True, **given)
    except ValueError as error:
        return str(error)
    return "accepted"


def poisoned(ranks, xy, at, **options):
    """A fit whose data are spoiled on rank 1 at one step (call 0 and call 1 create and take step 0)."""
    calls = iter(range(1000))

    def batches():
        bad = next(calls) == at + 1 and ranks.rank == 1
        return xy[0], xy[1] * (torch.nan if bad else 1.0)

    with pyro.validation_enabled(False):
        return fit(auto(), batches=batches, seed=0, data_parallel=True, validate=False, **options)


def fits(ranks):
    """O29, resume, failures, decisions and refusals."""
    x, y = covariates()
    mine = ranks.shard(N)
    xy = (x[mine], y[mine])
    found = {}
    for name, part in (("equal", mine), ("unequal", [slice(0, 10), slice(10, N)][ranks.rank])):
        step = fit(
            fixed_regression(), x[part], y[part], num_steps=1, learning_rate=1.0, optimizer=sgd, seed=0,
            data_parallel=True,
        )  # fmt: skip
        found[f"step_{name}"] = step.params["loc"]
        found[f"loss_{name}"] = step.losses

    def falling(step):
        return 0.99 ** (step / 2)

    options = {"learning_rate": 0.05, "schedule": falling, "seed": 0, "data_parallel": True}
    found["auto"] = dict(fit(auto(), *xy, num_steps=1000, **options).params)
    saved = []

    class Keep:
        def on_checkpoint(self, state):
            saved.append(state)

    whole = fit(auto(), *xy, num_steps=40, checkpoint_every=20, callbacks=[Keep()], **options)
    found["checkpoints"] = len(saved)
    half = fit(auto(), *xy, num_steps=20, **options)
    found["whole"] = whole.state
    found["resumed"] = fit(auto(), *xy, num_steps=40, state=half.state, **options).state
    forgotten = {k: half.state["rng/torch"] if k == "rng/torch/1" else v for k, v in half.state.items()}
    found["forgotten"] = fit(auto(), *xy, num_steps=40, state=forgotten, **options).state
    found["aten"] = fit(
        auto(), *xy, num_steps=40, objective=ParticleELBO("elbo", "total"), compile="aten", **options
    ).state
    found["eager"] = fit(auto(), *xy, num_steps=40, objective=ParticleELBO("elbo", "total"), **options).state

    skipped = poisoned(ranks, xy, 3, num_steps=6, nan="skip")
    found["skipped"] = {"count": skipped.skipped, "state": skipped.state}
    try:
        poisoned(ranks, xy, 3, num_steps=6)
    except FitError as error:
        found["error"] = {"step": error.step, "text": str(error)}

    def stop(step):
        return "enough" if ranks.rank == 1 and step.step == 7 else None

    called = fit(auto(), *xy, num_steps=20, callbacks=[stop] if ranks.rank else [], **options)
    found["stopped"] = {"reason": called.stopped, "steps": len(called.losses)}
    found["late"] = fit(auto(), *xy, num_steps=100, max_seconds=1e-9, **options).stopped
    found["buffers"] = fit((Normed(), nothing), *xy, num_steps=5, **options).state
    shared = evaluated(ranks, x, y, xy, options)
    found["evaluations"] = shared
    found["refusals"] = {
        "local": refusal(pair=(Local(), AutoNormal(Local())), args=xy),
        "whole": refusal(args=(x, y)),
        "size": refusal(args=xy, size=len(xy[0])),
        "steps": refusal(args=xy, num_steps=2 + ranks.rank),
        "blocks": refusal(args=xy, steps_per_call=2, compile="aten"),
        "restarts": refusal(args=xy, restarts=2),
        "seed": refusal(args=xy, seed=None),
        "state": refusal(args=xy, state={k: v for k, v in half.state.items() if k != "rng/torch/1"}),
    }
    return found


def evaluated(ranks, x, y, xy, options):
    """Held-out data that differ between the ranks: they act on one number."""
    held_out = (x[ranks.shard(N)], y[ranks.shard(N)])
    return fit(
        auto(), *xy, num_steps=20, evaluation_args=held_out, evaluate_every=5, patience=2, **options
    ).evaluations


def crash(ranks, folder):
    """O32: 200 steps with a checkpoint at 100; KILL_AT kills rank 1."""
    from evidentia.studies.harness.storage.checkpoint import FolderCheckpoints

    store = FolderCheckpoints(folder / "ckpt", settings="crash")
    state = store.load()
    if ranks.rank == 0:
        (folder / "started").write_text("0" if state is None else str(state["step"]))

    class Save:
        def on_checkpoint(self, state):
            store.save(state)

        def on_step(self, step):
            if ranks.rank == 1 and step.step == int(os.environ.get("KILL_AT", "-1")):
                (folder / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)

    x, y = covariates()
    mine = ranks.shard(N)
    return fit(
        auto(), x[mine], y[mine], num_steps=200, learning_rate=0.05, seed=0, data_parallel=True,
        checkpoint_every=100, callbacks=[Save()], state=state,
    ).state  # fmt: skip


def main(job, folder):
    torch.set_num_threads(1)
    with join() as ranks:
        found = {"ddp": ddp, "fits": fits}[job](ranks) if job != "crash" else crash(ranks, folder)
        torch.save(found, folder / f"{job}-{ranks.rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
