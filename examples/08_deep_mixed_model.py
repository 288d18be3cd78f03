"""A neural network with a mixed-model head.

y = f(x) + b(group) + noise, with f unknown and groups whose effect goes with where on the x axis they lie, as when
hospitals with severe cases also differ otherwise. A network that ignores the groups learns f plus what x tells of the
group. With random intercepts at its head it learns f from comparisons within groups for the most part.

The features of the network are the columns of X. The loss is the REML criterion at the optimum of θ, a differentiable
function of X; without random effects the same criterion is that of a least-squares head.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax

import lmmjax as lj
from lmmjax.core import Design, RandomTerm, Template

GROUPS, SIZE = 60, 12
SIGMA, CONFOUNDING, SD_REST = 0.3, 1.2, 0.4
HIDDEN, FEATURES, STEPS, RATE = 16, 6, 500, 0.01


def truth(x):
    """The effect of x that both networks are to find."""
    return np.sin(2.5 * x) + 0.5 * x


def simulate(rng, confounding):
    """x (n,), y (n,) and the group of each row."""
    codes = np.repeat(np.arange(GROUPS), SIZE)
    centre = rng.normal(size=GROUPS)
    x = centre[codes] + 0.8 * rng.normal(size=len(codes))
    b = confounding * centre + SD_REST * rng.normal(size=GROUPS)
    return x, truth(x) + b[codes] + SIGMA * rng.normal(size=len(codes)), codes


def initial(key):
    """Weights and biases of two layers, R → R^HIDDEN → R^FEATURES."""
    keys = jax.random.split(key, 3)
    first = 2 * jax.random.normal(keys[0], (1, HIDDEN)), jax.random.normal(keys[1], HIDDEN)
    second = jax.random.normal(keys[2], (HIDDEN, FEATURES)) / HIDDEN**0.5, jnp.zeros(FEATURES)
    return first, second


def features(weights, x):
    """(n, 1 + FEATURES) the intercept and the network's outputs."""
    out = x[:, None]
    for w, bias in weights:
        out = jnp.tanh(out @ w + bias)
    return jnp.column_stack([jnp.ones(len(x)), out])


def head(X, y, terms, plan):
    """The REML fit of y on X with these random effects."""
    return lj.core.estimate(lj.core.cross_products(Design(X, y, terms), plan))


def loss(weights, x, y, terms, plan):
    """The REML criterion per row.

    X enters by an orthonormal basis of its columns: REML's log|XᵀV⁻¹X| depends on the units of X, and a network that
    may choose them would shrink its features without end.
    """
    basis, _ = jnp.linalg.qr(features(weights, x))
    return head(basis, y, terms, plan).criterion / len(y)


def train(weights, x, y, terms):
    """Adam over the network; the head is optimal at every step. Returns the weights, the fit and the losses."""
    plan, optimiser = lj.core.make_plan(terms), optax.adam(optax.cosine_decay_schedule(RATE, STEPS))

    def step(state, _):
        weights, memory = state
        value, gradient = jax.value_and_grad(loss)(weights, x, y, terms, plan)
        change, memory = optimiser.update(gradient, memory)
        return (optax.apply_updates(weights, change), memory), value

    @jax.jit
    def run(weights):
        (weights, _), losses = jax.lax.scan(step, (weights, optimiser.init(weights)), length=STEPS)
        return weights, head(features(weights, x), y, terms, plan), losses

    return run(weights)


def gradient_error(weights, x, y, terms) -> float:
    """Of the loss along a random direction, against a central difference of complete refits; relative."""
    plan, h = lj.core.make_plan(terms), 1e-5
    keys = iter(jax.random.split(jax.random.key(1), 4))
    direction = jax.tree.map(lambda w: jax.random.normal(next(keys), w.shape), weights)

    @jax.jit
    @jax.value_and_grad
    def along(t):
        return loss(jax.tree.map(lambda w, d: w + t * d, weights, direction), x, y, terms, plan)

    difference = (along(h)[0] - along(-h)[0]) / (2 * h)
    return float(abs(along(0.0)[1] / difference - 1))


def draw(x, y, grid, curves) -> Path:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.8), constrained_layout=True)
    axes.plot(x, y, ".", color="lightgrey", ms=3, label="training data")
    axes.plot(grid, truth(grid), "k--", label="truth")
    for name, curve in curves.items():
        axes.plot(grid, curve, label=name)
    axes.set(xlabel="x", ylabel="y")
    axes.legend()
    path = Path(__file__).parent / "figures" / "08_deep_mixed_model.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


rng = np.random.default_rng(11)
x, y, codes = simulate(rng, CONFOUNDING)
x_new, y_new, _ = simulate(rng, 0.0)  # new groups, whose effects have nothing to do with x
intercepts = RandomTerm(np.ones((len(y), 1)), codes, GROUPS, Template.full(1))
grid, curves, rmse = np.linspace(-2, 2, 200), {}, {}
with lj.float64():
    start = initial(jax.random.key(0))
    error = gradient_error(start, x, y, (intercepts,))
    for name, terms in (("network alone", ()), ("with random intercepts", (intercepts,))):
        weights, fit, losses = train(start, x, y, terms)
        curves[name] = np.asarray(features(weights, grid) @ fit.beta)
        predicted = np.asarray(features(weights, x_new) @ fit.beta)
        rmse[name] = [np.sqrt(np.mean((predicted - target) ** 2)) for target in (truth(x_new), y_new)]
        print(f"{name}: criterion per row {losses[0]:.4f} before, {losses[-1]:.4f} after {STEPS} steps")
        assert losses[-1] < losses[0]

sd_group = float(fit.sigma * fit.theta[0])
print(f"Slope of the criterion along a random direction against refits: relative error {error:.1e}\n")
print(f"{'RMSE on new groups':<26}against f(x)   against y")
for name, (of_truth, of_y) in rmse.items():
    print(f"{name:<26}{of_truth:<15.3f}{of_y:.3f}")
spread = np.hypot(CONFOUNDING, SD_REST)
print(f"\nWith random intercepts: sd of groups {sd_group:.2f} (simulated {spread:.2f}), ", end="")
print(f"residual sd {float(fit.sigma):.3f} ({SIGMA})")
print(draw(x, y, grid, curves))
alone, mixed = rmse.values()
assert error < 1e-6
assert mixed[0] < alone[0] / 3, "the mixed head finds f at least three times as well"
assert mixed[1] < alone[1]
assert abs(float(fit.sigma) / SIGMA - 1) < 0.1
print("Checks met")
