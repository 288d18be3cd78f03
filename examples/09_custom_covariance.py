"""Random effects with a covariance of one's own: between the columns of a term, and between the levels of a factor.

First, subjects at six visits, measured twice at each, as one measurement could not tell a visit's effect from the
residual. Each visit has its own random effect, and the effects of a subject are correlated by how far apart the visits
are. `covariance=` names the structure, or takes any JAX function from a few parameters to a factor T of the covariance
TTᵀ; here that of a Matérn-3/2 process.
Second, animals of a pedigree, one record each: `relmat=` is their kinship matrix, and the fit gives the heritability
and the breeding values.
"""

from pathlib import Path

import jax.numpy as jnp
import matplotlib
import numpy as np
import pandas as pd

import lmmjax as lj
from lmmjax.core import Template

MONTHS = np.array([0.0, 1.0, 2.0, 4.0, 7.0, 12.0])
SUBJECTS, SD_VISIT, RANGE, SIGMA = 60, 1.5, 3.0, 0.5
FOUNDERS, ANIMALS, HERITABILITY = 16, 200, 0.6


def matern(theta):
    """T of sd² (1 + d/r) exp(−d/r) at distances d between visits; θ = (sd/σ, log r)."""
    distance = abs(np.subtract.outer(MONTHS, MONTHS)) * jnp.exp(-theta[1])
    jitter = 1e-9 * jnp.eye(len(MONTHS))
    return theta[0] * jnp.linalg.cholesky((1 + distance) * jnp.exp(-distance) + jitter)


STRUCTURES = {
    "diagonal": "diagonal",
    "compound symmetry": "compound_symmetry",
    "AR(1) in visit number": "ar1",
    "exponential in months": Template.exponential(MONTHS),
    "Matérn-3/2 in months": Template(matern, (1.0, float(np.log(np.mean(np.diff(MONTHS)))))),
    "full": "full",
}


def visits(rng) -> pd.DataFrame:
    """Two measurements at each visit of each subject."""
    factor = SD_VISIT * np.asarray(matern(np.array([1.0, np.log(RANGE)])))
    subject, visit = (a.ravel() for a in np.mgrid[:SUBJECTS, : 2 * len(MONTHS)])
    visit = visit // 2
    b = rng.normal(size=(SUBJECTS, len(MONTHS))) @ factor.T
    y = 10 + 0.3 * MONTHS[visit] + b[subject, visit] + SIGMA * rng.normal(size=len(visit))
    labels = np.array([f"m{month:02.0f}" for month in MONTHS])
    return pd.DataFrame({"y": y, "month": MONTHS[visit], "visit": labels[visit], "subject": subject})


def normal_criterion(y, X, V) -> float:
    """−2 log-likelihood of y ~ N(Xβ̂, V)."""
    beta = np.linalg.solve(X.T @ np.linalg.solve(V, X), X.T @ np.linalg.solve(V, y))
    residual = y - X @ beta
    return np.linalg.slogdet(2 * np.pi * V)[1] + residual @ np.linalg.solve(V, residual)


def kinship(rng) -> np.ndarray:
    """A of founders and their descendants: each animal's row is the mean of its parents' (the tabular method)."""
    A = np.eye(ANIMALS)
    for i in range(FOUNDERS, ANIMALS):
        parents = rng.choice(np.arange(max(0, i - 60), i), 2, replace=False)
        A[i, :i] = A[:i, i] = A[parents, :i].mean(0)
        A[i, i] = 1 + A[parents[0], parents[1]] / 2
    return A


def structures(data):
    """A fit for each structure, and a table of them."""
    formula = "y ~ month + (0 + visit | subject)"
    fits = {k: lj.lmer(formula, data, reml=False, covariance={"subject": s}) for k, s in STRUCTURES.items()}
    rows = [(len(f.theta), f.deviance, f.aic) for f in fits.values()]
    table = pd.DataFrame(rows, list(fits), ["parameters", "deviance", "AIC"])
    return fits, table


