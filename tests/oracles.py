"""Golden numbers of the project: exact or published values, each with where it comes from."""

# --- Evidence of networks: the worked example of structure selection (one edge, three operations) ---
# Log evidences at unit prior variances and noise sd 0.5, order (constant, one feature, all features): closed
# form, quadrature, importance sampling with a Student-t around the mode (200 000 draws, s.e. 0.02).
WORKED_LOG_EVIDENCE = (-68.4149, -36.5510, -46.44)
# Mean-field ELBO, mean-field IWAE with 100 particles, full-covariance IWAE with 100 particles.
WORKED_ELBO = (-68.42, -36.63, -48.53)
WORKED_IWAE = (-68.42, -36.56, -46.87)
WORKED_FULL_IWAE = -46.58
# Tempered evidences log ∫ p(y|w)^β p(w) dw, by the power β; the last one of all features at β = 100 by the
# same importance sampler.
WORKED_TEMPERED = {0.01: (-1.207, -1.003, -1.36), 1.0: (-68.415, -36.551, -46.44)}
WORKED_TEMPERED_PROBABILITY = {
    0.01: (0.325, 0.398, 0.277),
    1.0: (1.5e-14, 0.99995, 5e-5),
    100.0: (0.0, 0.0, 1.0),
}
# X[0, 0], y[0], Σ y, Σ y².
WORKED_DATA_CHECKS = (0.7813478600, 0.6967745558, 0.4542416360, 27.2409497515)


def worked_example():
    """Inputs (50, 12) and response (50,) of the worked example, float64."""
    import numpy as np
    import torch

    random = np.random.RandomState(42)
    first = random.randn(50)
    first = (first - first.mean()) / first.std()
    others = [random.randn(50) for _ in range(10)]
    y = np.tanh(first) + 0.5 * random.randn(50)
    x = np.stack([first, *others, np.ones(50)], 1)
    return torch.tensor(x), torch.tensor(y)


# ---- Conjugate linear models: scikit-learn diabetes, features and response standardised (ddof 0)
# Residual variance RSS/(n − p − 1) of the full least-squares fit, rounded as the study states it.
DIABETES_NOISE_VARIANCE = 0.49456
# g-prior with g = n, uniform over the 1 024 models: age, sex, bmi, bp, s1 … s6.
DIABETES_INCLUSION_G_PRIOR = (0.0459, 0.9790, 1.0, 0.9999, 0.5696, 0.3789, 0.5684, 0.2029, 1.0, 0.0735)
# The other two settings from an independent loop over all subsets in numpy.
DIABETES_INCLUSION = {
    "g-prior, uniform": DIABETES_INCLUSION_G_PRIOR,
    "g-prior, beta-binomial": (0.0804, 0.9818, 1.0, 0.9999, 0.6291, 0.4319, 0.5402, 0.2479, 1.0, 0.1258),
    "N(0,1), uniform": (0.0356, 0.9751, 1.0, 0.9999, 0.6366, 0.4702, 0.5023, 0.2181, 1.0, 0.0635),
}
DIABETES_TOP_MODELS = [[1, 2, 3, 6, 8], [1, 2, 3, 4, 5, 8], [1, 2, 3, 4, 7, 8]]
DIABETES_TOP_LOG_BAYES_FACTOR = [140.9302, 140.6940, 140.0416]
DIABETES_TOP_PROBABILITY = [0.2810, 0.2219, 0.1156]
# N(0, 1) coefficients, known noise variance: log Z including the uniform prior over models.
DIABETES_LOG_Z_NORMAL = -492.36


# ---- Laws on the simplex: concentrations s = (3, 1, 0.5)
GUMBEL_WEIGHTS = (3.0, 1.0, 0.5)
# P(argmax) = s/Σs at every temperature.
GUMBEL_ARGMAX = (0.6667, 0.2222, 0.1111)
# lim τ² E‖γ - 1/K‖² = [(K-1)π²/6 + Σ(log s - mean log s)²]/K².
GUMBEL_SPREAD = 0.54694
# KL(GS(s, τ) ‖ GS((1,1,1), τ)) at any τ.
GUMBEL_KL = 0.566541
# E[γ^-2] at K = 3, τ = 3, uniform s, from γ^-τ ∝ exponentials and E V^a = Γ(1+a).
GUMBEL_INVERSE_SQUARE = 13.98421
# K = 2: (difference of log-odds, categorical KL, relaxed KL).
GUMBEL_KL_AGAINST_CATEGORICAL = ((2.0, 0.328, 0.626), (6.0, 0.676, 4.030))

