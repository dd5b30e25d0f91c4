"""The error of a badly declared family."""


class FamilyError(ValueError):
    """A family, a prior or a structure is declared wrongly; the message names the culprit and the fix.

    References:
        Bakhteev, 2020. Bayesian selection of a suboptimal structure of a deep learning model.
    """
