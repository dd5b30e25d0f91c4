"""Point estimates from scikit-learn as an inference, so that they stand beside a posterior in the table."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evidentia.studies.harness.errors import StudyError, did_you_mean

if TYPE_CHECKING:
    from evidentia.studies.harness.engine.outcome import Context, Outcome, Problem

METHODS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "least squares": ("LinearRegression", {}),
    "lasso, cross-validated": ("LassoCV", {"cv": 5, "random_state": 0, "max_iter": 100_000}),
    "lasso, BIC": ("LassoLarsIC", {"criterion": "bic"}),
    "ARD regression": ("ARDRegression", {}),
    "Bayesian ridge": ("BayesianRidge", {}),
}


def linear_baseline(problem: "Problem", params: Mapping[str, Any], context: "Context") -> "Outcome":
    """Fit one of scikit-learn's linear estimators, with its defaults, and keep its coefficients.

    Args:
        problem: the data; there is no model.
        params: ``method``, one of `METHODS`.
        context: not used; these fits are deterministic and take less than a second.

    Returns:
        One row with ``method`` and ``num_parameters`` (coefficients that are not zero), a table
        ``coefficients``, and ``extra["predict"]``, a function of a matrix of inputs.

    Raises:
        StudyError: there is no such method.

    References:
        Tibshirani, 1996. Regression shrinkage and selection via the lasso.
        MacKay, 1994. Bayesian nonlinear modeling for the prediction competition.
    """
    import pandas as pd
    import torch
    from sklearn import linear_model

    from evidentia.studies.harness.engine.outcome import Outcome

    method = params.get("method", "")
    if method not in METHODS:
        raise StudyError(f"inference.method: unknown method {method!r}. {did_you_mean(str(method), METHODS)}")
    name, settings = METHODS[method]
    estimator = getattr(linear_model, name)(**settings)
    estimator.fit(problem.data.x.numpy(), problem.data.y.numpy())
    coefficients = pd.DataFrame({"op": problem.data.names, "coefficient": estimator.coef_})

    def predict(x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(estimator.predict(x.numpy()))

    return Outcome(
        rows=[{"method": method, "num_parameters": int((estimator.coef_ != 0).sum())}],
        weights={"coef": torch.as_tensor(estimator.coef_)},
        tables={"coefficients": coefficients},
        extra={"predict": predict},
    )
