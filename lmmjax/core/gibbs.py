"""Gibbs sampling of (β, b, Σᵢ, σ²) from cross-products: one `lax.scan` over sweeps, whose cost does not depend on n.

A sweep draws the covariances Σᵢ of the terms and the residual variance σ² given the effects, then the effects given
those: `joint`, β and b at once through the factorisation of the fit, or `one_way`, μ and then the aᵢ one by one. What
random numbers it takes have laws that do not depend on the state; they are drawn in one block before the scan.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .blocks import back_substitute, eliminate, template_blocks
from .compile import in_one_kernel
from .criterion import by_term
from .crossprod import CrossProducts
from .linalg import SMALL, UNROLL, cholesky, matmul, small_inverse_factor, solve_lower, solve_upper
from .plan import Plan

RETRIED, FEWEST = 16, 64  # share of a block's gammas, and how many at least, that one round tries again
FEW = 256  # effects: XLA makes library calls of longer sums


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class InverseWishart:
    """Σ (P, P) with density ∝ |Σ|^−(df + P + 1)/2 exp(−½ tr(scale Σ⁻¹)). df : a scalar above P − 1. scale : (P, P).

    With P = 1 it is the inverse-gamma law of shape df/2 and scale ½ scale.
    """

    df: Any
    scale: Any
    n_mixing = 0

    def given(self, mixing) -> "InverseWishart":
        """The law of Σ given the mixing variables."""
        return self

    def shapes(self, count, p: int):
        """The gammas' shapes in a posterior from `count` effects of p columns."""
        return (self.df + count - jnp.arange(p)[::-1]) / 2

    def mixing(self, root, gammas):
        """New mixing variables given Σ = root rootᵀ."""
        return gammas

    def expected(self, covariance):
        """Mixing variables that go with a covariance."""
        return jnp.zeros(0, covariance.dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HalfT:
    """Σ (P, P) whose standard deviations are half-t(df) of scales A (P,); with df = 2 each correlation is uniform.

    Σ | a ~ inverse-Wishart(df + P − 1, 2 df diag(1/a)) and a_k ~ inverse-gamma(½, 1/A_k²), the mixing variables
    (Huang & Wand 2013, Bayesian Anal. 8(2), eq. 2).
    """

    df: Any
    scale: Any

    @property
    def n_mixing(self) -> int:
        """P."""
        return len(self.scale)

    def given(self, mixing) -> InverseWishart:
        """The law of Σ given the mixing variables (P,)."""
        return InverseWishart(self.df + self.n_mixing - 1, jnp.diag(2 * self.df / mixing))

    def shapes(self, count, p: int):
        """The gammas' shapes in a posterior from `count` effects of p columns, Σ's and then the mixing variables'."""
        of_mixing = jnp.full(p, (self.df + p) / 2)
        return jnp.append(InverseWishart(self.df + p - 1, None).shapes(count, p), of_mixing)

    def mixing(self, root, gammas):
        """(P,) a given Σ = root rootᵀ: inverse-gamma((df + P)/2, df (Σ⁻¹)_kk + 1/A_k²)."""
        inverse = solve_lower(root, jnp.eye(self.n_mixing, dtype=root.dtype))
        return (self.df * jnp.sum(inverse**2, 0) + self.scale**-2) / gammas

    def expected(self, covariance):
        """Mixing variables that go with a covariance."""
        return self.mixing(cholesky(covariance), (self.df + self.n_mixing) / 2)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Priors:
    """mean, sd : (p,) of the independent normal laws of β; sd may be infinite. residual : the law of σ², with P = 1.

    covariances : one law for each block of `blocks_of(plan)`.
    """

    mean: Any
    sd: Any
    residual: InverseWishart | HalfT
    covariances: tuple[InverseWishart | HalfT, ...]

    @property
    def laws(self) -> tuple[InverseWishart | HalfT, ...]:
        """Of σ² and of the blocks."""
        return (self.residual, *self.covariances)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Where a chain is. beta : (p,). b : per term (ℓ, pᵢ). covariances : per term Σᵢ (pᵢ, pᵢ). sigma : √σ².

    rss : ‖W^½(y − Xβ − Zb)‖². moments : per block the sum of bbᵀ over levels (before correlations between levels are
    put in), (P, P). mixing : for each of `Priors.laws` the a of `HalfT`, (P,), or (0,).
    """

    beta: Any
    b: tuple[Any, ...]
    covariances: tuple[Any, ...]
    sigma: Any
    rss: Any
    moments: tuple[Any, ...]
    mixing: tuple[Any, ...]


def blocks_of(plan: Plan) -> list[tuple[int, slice]]:
    """(term, its columns) for each covariance matrix with a law of its own: whole terms, or one column at a time.

    Raises ValueError where a term's template has no conjugate law.
    """
    out = []
    for i, t in enumerate(plan.templates):
        if not (t.is_full or t.is_diagonal):
            raise ValueError(f"Gibbs sampling: term {i} has neither a full nor a diagonal covariance: {t}")
        out += [(i, slice(0, t.p))] if t.is_full else [(i, slice(j, j + 1)) for j in range(t.p)]
    return out


def start(cp: CrossProducts, priors: Priors, theta, beta, sigma) -> State:
    """The state that θ (m,), β (p,) and σ would lead one to expect, with effects of zero."""
    templates, levels = _templates(theta, cp.plan), _levels(cp.plan)
    covariances = tuple(sigma**2 * t @ t.T for t in templates)
    sizes = [jnp.reshape(sigma**2, (1, 1)), *(covariances[i][c, c] for i, c in blocks_of(cp.plan))]
    return State(
        beta=beta,
        b=tuple(jnp.zeros((levels[i], len(t)), theta.dtype) for i, t in enumerate(templates)),
        covariances=covariances,
        sigma=sigma,
        rss=cp.n * sigma**2,
        moments=tuple(levels[i] * covariances[i][c, c] for i, c in blocks_of(cp.plan)),
        mixing=tuple(law.expected(size) for law, size in zip(priors.laws, sizes, strict=True)),
    )


@partial(jax.jit, static_argnames=("draws", "thin", "effects", "alone"))
def gibbs_kernel(
    key,
    cp: CrossProducts,
    priors: Priors,
    state: State,
    draws: int,
    thin: int = 1,
    first=0,
    effects: Any = None,
    alone: bool = False,
) -> State:
    """The states after every `thin`-th of draws × thin sweeps, stacked; the last one is where to go on.

    key : of the chain. first : how many sweeps the chain has made; sweep i uses `fold_in(key, i)`, so that a run that
    is cut in two is the same run. effects : `joint`, the default, or `one_way`. `vmap` over key and state for chains.
    alone : where `is_one_kernel`, and outside of `vmap`: a CPU may run the loop as one kernel, twice as fast.
    Raises ValueError where a term's covariance is neither full nor diagonal.
    """
    numbers = _random_numbers(key, first, draws * thin, cp, priors)
    numbers = jax.tree.map(lambda a: a.reshape(draws, thin, -1), numbers)
    sweep = partial(_sweep, cp, priors, effects or joint, _prior_gram(cp, priors))

    first_state, unravel = ravel_pytree(state)  # one array to store: a dozen take as long as a small sweep itself

    def step(flat, own):
        return ravel_pytree(sweep(unravel(flat), *own))[0], None

    def kept(flat, own):
        single = thin == 1  # a loop of one round costs as much as its sweep
        after, _ = step(flat, jax.tree.map(lambda a: a[0], own)) if single else jax.lax.scan(step, flat, own)
        return after, after

    def loop(first_state, numbers):
        return jax.lax.scan(kept, first_state, numbers)[1]

    run = partial(in_one_kernel, loop) if alone else loop
    states = jax.vmap(unravel)(run(first_state, numbers))
    return replace(states, beta=_coefficients(cp, states.beta))


def _sweep(cp: CrossProducts, priors: Priors, effects: Callable, gram, state: State, normals, gammas) -> State:
    """The next state, by the numbers of one sweep; no sweep reads beta, which holds coefficients in the basis of X."""
    roots, mixing = [], []
    for law, moment, old in zip(priors.laws, (state.rss.reshape(1, 1), *state.moments), state.mixing, strict=True):
        p = len(moment)
        below, normals = jnp.split(normals, [p * (p - 1) // 2])
        of_root, of_mixing, gammas = jnp.split(gammas, [p, p + law.n_mixing])
        roots.append(_root(law.given(old).scale + moment, below, of_root))
        mixing.append(law.mixing(roots[-1], of_mixing))
    sigma = roots[0][0, 0]
    theta = jnp.concatenate([sigma[None][:0], *(r.T[np.triu_indices(len(r))] for r in roots[1:])]) / sigma
    beta, b, u, rss = effects(cp, gram, theta, sigma, state, normals)
    templates = _templates(theta, cp.plan)
    own = [v @ t.T for v, t in zip(u, templates, strict=True)]  # b, but for the correlations between levels
    return State(
        beta=beta,
        b=b,
        covariances=tuple(sigma**2 * t @ t.T for t in templates),
        sigma=sigma,
        rss=rss,
        moments=tuple(_gram(own[i][:, c]) for i, c in blocks_of(cp.plan)),
        mixing=tuple(mixing),
    )


def _gram(b):
    """bᵀb, (P, P), as a sum and not as a product for which one_way would leave its kernel."""
    return jnp.sum(b[:, :, None] * b[:, None, :], 0)


def _root(scale, below, gammas):
    """The lower-triangular root of an inverse-Wishart matrix, (P, P).

    With scale = CCᵀ and UUᵀ a Wishart matrix, U upper-triangular (Bartlett 1933, from the last row on), C U⁻ᵀ is lower-
    triangular and the root of C (UUᵀ)⁻¹ Cᵀ. below : the entries right of U's diagonal. gammas : (P,) half its squares.
    """
    p = len(scale)
    places = np.zeros((p, p), int)  # looked up: a scatter would keep a sweep from being one kernel
    places[np.triu_indices(p, 1)] = 1 + np.arange(len(below))
    upper = jnp.diag(jnp.sqrt(2 * gammas)) + jnp.append(jnp.zeros(1, below.dtype), below)[places]
    return solve_upper(upper, cholesky(scale).T).T


def joint(cp: CrossProducts, gram, theta, sigma, state: State, normals):
    """The coefficients of X in its basis, b, u per term and the residual sum of squares, from the joint normal law of β
    and b given θ and σ.

    They are the penalised solution plus σL⁻ᵀ normals, L the factor of its system. The penalised sum of squares there is
    r²(θ) + σ²‖normals‖², which gives the residual one without a look at the rows.
    """
    q, plan = cp.plan.q_rest, cp.plan
    eliminated = eliminate(theta, cp)
    inverse = small_inverse_factor(eliminated.dense.at[q:, q:].add(sigma**2 * gram))
    r = len(inverse) - 1
    solved = sigma * inverse[:-1, :-1].T @ normals[:r] - inverse[-1, :-1] / inverse[-1, -1]
    noise, at = [], r
    for factor, t, own in zip(plan.chain, template_blocks(theta, plan, plan.chain), eliminated.solved, strict=True):
        root = cholesky(matmul(t.T, matmul(own.gram, t)) + jnp.eye(factor.p, dtype=t.dtype))
        of_factor = normals[at : at + factor.q].reshape(factor.n_levels, factor.p, 1)
        noise.append(sigma * solve_upper(root.mT, of_factor)[..., 0])
        at += factor.q
    effects = back_substitute(theta, cp, eliminated, solved, noise)
    c = jnp.append(-solved[q:], 1)
    penalty = sum(jnp.sum(u**2) for _, u in effects) + sigma**2 * c @ gram @ c
    rss = inverse[-1, -1] ** -2 + sigma**2 * jnp.sum(normals**2) - penalty
    b, u = (by_term([e[i] for e in effects], plan) for i in (0, 1))
    return solved[q:], b, u, rss


def one_way(cp: CrossProducts, gram, theta, sigma, state: State, normals):
    """As `joint` for y = μ + aᵢ + ε: μ given the aᵢ, then each aᵢ given μ, as in the notes' derivation.

    Raises ValueError for any other design.
    """
    if not is_one_way(cp):
        raise ValueError("one_way: the model must be y ~ 1 + (1 | g)")
    y, stage = cp.response, cp.stages[0]
    counts, x, zy = stage.gram[:, 0, 0], stage.border[:, 0, 0], y.zy[0][:, 0]  # ZᵀZ, ZᵀX, Zᵀy
    (xx,), (xy,) = cp.dense[0], y.dense
    a = state.b[0][:, 0]
    precision = xx / sigma**2 + gram[0, 0]
    mean = ((xy - jnp.sum(x * a)) / sigma**2 + gram[0, 1]) / precision
    mu = mean + normals[0] / jnp.sqrt(precision)
    precisions = (counts + theta[0] ** -2) / sigma**2
    a = (zy - x * mu) / sigma**2 / precisions + normals[1:] / jnp.sqrt(precisions)
    rss = y.yy + mu * (mu * xx - 2 * xy) + jnp.sum(a * (counts * a + 2 * (mu * x - zy)))
    return mu[None], (a[:, None],), (a[:, None] / theta[0],), rss


def is_one_way(cp: CrossProducts) -> bool:
    """Whether there are one fixed column and one random one, of independent levels."""
    return cp.p == 1 and not cp.plan.rest and [t.p for t in cp.plan.templates] == [1]


def is_one_kernel(cp: CrossProducts) -> bool:
    """Whether a sweep is small enough for one kernel: no LAPACK, no products by a library, no sums over segments."""
    plan, factors = cp.plan, cp.plan.chain + cp.plan.rest
    narrow = all(f.p <= UNROLL for f in factors) and plan.q_rest + cp.p < SMALL
    return narrow and len(plan.chain) < 2 and not plan.crossings and sum(f.q for f in factors) <= FEW


def _coefficients(cp: CrossProducts, c):
    """(draws, p) β of X from its coefficients in the basis."""
    return solve_upper(cp.basis, (c + cp.response.shift).T).T


def _prior_gram(cp: CrossProducts, priors: Priors):
    """(p + 1, p + 1) G with Σ (βⱼ − meanⱼ)²/sdⱼ² = (−c, 1)ᵀG(−c, 1), c the coefficients in the basis of X."""
    half = solve_upper(cp.basis, jnp.eye(cp.p, dtype=cp.basis.dtype))
    center = priors.mean - half @ cp.response.shift
    bordered = jnp.column_stack([half, center]) / jnp.broadcast_to(priors.sd, (cp.p,))[:, None]
    return bordered.T @ bordered


def _templates(theta, plan: Plan):
    return [t(theta[s]) for t, s in zip(plan.templates, plan.theta_slices(), strict=True)]


def _levels(plan: Plan) -> dict[int, int]:
    """Levels of each term's factor."""
    return {i: f.n_levels for f in plan.chain + plan.rest for i in f.terms}


def _random_numbers(key, first, sweeps: int, cp: CrossProducts, priors: Priors):
    """Normals (sweeps, n_z) and gammas (sweeps, n_g) in the order that `_sweep` takes them."""
    levels, blocks = _levels(cp.plan), blocks_of(cp.plan)
    counts = [cp.n, *(levels[i] for i, _ in blocks)]
    widths = [1, *(c.stop - c.start for _, c in blocks)]
    shapes = [law.shapes(count, p) for law, count, p in zip(priors.laws, counts, widths, strict=True)]
    shape = jnp.concatenate(shapes).astype(cp.dense.dtype)
    n_normals = sum(p * (p - 1) // 2 for p in widths) + cp.p + sum(f.q for f in cp.plan.chain + cp.plan.rest)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(sweeps))
    numbers = _uniforms(keys, n_normals + 3 * len(shape), shape.dtype)
    return _normals(numbers[:, :n_normals]), _gammas(numbers[:, n_normals:], keys, shape)


def _uniforms(keys, count: int, dtype):
    """(len(keys), count) uniform numbers in (−1, 1): one call for all, since each costs a second to compile."""
    above = np.nextafter(np.array(-1, dtype), np.array(0, dtype))
    return jax.vmap(lambda k: jax.random.uniform(k, (count,), dtype, above, 1))(keys)


def _normals(uniforms):
    return 2**0.5 * jax.lax.erf_inv(uniforms)


def _gammas(uniforms, keys, shape):
    """(S, n) standard gammas of shapes (n,), for S keys (Marsaglia & Tsang 2000, ACM Trans. Math. Softw. 26(3)).

    uniforms : (S, 3n) in (−1, 1). A number that is rejected, one in twenty at most, is tried again with its own key and
    count of trials, up to a RETRIED-th of all at a time.
    """
    n, size = len(shape), uniforms.shape[0] * len(shape)
    d = shape + (shape < 1) - 1 / 3

    def propose(x, u, d):
        v = (1 + x / jnp.sqrt(9 * d)) ** 3
        good = jnp.log(0.5 + 0.5 * u) < 0.5 * x**2 + d * (1 - v + jnp.log(jnp.where(v > 0, v, 1)))
        return d * v, good & (v > 0)

    def again(state):
        drawn, good = state
        (which,) = jnp.nonzero(~good, size=min(size, max(FEWEST, size // RETRIED)), fill_value=size)
        row, column = which // n, which % n

        def trial(state):
            value, fine, trials = state
            own = jax.vmap(jax.random.fold_in)(keys[row], n * trials + column)
            x, u = _uniforms(own, 2, shape.dtype).T
            new, accepted = propose(_normals(x), u, d[column])
            return jnp.where(fine, value, new), fine | accepted, trials + 1

        value, _, _ = jax.lax.while_loop(lambda s: ~s[1].all(), trial, (d[column], which == size, 1))
        return drawn.at[which].set(value), good.at[which].set(True)

    drawn, good = (a.ravel() for a in propose(_normals(uniforms[:, :n]), uniforms[:, n : 2 * n], d))
    drawn = jax.lax.while_loop(lambda s: ~s[1].all(), again, (drawn, good))[0].reshape(-1, n)

    def boosted():
        return drawn * jnp.where(shape < 1, (0.5 + 0.5 * uniforms[:, 2 * n :]) ** (1 / shape), 1)

    return jax.lax.cond(jnp.any(shape < 1), boosted, lambda: drawn)
