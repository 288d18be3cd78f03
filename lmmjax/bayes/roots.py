"""NumPyro's distributions of standard deviations and of roots T of covariances Σ = TTᵀ, for each prior of the package.

T is lower-triangular with a positive diagonal. Load this module late: it imports NumPyro.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, multigammaln
from numpyro import distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.transforms import CorrCholeskyTransform, ParameterFreeTransform, PowerTransform, biject_to

from ..core import gibbs as core
from ..core.linalg import cholesky, solve_lower, solve_upper


class Root(ParameterFreeTransform):
    """T from logarithms of its rows' lengths, the standard deviations (p,), and CorrCholeskyTransform's numbers of its
    correlations. With T's own entries NUTS would have to find into a funnel where a standard deviation is small.
    """

    domain = constraints.real_vector
    codomain = constraints.lower_cholesky

    def __call__(self, x):
        """(…, p(p + 1)/2) → (…, p, p)."""
        p = _side(x.shape[-1])
        return jnp.exp(x[..., :p, None]) * CorrCholeskyTransform()(x[..., p:])

    def _inverse(self, y):
        sd = jnp.sqrt(jnp.sum(y**2, -1))
        return jnp.concatenate([jnp.log(sd), CorrCholeskyTransform().inv(y / sd[..., None])], -1)

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        """Row i, in polar coordinates, has the volume sⁱ ds dΩ, and dΩ is d(tᵢ₀/s, …) over tᵢᵢ/s."""
        p = _side(x.shape[-1])
        correlations = CorrCholeskyTransform()
        root = correlations(x[..., p:])
        of_rows = x[..., :p] @ jnp.arange(1.0, p + 1) - jnp.sum(jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)), -1)
        return of_rows + correlations.log_abs_det_jacobian(x[..., p:], root)

    def forward_shape(self, shape):
        """Of T."""
        return (*shape[:-1], *2 * (_side(shape[-1]),))

    def inverse_shape(self, shape):
        """Of the numbers."""
        return (*shape[:-2], shape[-1] * (shape[-1] + 1) // 2)


def _side(count: int) -> int:
    """p from p(p + 1)/2."""
    return round((np.sqrt(1 + 8 * count) - 1) / 2)


class _Roots(type(constraints.lower_cholesky)):  # type: ignore[misc]
    """Lower-triangular with a positive diagonal, to be reached by `Root`."""


ROOTS = _Roots()
biject_to.register(_Roots, lambda _: Root())


def law_of_sd(law: core.InverseWishart | core.HalfT, shape: tuple[int, ...]) -> dist.Distribution:
    """Independent standard deviations, `shape`: half-t, or the roots of inverse-gamma variances."""
    if isinstance(law, core.HalfT):
        return dist.FoldedDistribution(dist.StudentT(law.df, 0, law.scale.reshape(shape))).to_event(len(shape))
    variance = dist.InverseGamma(law.df / 2, law.scale[0, 0] / 2).expand(shape)
    return dist.TransformedDistribution(variance, PowerTransform(0.5)).to_event(len(shape))


def law_of_root(law: core.InverseWishart | core.HalfT, unit: np.ndarray) -> dist.Distribution:
    """T of Σ = (unit T)(unit T)ᵀ, where Σ has the law and unit is (p,)."""
    if isinstance(law, core.HalfT):
        return HalfTRoot(law.df, law.scale / unit)
    return InverseWishartRoot(law.df, law.scale / np.outer(unit, unit))


class InverseWishartRoot(dist.Distribution):
    """T, (p, p), where TTᵀ is inverse-Wishart. df : above p − 1. scale : (p, p)."""

    arg_constraints = {"df": constraints.positive, "scale": constraints.positive_definite}
    support = ROOTS

    def __init__(self, df, scale, *, validate_args=None):
        self.df, self.scale = df, scale
        super().__init__(event_shape=jnp.shape(scale)[-2:], validate_args=validate_args)

    def sample(self, key, sample_shape=()):
        """Independent draws, (*sample_shape, p, p)."""
        return _drawn(key, self.df, cholesky(jnp.asarray(self.scale)), sample_shape)

    def log_prob(self, value):
        """Log density with respect to the lower triangle."""
        p, half = len(self.scale), self.df / 2
        root = cholesky(jnp.asarray(self.scale))
        constant = self.df * jnp.sum(jnp.log(jnp.diag(root))) - half * p * np.log(2) - multigammaln(half, p)
        squares = solve_lower(value, jnp.broadcast_to(root, value.shape)) ** 2
        return constant - 0.5 * jnp.sum(squares, (-2, -1)) + _log_volume(value, self.df + p + 1)


class HalfTRoot(dist.Distribution):
    """T, (p, p), where TTᵀ has half-t standard deviations as in `lj.HalfT`. scale : (p,).

    The density of Huang & Wand (2013, Bayesian Anal. 8(2), eq. 2) with their mixing variables a integrated out:
    p(Σ) ∝ |Σ|^−(df + 2p)/2 Π (df (Σ⁻¹)_kk + scale_k⁻²)^−(df + p)/2. That leaves NUTS fewer, less dependent numbers.
    """

    arg_constraints = {"df": constraints.positive, "scale": constraints.independent(constraints.positive, 1)}
    support = ROOTS

    def __init__(self, df, scale, *, validate_args=None):
        self.df, self.scale = df, scale
        super().__init__(event_shape=2 * jnp.shape(scale), validate_args=validate_args)

    def sample(self, key, sample_shape=()):
        """Independent draws, (*sample_shape, p, p): first 1/a, then Σ given a."""
        of_mixing, of_root = jax.random.split(key)
        p = len(self.scale)
        inverse = self.scale**2 * jax.random.gamma(of_mixing, 0.5, (*sample_shape, p))
        root = jnp.sqrt(2 * self.df * inverse)[..., None] * jnp.eye(p)
        return _drawn(of_root, self.df + p - 1, root, sample_shape)

    def log_prob(self, value):
        """Log density with respect to the lower triangle."""
        value, scale, df, p = jnp.asarray(value), jnp.asarray(self.scale), self.df, len(self.scale)
        inverse = solve_lower(value, jnp.broadcast_to(jnp.eye(p, dtype=value.dtype), value.shape))
        of_mixing = jnp.log(df * jnp.sum(inverse**2, -2) + scale**-2)
        constant = p * (df + p - 1) / 2 * jnp.log(df) - multigammaln((df + p - 1) / 2, p)
        constant += p * (gammaln((df + p) / 2) - gammaln(0.5)) - jnp.sum(jnp.log(scale))
        return constant - (df + p) / 2 * jnp.sum(of_mixing, -1) + _log_volume(value, df + 2 * p)


def _log_volume(root, power):
    """log |TTᵀ|^(−power/2) and the Jacobian 2^p Π tᵢᵢ^(p − i + 1) of TTᵀ."""
    p = root.shape[-1]
    log_diagonal = jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1))
    return jnp.sum((jnp.arange(p, 0, -1) - power) * log_diagonal, -1) + p * np.log(2)


def _drawn(key, df, root, sample_shape):
    """Roots of inverse-Wishart matrices whose scale is root rootᵀ: root U⁻ᵀ, U upper-triangular (Bartlett 1933)."""
    p = root.shape[-1]
    of_diagonal, of_rest = jax.random.split(key)
    gammas = jax.random.gamma(of_diagonal, (df - jnp.arange(p)[::-1]) / 2, (*sample_shape, p))
    upper = jnp.triu(jax.random.normal(of_rest, (*sample_shape, p, p)), 1) + jnp.sqrt(2 * gammas)[..., None] * jnp.eye(
        p
    )
    return solve_upper(upper, jnp.broadcast_to(root.mT, upper.shape)).mT
