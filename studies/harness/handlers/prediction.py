"""How well a point predicts the rows that were held out."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evidentia.studies.harness.engine.outcome import Outcome, Problem


def held_out_error(outcome: "Outcome", problem: "Problem") -> dict[str, Any]:
    """Mean squared error on the test rows, in squared units of the response: ``test_mse``, ``test_mse_se``.

    A posterior over linear structures predicts by its average over structures; a baseline by its own fit.
    The standard error is that of the mean over the test rows. Nothing is returned where no rows were held
    out.

    References:
        Hoeting, Madigan, Raftery and Volinsky, 1999. Bayesian model averaging: a tutorial.
    """
    data = problem.data
    if data.test_x is None:
        return {}
    method = {}
    if "predict" in outcome.extra:
        mean = outcome.extra["predict"](data.test_x)
    else:
        from evidentia.inference.structure.linear import predict

        mean = predict(outcome.extra["posterior"], data.test_x).mean
        method = {"method": "model averaging"}
    error = (mean - data.test_y).square()
    return {**method, "test_mse": float(error.mean()), "test_mse_se": float(error.std() / len(error) ** 0.5)}
