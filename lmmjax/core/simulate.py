"""Responses from a design and its parameters."""

import jax
import jax.numpy as jnp
import numpy as np

from .compile import jit
from .design import Design, RandomTerm
from .effects import linear_predictor
from .plan import term_slices

FEWEST, NUMBERS = 64, 2**14  # replicates in a block, and the rows in one


def simulate(design: Design, theta, beta, sigma, key, n: int, b=None, first: int = 0):
    """(n, rows) responses. Replicate i uses `fold_in(key, first + i)`, so it does not depend on n or on chunks.

    theta : (m,), with φ behind it where the residuals have a structure. beta : (p,). sigma : residual standard
    deviation. b : effects per term (ℓ, p_i) to condition on; drawn anew for each replicate when None.
    """
    # In blocks of one shape: the last bit of a sum depends on the shape that it is computed in.
    block = max(FEWEST, 2 ** int(np.log2(max(1, NUMBERS // design.n))))
    numbers = first + np.arange(-(-n // block) * block).reshape(-1, block)
    return _in_blocks(design, theta, beta, sigma, key, numbers, b)[:n]


def _blocks(design: Design, theta, beta, sigma, key, numbers, b):
    """(blocks · block, rows) responses for numbers (blocks, block)."""

    def one(i):
        return response(design, theta, beta, sigma, jax.random.fold_in(key, i), b)

    return jax.lax.map(jax.vmap(one), numbers).reshape(-1, design.n)


_in_blocks = jit(_blocks, large=True)  # a key makes much work


def spherical(term: RandomTerm, key, dtype):
    """(ℓ, p) of unit variance, correlated as the levels are."""
    drawn = jax.random.normal(key, (term.n_levels, term.p), dtype)
    return drawn if term.level_factor is None else term.level_factor @ drawn


def response(design: Design, theta, beta, sigma, key, b=None):
    """(rows,) one response; arguments as in `simulate`."""
    noise_key, *keys = jax.random.split(key, 1 + len(design.terms))
    dtype = jnp.result_type(design.X)
    if b is None:
        parts = zip(design.terms, keys, term_slices(tuple(t.template for t in design.terms)), strict=True)
        b = [sigma * spherical(t, k, dtype) @ t.template(theta[s]).T for t, k, s in parts]
    noise = sigma * jax.random.normal(noise_key, design.y.shape, dtype)
    if design.residual is not None:
        placed = design.residual.color(theta[design.n_theta :], design.residual.arrange(noise[:, None]))
        noise = design.residual.restore(placed, design.n)[:, 0]
    noise = noise if design.weights is None else noise / jnp.sqrt(design.weights)
    return linear_predictor(design, beta, b) + noise