def check_dense(fit) -> None:
    """The deviance against a multivariate normal density, with the covariance written by hand."""
    sd, r = fit.sigma * fit.theta[0], np.exp(fit.theta[1])
    distance = abs(np.subtract.outer(MONTHS, MONTHS)) / r
    W = fit.design.terms[0].x
    same = np.equal.outer(fit.design.terms[0].codes, fit.design.terms[0].codes)
    V = same * (W @ (sd**2 * (1 + distance) * np.exp(-distance)) @ W.T) + fit.sigma**2 * np.eye(fit.nobs)
    dense = normal_criterion(fit.design.y, fit.design.X, V)
    print(f"Matérn: sd {sd:.2f} ({SD_VISIT}), range {r:.2f} months ({RANGE}), residual sd {fit.sigma:.3f} ({SIGMA})")
    print(f"  deviance {fit.deviance:.6f}, multivariate normal {dense:.6f}\n")
    assert np.isclose(fit.deviance, dense, rtol=1e-8)


def draw(fits, truth, blups) -> Path:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    for name, fit in fits.items():
        factor = fit.sigma * fit.templates[0]
        covariance = factor @ factor.T
        correlation = covariance[0] / np.sqrt(covariance[0, 0] * np.diag(covariance))
        left.plot(MONTHS, correlation, "o-", ms=3, label=name)
    left.set(xlabel="months", ylabel="correlation with the first visit")
    left.legend(fontsize=7)
    right.plot(truth, blups, ".")
    right.axline((0, 0), slope=1, color="grey")
    right.set(xlabel="breeding value, simulated", ylabel="BLUP")
    path = Path(__file__).parent / "figures" / "09_custom_covariance.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


rng = np.random.default_rng(5)
fits, table = structures(visits(rng))
print(table.round({"deviance": 2, "AIC": 2}).to_string(), "\n")
check_dense(fits["Matérn-3/2 in months"])
assert table["AIC"].idxmin() == "Matérn-3/2 in months", "the structure that simulated the data"
assert table["deviance"].idxmin() == "full", "which contains all others"

# Animals: var(breeding value) = h², var(residual) = 1 − h².
A = kinship(rng)
names = np.array([f"a{i:03d}" for i in range(ANIMALS)])
value = np.linalg.cholesky(A) @ rng.normal(size=ANIMALS) * np.sqrt(HERITABILITY)
sex = rng.integers(0, 2, ANIMALS)
y = 5 + 0.5 * sex + value + np.sqrt(1 - HERITABILITY) * rng.normal(size=ANIMALS)
frame = pd.DataFrame({"y": y, "sex": sex, "animal": names})
fit = lj.lmer("y ~ sex + (1 | animal)", frame, relmat={"animal": pd.DataFrame(A, names, names)})
variance, residual = fit.varcorr["vcov"]
h2 = variance / (variance + residual)
print(fit, "\n")

X = np.column_stack([np.ones(ANIMALS), sex])
V = variance * A + residual * np.eye(ANIMALS)
weighted = np.linalg.solve(V, X)
beta = np.linalg.solve(X.T @ weighted, weighted.T @ y)
dense = variance * A @ np.linalg.solve(V, y - X @ beta)
blups = fit.ranef()["animal"].loc[names, "Intercept"].to_numpy()
criterion = normal_criterion(y, X, V) - len(beta) * np.log(2 * np.pi) + np.linalg.slogdet(X.T @ weighted)[1]
print(f"heritability {h2:.2f} (simulated {HERITABILITY})")
print(f"BLUPs against a dense computation: largest difference {np.max(abs(blups - dense)):.1e}")
print(f"REML criterion {fit.reml_criterion:.6f}, dense {criterion:.6f}")
print(f"correlation of BLUPs with the simulated breeding values: {np.corrcoef(blups, value)[0, 1]:.2f}")
print(draw(fits, value, blups))
np.testing.assert_allclose(blups, dense, atol=1e-8)
np.testing.assert_allclose(fit.fixef, beta, rtol=1e-8)
assert np.isclose(fit.reml_criterion, criterion, rtol=1e-9)
assert abs(h2 - HERITABILITY) < 0.2
assert np.corrcoef(blups, value)[0, 1] > np.corrcoef(y - X @ beta, value)[0, 1], "relatives inform"
print("Checks met")
