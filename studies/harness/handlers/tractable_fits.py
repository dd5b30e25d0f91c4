"""Models of exact evidence by family name: their maximum likelihood, and the same model in scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from evidentia.models.pair import Pair

__all__ = ["FAMILIES", "Family", "agglomerate", "free_parameters", "maximum_likelihood", "peer_log_density"]

Family: TypeAlias = Literal["ppca", "factors", "mixture", "diagonal_mixture"]
FAMILIES: Mapping[str, str] = {
    "ppca": "probabilistic PCA",
    "factors": "factor analysis",
    "mixture": "mixture, full covariances",
    "diagonal_mixture": "mixture, diagonal covariances",
}
EM_STEPS, EM_TOLERANCE = 2000, 1e-5


def standardised(train: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both in units of the training rows: their mean zero, their standard deviation (ddof 0) one."""
    mean, scale = train.mean(0), train.std(0, correction=0)
    return (train - mean) / scale, (other - mean) / scale


def maximum_likelihood(family: Family, x: Tensor, size: int, starts: int, floor: float) -> Any:
    """The fitted model; of a mixture the best of several runs of EM, from rows drawn with fixed seeds."""
    import torch

    from evidentia.models.tractable.factor_analysis import FactorAnalysis, factor_analysis_em
    from evidentia.models.tractable.gaussian_mixture import GaussianMixture
    from evidentia.models.tractable.mixture_em import gaussian_mixture_em, mixture_start
    from evidentia.models.tractable.ppca import ProbabilisticPCA, ppca_maximum_likelihood

    if family == "ppca":
        return ProbabilisticPCA(*ppca_maximum_likelihood(x, size))
    if family == "factors":
        found = factor_analysis_em(x, size, floor=floor, num_steps=EM_STEPS, tolerance=EM_TOLERANCE / 100)
        return FactorAnalysis(found.loc, found.factor, found.scale)
    fits = []
    with torch.random.fork_rng(devices=[]):
        for start in range(starts if size > 1 else 1):
            torch.manual_seed(start)
            begin = mixture_start(x, size, diagonal=family == "diagonal_mixture")
            fits.append(
                gaussian_mixture_em(x, begin, floor=floor, num_steps=EM_STEPS, tolerance=EM_TOLERANCE)
            )
    return GaussianMixture(*max(fits, key=lambda each: float(each.log_likelihood[-1])).parameters)


def free_parameters(family: Family, size: int, width: int) -> int:
    """Numbers that the likelihood identifies: a rotation of the latents and a swap of components are none."""
    if family in ("ppca", "factors"):
        noise = 1 if family == "ppca" else width
        return width + width * size - size * (size - 1) // 2 + noise
    scale = width * (width + 1) // 2 if family == "mixture" else width
    return size - 1 + size * (width + scale)


