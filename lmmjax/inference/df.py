"""Denominator degrees of freedom of Wald tests: Satterthwaite, Kenward–Roger, residual.

Everything works on stacks of fits too: leading axes are batches.
"""

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from patsy import DesignInfo, PatsyError

from ..core.blockwise import blockwise_pieces
from ..core.crossprod import CrossProducts
from ..core.estimate import Estimate
from ..core.freedom import KenwardRogerPieces, SatterthwaitePieces, kenward_roger_pieces, satterthwaite_pieces
from ..core.optimize import FIXED
from ..errors import ConvergenceWarning, DataError
from ..guard import caller
from ..precision import in_float64, to_numpy

METHODS = ("satterthwaite", "kenward-roger", "residual")
FLAT = 1e-8  # curvature, in units of its own diagonal, that determines nothing
ROUNDING = 1e-14
DEPENDENT = 1e-10  # share of the largest singular value below which a row of L depends on the others


class FTest(NamedTuple):
    """F : the statistic, times `scaling` (Kenward–Roger) already. numdf, dendf : its degrees of freedom."""

    F: Any
    numdf: int
    dendf: Any
    scaling: Any

    @property
    def p(self) -> Any:
        """Of F on its degrees of freedom; of χ²/numdf where the denominator has infinitely many."""
        return f_tail(self.F, self.numdf, self.dendf)


def f_tail(f: Any, numdf: Any, dendf: Any) -> Any:
    """P(F > f), with infinite dendf too."""
    from scipy.special import chdtrc, fdtrc  # here, as it takes longer to import than most fits

    many = np.isinf(dendf)
    return np.where(many, chdtrc(numdf, numdf * f), fdtrc(numdf, np.where(many, 1, dendf), f))


def t_tails(t: Any, df: Any) -> Any:
    """P(|T| > |t|), with infinite df too."""
    from scipy.special import ndtr, stdtr

    return 2 * np.where(np.isinf(df), ndtr(-np.abs(t)), stdtr(np.where(np.isinf(df), 1, df), -np.abs(t)))


def t_quantile(p: Any, df: Any) -> Any:
    """Quantiles of t, with infinite df too."""
    from scipy.special import ndtri, stdtrit

    return np.where(np.isinf(df), ndtri(p), stdtrit(np.where(np.isinf(df), 1, df), p))


@dataclass(frozen=True, eq=False)
class Freedom:
    """Tests of linear hypotheses Lβ. vcov : (…, p, p) the covariance of β̂ that they use. held : df of every test."""

    vcov: np.ndarray
    held: Any = np.inf

    @property
    def se(self) -> np.ndarray:
        """(…, p) standard errors of β̂."""
        return np.sqrt(np.einsum("...ii->...i", self.vcov))

    def df(self, L: np.ndarray) -> np.ndarray:
        """(…, k) degrees of freedom of each row of L (k, p) alone."""
        each = [np.asarray(self._denominator(row[None])[1]) for row in L]
        return np.stack(np.broadcast_arrays(*each), -1) if each else np.zeros(0)

    def f_test(self, L: np.ndarray, beta: np.ndarray, value: Any = 0.0) -> FTest:
        """F of Lβ = value (k,) for L (k, p) of full rank and estimates (…, p)."""
        q, left = len(L), beta @ L.T - value
        solved = np.linalg.solve(L @ self.vcov @ L.T, left[..., None])[..., 0]
        scaling, dendf = self._denominator(L)
        return FTest(scaling * np.sum(left * solved, -1) / q, q, dendf, scaling)

    def _denominator(self, L: np.ndarray) -> tuple[Any, Any]:
        """Scaling of F and its denominator degrees of freedom, for L of full rank."""
        return 1.0, self.held


@dataclass(frozen=True, eq=False)
class Satterthwaite(Freedom):
    """As lmerTest (Kuznetsova, Brockhoff & Christensen 2017, J. Stat. Softw. 82(13)).

    slopes : (…, r, p, p) of vcov in the variance parameters. parameters : (…, r, r) their covariance.
    """

    slopes: Any = None
    parameters: Any = None

    def _denominator(self, L: np.ndarray) -> tuple[Any, Any]:
        """Each principal direction of LCLᵀ has ν = 2d²/Var(d̂); they make an F by its mean (Fai & Cornelius 1996)."""
        d, directions = np.linalg.eigh(L @ self.vcov @ L.T)
        turned = directions.mT @ L  # (…, k, p)
        g = np.einsum("...ki,...rij,...kj->...kr", turned, self.slopes, turned)
        with np.errstate(divide="ignore"):
            nu = 2 * d**2 / np.einsum("...kr,...rs,...ks->...k", g, self.parameters, g)
        return 1.0, _of_sum(nu)


