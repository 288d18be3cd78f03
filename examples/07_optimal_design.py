"""When to see a patient: observation times found by gradient descent through a mixed model.

Each patient is seen eight times within two years. The outcome declines along a straight line, beside a placebo response
that fades as exp(-rate t) and hides part of the decline. Patients differ in intercept and slope, drift around their
line (an Ornstein-Uhlenbeck process), and are measured with error. All variances are known from an earlier trial. The
times enter the fixed effects, the random slopes and the covariance of the drift; Var(slope) is a differentiable
function of them, and Adam moves them until it is smallest. There are several minima, hence several starts.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from scipy.special import logit

import lmmjax as lj
from lmmjax.core import Design, RandomTerm, Template

VISITS, WINDOW, RATE = 8, 24.0, 0.5  # visits per patient; months; per month
SIGMA, SD_PATIENT, CORR, SD_DRIFT, MEMORY = 1.0, np.array([2.0, 0.04]), -0.3, 0.8, 3.0
TARGET = 0.02  # standard error of the slope that the trial needs, per month
STARTS, STEPS = 8, 400

PATIENT = np.linalg.cholesky(np.array([[1, CORR], [CORR, 1]]) * np.outer(SD_PATIENT, SD_PATIENT)) / SIGMA
THETA = np.array([PATIENT[0, 0], PATIENT[1, 0], PATIENT[1, 1], SD_DRIFT / SIGMA])


def design_of(times) -> Design:
    """One patient, seen at `times`. The visits are the levels of the drift, correlated by how near they are."""
    ones = jnp.ones_like(times)
    apart = abs(times[:, None] - times)
    drift = jnp.linalg.cholesky(jnp.exp(-apart / MEMORY) + 1e-8 * jnp.eye(VISITS))
    X = jnp.stack([ones, times, jnp.exp(-RATE * times)], 1)
    terms = (
        RandomTerm(jnp.stack([ones, times], 1), np.zeros(VISITS, int), 1, Template.full(2)),
        RandomTerm(ones[:, None], np.arange(VISITS), VISITS, Template.full(1), level_factor=drift),
    )
    return Design(X, jnp.cos(1.0 + jnp.arange(VISITS)), terms)  # Var(slope) does not depend on the responses


PLAN = lj.core.make_plan(design_of(np.linspace(0.0, WINDOW, VISITS)).terms)


def slope_variance(times):
    """Var(slope) from one patient; with N patients it is this over N."""
    profiled = lj.core.profile(THETA, lj.core.cross_products(design_of(times), PLAN))
    return SIGMA**2 * profiled.unscaled_vcov[1, 1]


def times_of(free):
    """Any real numbers, one per visit, as times within the window."""
    return WINDOW * jax.nn.sigmoid(free)


def descend(free):
    """Adam on log Var(slope): the path of values and the times at its end."""
    optimiser = optax.adam(optax.cosine_decay_schedule(0.1, STEPS))

    def step(state, _):
        free, memory = state
        value, gradient = jax.value_and_grad(lambda f: jnp.log(slope_variance(times_of(f))))(free)
        change, memory = optimiser.update(gradient, memory)
        return (optax.apply_updates(free, change), memory), jnp.exp(value)

    (free, _), path = jax.lax.scan(step, (free, optimiser.init(free)), length=STEPS)
    return path, jnp.sort(times_of(free))


def dense_variance(times) -> float:
    """The same from V written out."""
    X = np.column_stack([np.ones(VISITS), times, np.exp(-RATE * times)])
    Z = X[:, :2] @ PATIENT * SIGMA
    V = Z @ Z.T + SD_DRIFT**2 * np.exp(-abs(np.subtract.outer(times, times)) / MEMORY) + SIGMA**2 * np.eye(VISITS)
    return np.linalg.inv(X.T @ np.linalg.solve(V, X))[1, 1]


def differences(function, at, h=1e-4) -> np.ndarray:
    """Central differences."""
    return np.array([(function(at + h * e) - function(at - h * e)) / (2 * h) for e in np.eye(len(at))])


def draw(times, best, paths) -> Path:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), constrained_layout=True)
    grid = np.linspace(0, WINDOW, 200)
    left.plot(grid, np.exp(-RATE * grid), color="grey", label="placebo response")
    left.plot(times, 0 * times - 0.15, "o", label="equally spaced")
    left.plot(best, 0 * best - 0.3, "s", label="optimised")
    left.set(xlabel="months", yticks=[])
    left.legend()
    right.plot(np.sqrt(paths.T), color="C1", alpha=0.5)
    right.axhline(np.sqrt(dense_variance(times)), color="C0")
    right.set(xlabel="step of Adam", ylabel="s.e.(slope), one patient", yscale="log")
    path = Path(__file__).parent / "figures" / "07_optimal_design.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


equal = np.linspace(0.0, WINDOW, VISITS)
with lj.float64():
    value, gradient = map(np.asarray, jax.jit(jax.value_and_grad(slope_variance))(equal))
    start = np.random.default_rng(7).normal(0, 1.5, (STARTS, VISITS))
    start[0] = logit(np.linspace(0.02, 0.98, VISITS))
    paths, ends = map(np.asarray, jax.jit(jax.vmap(descend))(start))

error = np.max(abs(gradient - differences(dense_variance, equal))) / np.max(abs(gradient))
print(f"Var(slope) at equally spaced times: {value:.6f}, from V written out {dense_variance(equal):.6f}")
print(
    f"Gradient in the eight times against finite differences of the latter: largest error {error:.1e} of the largest\n"
)
assert np.isclose(value, dense_variance(equal), rtol=1e-6)
assert error < 1e-6

variances = np.array([dense_variance(t) for t in ends])
best = ends[np.argmin(variances)]
print(f"{'design':<16}{'months':<52}{'s.e., one patient':<19}patients for s.e. {TARGET}")
for name, times in (("equally spaced", equal), ("optimised", best)):
    variance = dense_variance(times)
    months = " ".join(f"{t:5.1f}" for t in times)
    print(f"{name:<16}{months:<52}{np.sqrt(variance):<19.4f}{int(np.ceil(variance / TARGET**2))}")
efficiency = variances.min() / dense_variance(equal)
print(f"\nEfficiency of equally spaced visits: {efficiency:.3f}")
print(f"The {STARTS} starts end within {variances.max() / variances.min() - 1:.1e} of the best variance")
inside = (best > 0.05) & (best < WINDOW - 0.05)
slopes = differences(dense_variance, best) / variances.min()
print(f"Largest slope of log Var(slope) in a time inside the window: {np.max(abs(slopes[inside])):.1e} per month")
print(draw(equal, best, paths))
assert efficiency < 0.85, "the optimum is worth more than a sixth of the patients"
assert inside.sum() >= 3, "not only end points"
assert np.max(abs(slopes[inside])) < 1e-3, "descent has arrived"
assert paths[0][-1] < paths[0][0], "from equally spaced times, descent improves"
print("Checks met")