def peer_log_density(family: Family, x: Tensor, size: int, model: Any, floor: float) -> tuple[float, float]:
    """How scikit-learn's model compares on the rows it was fitted to, in nats for one row.

    Returns:
        The gap, largest distance of our log density from theirs at the same parameters; NaN where the fits
        are not comparable like that. The lead, our maximum less theirs. PCA divides by n - 1, which is not
        the maximum: at its covariance the densities agree, and the maximum leads. A mixture runs EM in both
        from the first of our starts; its gap is that of the two results, and its lead that of the best run.

    References:
        Pedregosa et al., 2011, Scikit-learn: machine learning in Python.
    """
    import warnings

    import numpy
    import torch
    from sklearn import decomposition, mixture

    from evidentia.models.tractable.mixture_em import component_log_prob, gaussian_mixture_em, mixture_start
    from evidentia.models.tractable.ppca import ProbabilisticPCA, ppca_maximum_likelihood

    rows = x.numpy()
    ours = float(model.log_evidence(x).mean().detach())
    if family == "ppca":
        peer: Any = decomposition.PCA(size).fit(rows)
        unbiased = (len(x) / (len(x) - 1)) ** 0.5
        loc, factor, scale = ppca_maximum_likelihood(x, size)
        same = ProbabilisticPCA(loc, factor * unbiased, scale * unbiased).log_evidence(x).detach()
        gap = float((same - torch.as_tensor(peer.score_samples(rows))).abs().max())
        return gap, ours - float(peer.score(rows))
    if family == "factors":
        peer = decomposition.FactorAnalysis(size, tol=1e-9, max_iter=EM_STEPS, svd_method="lapack")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where it did not converge, the lead shows it
            peer.fit(rows)
        return float("nan"), ours - float(peer.score(rows))
    diagonal = family == "diagonal_mixture"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start = mixture_start(x, size, diagonal=diagonal)
    found = gaussian_mixture_em(x, start, floor=floor, num_steps=EM_STEPS, tolerance=EM_TOLERANCE / 1000)
    precision = start.scale.square().reciprocal() if diagonal else torch.cholesky_inverse(start.scale)
    peer = mixture.GaussianMixture(
        size,
        covariance_type="diag" if diagonal else "full",
        reg_covar=floor,
        tol=EM_TOLERANCE / 1000,
        max_iter=EM_STEPS,
        init_params="random",  # overwritten by the three below
        weights_init=start.weights.numpy(),
        means_init=start.loc.numpy(),
        precisions_init=precision.numpy(),
        random_state=0,
    ).fit(rows)
    mine = component_log_prob(x, found.parameters).logsumexp(-1)
    gap = float(numpy.abs(mine.numpy() - peer.score_samples(rows)).max())
    return gap, ours - float(peer.score(rows))


def agglomerate(model: Any, x: Tensor, labels: Sequence[int]) -> tuple[float, pd.DataFrame]:
    """Adjusted Rand index of the most probable components with the labels, and the rows in two dimensions.

    The table has `first` and `second` (posterior means of probabilistic PCA with two latents), `label`, and
    `component_k`, the responsibilities.
    """
    import pandas as pd
    import torch
    from sklearn.metrics import adjusted_rand_score

    with torch.no_grad():
        probabilities = model.posterior(x).probs
        plane = maximum_likelihood("ppca", x, 2, 1, 0.0).posterior(x).mean
    table = pd.DataFrame({"first": plane[:, 0], "second": plane[:, 1], "label": list(labels)})
    for index in range(probabilities.shape[1]):
        table[f"component_{index}"] = probabilities[:, index].numpy()
    return float(adjusted_rand_score(list(labels), probabilities.argmax(-1).numpy())), table


def trainable_pair(family: Family, x: Tensor, size: int, guide: str, best: Any) -> Pair:
    """The model of a family away from its optimum, with a guide: "exact", "encoder" or "enumerated".

    Linear models start from small random factors; a mixture starts near the given optimum, for it has many.
    """
    import torch

    from evidentia.models.latent.encoder import Encoder
    from evidentia.models.pair import Pair
    from evidentia.models.tractable.exact_guide import exact_pair
    from evidentia.models.tractable.factor_analysis import FactorAnalysis
    from evidentia.models.tractable.gaussian_mixture import GaussianMixture
    from evidentia.models.tractable.ppca import ProbabilisticPCA

    width = x.shape[1]
    if "mixture" in family:
        loc = best.loc.detach() + 0.3 * torch.randn(size, width)
        scale = 1.3 * best.scale.detach()
        model: Any = GaussianMixture(x.new_full((size,), 1 / size), loc, scale)
    else:
        factor = 0.3 * torch.randn(width, size)
        model = (
            ProbabilisticPCA(x.new_zeros(width), factor, 1.0)
            if family == "ppca"
            else FactorAnalysis(x.new_zeros(width), factor, x.new_ones(width))
        )
    if guide == "exact":
        return exact_pair(model)
    if guide == "encoder":
        return Pair(model, Encoder(width, size, (), full_covariance=True))
    return Pair(model, _nothing)


def _nothing(*args: Any, **keywords: Any) -> None:
    """The guide of a model whose latents are summed out."""
