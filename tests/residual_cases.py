"""Small designs of every residual structure, and their covariance matrices written out, for the tests of residual.py.

Series of unequal lengths with gaps in time; rows in no order; prior weights and an offset throughout.
"""

from dataclasses import replace

import numpy as np
from core_cases import dense_factor

from lmmjax.core import Design, RandomTerm, Template
from lmmjax.core.correlation import Autoregressive, ContinuousAutoregressive, Exchangeable, Toeplitz, Unstructured
from lmmjax.core.residual import Identified, Power, Residual

# Occasions of each group: an autoregression sees the gaps.
SERIES = ([0, 1, 2, 3], [0, 2, 3], [1, 3], [2], [0, 1, 3], [0, 1, 2, 3], [3, 0])
GROUP = np.repeat(np.arange(len(SERIES)), list(map(len, SERIES)))
TIME = np.concatenate(SERIES).astype(np.int32)
N, T = len(GROUP), 4
CORRELATIONS = {
    "ar1": (Autoregressive(), 1),
    "car1": (ContinuousAutoregressive(), 1),
    "cs": (Exchangeable(T), 1),
    "un": (Unstructured(T), 6),
    "toeplitz": (Toeplitz(T, T - 1), 3),
    "bands": (Toeplitz(T, 1), 1),
}
NAMES = ("ar1", "car1", "cs", "un ident", "toeplitz", "bands", "car1 power", "cs ident power")


def build(name: str, seed: int, terms: str = "group") -> Design:
    """terms : "" for none, "group" for an intercept and a slope of the series, "crossed" for an effect that crosses
    them as well, "related" for one of series that are correlated."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(N)
    group, time = GROUP[order], TIME[order]
    level = np.where(np.arange(N) % 3, np.arange(N) % 2, 2)
    variances = {"ident": (Identified(3), level), "power": (Power(), np.log(rng.uniform(0.5, 3, N)))}
    words = name.split()
    correlation = CORRELATIONS[words[0]][0] if words[0] in CORRELATIONS else None
    times = time / 3 if words[0] == "car1" else time
    residual = Residual.of(N, correlation, group, times, [variances[w] for w in words if w in variances])
    X = np.column_stack([np.ones(N), rng.normal(size=N)])
    own = RandomTerm(np.column_stack([np.ones(N), rng.normal(size=N)]), group, len(SERIES), Template.full(2))
    other = RandomTerm(np.ones((N, 1)), rng.permutation(np.arange(N) % 3), 3, Template.full(1))
    root = np.linalg.cholesky(0.5 + 0.5 * np.eye(len(SERIES)))
    related = RandomTerm(np.ones((N, 1)), group, len(SERIES), Template.full(1), root)
    kept = {"": (), "group": (own,), "crossed": (own, other), "related": (other, related)}[terms]
    y = 3 + X @ rng.normal(size=2) + rng.normal(size=N)
    return Design(X, y, kept, rng.uniform(0.5, 2, N), rng.normal(size=N), residual)


def random_parameters(design: Design, seed: int) -> np.ndarray:
    """(m + k,) θ and φ; correlations are moderate."""
    rng = np.random.default_rng(seed + 1)
    assert design.residual is not None
    phi = design.residual.start + 0.15 * rng.normal(size=design.n_phi)  # so near that Toeplitz makes a covariance
    return np.append(rng.normal(size=design.n_theta), phi)


def correlation_matrix(name: str, phi: np.ndarray) -> np.ndarray:
    """(T, T) of all occasions."""
    lags = abs(np.subtract.outer(np.arange(T), np.arange(T)))
    if name == "ar1":
        return np.tanh(phi[0]) ** lags
    if name == "car1":
        return np.exp(-np.exp(-phi[0])) ** (lags / 3)
    if name == "cs":
        rho = (T / (1 + np.exp(-phi[0])) - 1) / (T - 1)
        return np.where(lags == 0, 1, rho)
    if name in ("toeplitz", "bands"):
        return np.array([1, *np.tanh(phi), 0, 0, 0])[lags]
    rows = np.eye(T)
    rows[np.tril_indices(T, -1)] = phi
    rows = rows / np.linalg.norm(rows, axis=1)[:, None]
    return rows @ rows.T


def dense_residual(name: str, design: Design, phi: np.ndarray) -> np.ndarray:
    """(n, n) W^-½ R W^-½, from the structure's definition."""
    r, at, words = design.residual, 0, name.split()
    back = np.argsort(r.rows[r.real] if r.real is not None else r.rows)
    group, time = ((a if r.real is None else a[r.real])[back] for a in (r.group, r.time))
    out, sd = np.eye(N), 1 / np.sqrt(design.weights)
    if words[0] in CORRELATIONS:
        at = CORRELATIONS[words[0]][1]
        place = np.round(time * 3).astype(int) if words[0] == "car1" else time
        whole = correlation_matrix(words[0], phi[:at])
        out = np.where(group[:, None] == group, whole[place[:, None], place], 0)
    values = [(a if r.real is None else a[r.real])[back] for a in r.at]
    for word, value in zip([w for w in words if w in ("ident", "power")], values, strict=True):
        if word == "ident":
            sd = sd * np.exp(np.append(0, phi[at : at + 2]))[value]
            at += 2
        else:
            sd = sd * np.exp(value * phi[at])
            at += 1
    assert at == len(phi)
    return out * sd * sd[:, None]


def dense_covariance(name: str, design: Design, x: np.ndarray) -> np.ndarray:
    """(n, n) Var(y)/σ² at x = (θ, φ)."""
    m = design.n_theta
    bare = replace(design, residual=None)
    factor = dense_factor(bare, x[:m]) if m else np.zeros((N, 0))
    return dense_residual(name, design, x[m:]) + factor @ factor.T