def _of_sum(nu: np.ndarray) -> np.ndarray:
    """The ν of an F whose numerator is a mean of t² with ν (…, k) each: their means are matched, ν/(ν − 2)."""
    q = nu.shape[-1]
    if q == 1:
        return nu[..., 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.sum(np.where(np.isinf(nu), 1, nu / (nu - 2)), -1)
        matched = np.where(mean > q, 2 * mean / (mean - q), np.inf)
    equal = np.ptp(np.where(np.isinf(nu), 0, nu), -1) < FLAT * np.max(nu, -1)
    return np.where(equal, np.mean(nu, -1), np.where(np.min(nu, -1) <= 2, 2.0, matched))


@dataclass(frozen=True, eq=False)
class KenwardRoger(Freedom):
    """As pbkrtest (Kenward & Roger 1997, Biometrics 53, 983-997; Halekoh & Højsgaard 2014, J. Stat. Softw. 59(9)).

    vcov is the adjusted covariance. half, slopes : see `core.freedom.KenwardRogerPieces`. parameters : (…, r, r).
    """

    half: Any = None
    slopes: Any = None
    parameters: Any = None

    def _denominator(self, L: np.ndarray) -> tuple[Any, Any]:
        half = L @ self.half
        white = np.linalg.solve(np.linalg.cholesky(half @ half.mT), half)[..., None, :, :]
        slopes = white @ self.slopes @ white.mT  # (…, r, q, q), of ΘΦPᵣΦ
        traces = np.einsum("...rii->...r", slopes)
        a1 = np.einsum("...rs,...r,...s->...", self.parameters, traces, traces)
        a2 = np.einsum("...rs,...rij,...sji->...", self.parameters, slopes, slopes)
        return _matched(a1, a2, len(L))


def _matched(a1, a2, q: int) -> tuple[Any, Any]:
    """λ and m for which λF has the first two moments of F(q, m), from Kenward and Roger's A₁ and A₂."""
    with np.errstate(invalid="ignore", divide="ignore"):
        b = (a1 + 6 * a2) / (2 * q)
        g = ((q + 1) * a1 - (q + 4) * a2) / ((q + 2) * a2)
        c = 3 * q + 2 * (1 - g)
        first, second, third = 1 + g / c * b, 1 - (q - g) / c * b, 1 - (q + 2 - g) / c * b
        first = np.where(np.abs(first) < ROUNDING, 0, first)
        mean = 1 - a2 / q  # of F, inverted
        ratio = np.where((np.abs(mean) < ROUNDING) & (np.abs(second) < ROUNDING), 1, mean / second)
        m = 4 + (q + 2) / (ratio**2 * first / third - 1)  # qρ = ratio² first / third
        scaling = np.where(np.abs(m - 2) < 1e-2, 1, m * mean / (m - 2))
        known = a2 <= ROUNDING  # the variance is known without error
        return np.where(known, 1.0, scaling), np.where(known, np.inf, m)


def hypothesis(L: Any, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """A linear hypothesis Lβ = value as L (k, p) and value (k,).

    L : (p,) or (k, p) numbers; a Series, dict or DataFrame of numbers by column, absent ones zero; names of columns; or
    patsy's constraints, "a = 2 * b, c = 1" (a text without "=" means zero). Raises DataError for unknown columns, wrong
    sizes, numbers that are not finite, and rows that depend on each other.
    """
    texts = [L] if isinstance(L, str) else L
    if isinstance(texts, (list, tuple)) and texts and all(isinstance(t, str) for t in texts):
        if all(t in names for t in texts):
            rows, value = np.eye(len(names))[[names.index(t) for t in texts]], np.zeros(len(texts))
        else:
            rows, value = _constraints(list(texts), names)
    else:
        rows = _numbers(L, names)
        value = np.zeros(len(rows))
    sizes = np.linalg.svd(rows, compute_uv=False)
    if not len(rows) or not rows.any(1).all():
        raise DataError("L has no row, or a row of zeros: there is nothing to test")
    if len(rows) > len(names) or not sizes.min() > DEPENDENT * sizes.max():
        raise DataError("the rows of L depend on each other: leave out those that others determine")
    return rows, value


def _numbers(L: Any, names: list[str]) -> np.ndarray:
    """(k, p) of an array, or of a table by column names."""
    if isinstance(L, (dict, pd.Series, pd.DataFrame)):
        table = L if isinstance(L, pd.DataFrame) else pd.DataFrame([dict(L)])
        unknown = [str(c) for c in table.columns if c not in names]
        if unknown:
            raise DataError(f"no fixed-effects columns {', '.join(unknown)}; there are {', '.join(names)}")
        L = table.reindex(columns=names, fill_value=0.0)
    try:
        rows = np.atleast_2d(np.asarray(L, dtype=float))
    except (TypeError, ValueError):
        raise DataError(f"L must be numbers, names of columns or constraints, not {L!r}") from None
    if rows.ndim != 2 or rows.shape[1] != len(names):
        raise DataError(f"L has shape {rows.shape}; there are {len(names)} fixed effects: give (k, {len(names)})")
    if not np.isfinite(rows).all():
        raise DataError("L holds numbers that are not finite")
    return rows


def _constraints(texts: list[str], names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    try:
        found = DesignInfo(names).linear_constraint(texts)
    except PatsyError as error:
        text = f"no fixed-effects columns, and no constraint on them: {', '.join(texts)} ({error.message})"
        raise DataError(f"{text}; there are {', '.join(names)}") from None
    return found.coefs, found.constants[:, 0]


def check_method(ddf: str | None, reml: bool) -> None:
    """Raises ValueError for an unknown method, DataError for Kenward–Roger without REML."""
    if ddf is not None and ddf not in METHODS:
        raise ValueError(f"ddf={ddf!r}: choose None, {', '.join(map(repr, METHODS))}")
    if ddf == "kenward-roger" and not reml:
        raise DataError("ddf='kenward-roger' needs a REML fit: this one is by ML; refit it with reml=True")


@in_float64
def freedom(estimate: Estimate, cp: CrossProducts, reml: bool, ddf: str | None) -> Freedom:
    """What `ddf` says about tests of β: None (χ², infinite df), "residual" (D as it was estimated, n − p),
    "satterthwaite" or "kenward-roger".

    Prior weights and offsets are in `cp` already. Raises ValueError for unknown names, DataError for Kenward–Roger
    without REML; warns with ConvergenceWarning where the deviance has no minimum at the estimate.
    """
    check_method(ddf, reml)
    vcov, nu = np.asarray(estimate.vcov), float(cp.n) - cp.p
    if ddf is None:
        return Freedom(vcov)
    nothing_to_know = not cp.p or not estimate.theta.size or int(estimate.status) == FIXED
    if ddf == "residual" or nothing_to_know:
        return Freedom(vcov, nu)
    if ddf == "kenward-roger":
        pieces_of = kenward_roger_pieces if cp.unwhitened is None else blockwise_pieces
        return kenward_roger(estimate.sigma, to_numpy(pieces_of(estimate.theta, cp)))
    pieces = to_numpy(satterthwaite_pieces(estimate.theta, estimate.sigma, cp, reml))
    found = satterthwaite(pieces, estimate.free)
    if not np.isfinite(found.parameters).all():
        text = "the deviance has no minimum at the estimate: Satterthwaite's degrees of freedom are not defined"
        warnings.warn(text, ConvergenceWarning, stacklevel=caller())
    return found


def satterthwaite(pieces: SatterthwaitePieces, free: np.ndarray) -> Satterthwaite:
    """From the pieces of a fit, or of a stack. free : (…, m) which θ are off the boundary: the deviance and Var(β̂) are
    even in the others, which so contribute nothing."""
    kept = np.concatenate([free, np.ones_like(free[..., :1], bool)], -1)
    both = kept[..., None] & kept[..., None, :]
    curvature = np.einsum("...ii->...i", pieces.hessian)
    scale = np.where(kept & (curvature > 0), 1 / np.sqrt(np.where(curvature > 0, curvature, 1)), 1.0)
    scaled = np.where(both, pieces.hessian * scale[..., None] * scale[..., None, :], np.eye(kept.shape[-1]))
    values, vectors = np.linalg.eigh(scaled)
    inverse = np.where(values > FLAT, 1 / np.where(values > FLAT, values, 1), np.where(values < -FLAT, np.nan, 0))
    covariance = 2 * (vectors * inverse[..., None, :]) @ vectors.mT
    covariance = np.where(both, covariance * scale[..., None] * scale[..., None, :], 0)
    return Satterthwaite(np.asarray(pieces.vcov), slopes=pieces.slopes, parameters=covariance)


def kenward_roger(sigma: Any, pieces: KenwardRogerPieces) -> KenwardRoger:
    """From the pieces of a fit, or of a stack. sigma : (…)."""
    # In units in which its diagonal is one: those of variances of slopes are powers of their columns' units.
    diagonal = np.einsum("...rr->...r", pieces.information)
    units = np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1)), 0)  # 0: of no influence on y
    units = units[..., None] * units[..., None, :]
    parameters = units * np.linalg.pinv(units * pieces.information, rcond=DEPENDENT, hermitian=True)
    products = np.einsum("...rij,...sjk->...rsik", pieces.slopes, pieces.slopes)
    correction = np.einsum("...rs,...rsij->...ij", parameters, pieces.bends - products)
    adjusted = pieces.half @ (np.eye(correction.shape[-1]) + 2 * correction) @ pieces.half.mT
    vcov = np.asarray(sigma)[..., None, None] ** 2 * adjusted
    return KenwardRoger(vcov, half=pieces.half, slopes=pieces.slopes, parameters=parameters)