# ---- Comparison of structures: delta-method standard errors of the probabilities (direct simulation of the
# evidences gives 0.0217, 0.0214, 0.0071).
COMPARISON_LOG_EVIDENCE = (-100.0, -101.0, -103.0)
COMPARISON_ERROR = (0.05, 0.1, 0.2)
COMPARISON_PROBABILITY_SE = (0.0216, 0.0214, 0.0069)

# ---- Diabetes with 64 predictors: test mean squared errors, mean over five splits of 342/100 rows.
WIDE_OLS_ERROR = 0.629
WIDE_LASSO_ERROR = 0.534


def wide_diabetes():
    """Ten main effects, 45 interactions, nine squares (not sex), standardised; (442, 64), (442,), names."""
    import numpy as np
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes()
    names = list(bunch.feature_names)

    def standardise(values):
        return (values - values.mean(0)) / values.std(0)

    x = standardise(bunch.data)
    pairs = [(i, j) for i in range(10) for j in range(i, 10) if i < j or names[i] != "sex"]
    wide = np.concatenate([x, np.stack([x[:, i] * x[:, j] for i, j in pairs], 1)], 1)
    labels = [f"{names[i]}*{names[j]}" if i < j else f"{names[i]}^2" for i, j in pairs]
    return standardise(wide), standardise(bunch.target), names + labels


# -- digits, black and white: nats of independent Bernoulli pixels on the 300 test images --
DIGITS_INDEPENDENT_NATS = 25.30

# -- particle objectives: exact expectations on two toys (tests/particle_toys.py) --
# Gaussian toy, by (objective, K, option): value, then gradient in theta, m, s. Gauss–Hermite quadrature.
PARTICLE_GAUSSIAN = {
    ("elbo", 1, None): (-2.3081619, (-0.3000000, 2.5222222, -1.5323202)),
    ("iwae", 2, None): (-1.584727, (0.055472, 1.179330, -0.219830)),
    ("iwae", 3, None): (-1.397122, (0.183482, 0.695735, -0.011773)),
    ("renyi", 2, 0.5): (-1.803530, (-0.025784, 1.486297, -0.409499)),
    ("renyi", 2, -1.0): (-1.40362, (0.1031, 0.9995, -0.1637)),
}
PARTICLE_GAUSSIAN_EVIDENCE = -1.1645926
# Discrete toy: value, then gradient in the likelihood vector t and in the guide's logits. Enumeration.
PARTICLE_DISCRETE = {
    ("elbo", 1, None): (-1.2328801, (0.4717762, 0.2119827, 0.3162411, -0.1350931, 0.2572728, -0.1221797)),
    ("iwae", 2, None): (-1.1418669, (0.4157095, 0.3200184, 0.2642721, -0.1128718, 0.2012911, -0.0884193)),
    ("iwae", 3, None): (-1.0975651, (0.3805386, 0.3818042, 0.2376572, -0.0906458, 0.1586128, -0.0679670)),
    ("renyi", 3, 0.5): (-1.1645188, (0.4244284, 0.3008137, 0.2747579, -0.1122883, 0.2057739, -0.0934856)),
}
PARTICLE_DISCRETE_EVIDENCE = -0.9839283

# ---- Pruning: |mean|/sd below which a relative density of 0.95 removes a weight.
PRUNED_RATIO = 0.3203

# ---- Implicit reparameterisation: share of torch's float32 Gamma draws stuck at the smallest normal number,
# x^a / Γ(a + 1) at x = 1.18e-38, a = 0.05.
GAMMA_FLOAT32_CONCENTRATION = 0.05
GAMMA_FLOAT32_STUCK = 0.0130

# ---- Defects of Pyro 1.9.2 in particle objectives, z ~ N(0, 1), x ~ N(z, .7), guide N(.3 x, 1), N = 20:
# log evidence, full-data IWAE with 8 particles, and what Pyro reports with 5 of 20 rows (Rényi at alpha = 0,
# tensor Monte Carlo); each as measured on one data set of 20 draws.
PYRO_SUBSAMPLED = {"evidence": -33.68, "iwae": -34.45, "renyi": -26.77, "tmc": -26.63}
# Tail-adaptive weights for log w = (3, 1, 2), beta = -1: those of the paper, and Pyro's.
TAIL_ADAPTIVE_WEIGHTS = (6 / 11, 2 / 11, 3 / 11)
PYRO_TAIL_ADAPTIVE_WEIGHTS = (3 / 11, 2 / 11, 6 / 11)
# sd of the total derivative in loc and log scale where the guide equals the prior N(1, 2): of ε/2 and ε² - 1.
PYRO_TOTAL_SD = (0.5, 2**0.5)
