"""Prediction intervals for new rows by parametric bootstrap."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from ..core.batch import MEMORY
from ..core.compile import jit
from ..core.design import Design
from ..core.estimate import Estimate
from ..core.plan import term_slices
from ..core.simulate import response, spherical
from ..errors import DataError, FormulaError
from ..fit import Fit
from ..formula.frame import frame_of
from ..precision import in_float64
from ..refitting import key_of, refit_many
from .intervals import check_level, tails
from .nesting import check_fits
from .sampling import check_replicates, chunks, failed, response_bytes

METHODS = ("studentized", "percentile", "plugin")


@in_float64
def predict_interval(
    fit: Fit,
    newdata: Any,
    n: int = 1000,
    seed: Any = 0,
    level: float = 0.95,
    new_level: bool | str | Collection[str] = False,
    mean: bool = False,
    method: str = "studentized",
    memory: int = MEMORY,
    progress: bool = False,
) -> pd.DataFrame:
    """Intervals that hold one new observation, in each row of newdata, with probability `level`.

    newdata : a table with the model's columns, grouping factors included. new_level : whether the levels in newdata
    are new ones, whatever their labels: True for all grouping factors, or the names of some. A new level's effect is
    drawn from the estimated distribution; a known level's is predicted. mean : leave out the new observation's own
    residual (of prior weight one otherwise), for the mean of a level.
    Returns a DataFrame by row of newdata: fit (the prediction), lower, upper; `.attrs["n_failed"]` counts refits that
    did not converge. n, seed, memory, progress : as in `bootstrap`. A θ that was given stays.

    method "studentized": data sets are simulated from the fit, with new random effects; the model is refitted, and the
    error of its prediction divided by the refit's σ*√(1 + xᵀ(XᵀV*⁻¹X)⁻¹x + zᵀT*T*ᵀz), the last term for new levels and
    the first not for means of new levels. Quantiles of this, times the fit's own value, are added to the prediction
    (Chatterjee, Lahiri & Li 2008, Annals of Statistics 36, 1221-1245). Without random effects it is the t interval.
    The other two take variances as known, or nearly so, and cover less where levels are few.
    "percentile": quantiles of the refits' predictions plus normal noise with the refit's standard deviations. Effects
    of known levels are kept in the simulation, those of new levels are drawn.
    "plugin": all effects are kept in the simulation, for new levels too, and the noise has the fit's standard
    deviations. It is what the R code of the lecture notes does for the pulp data. Their text says, for a new operator,
    "simulate from the fitted model", which draws operators; the code has `use.u = TRUE` there as for a known one. So
    the printed 59.63 to 61.24 leaves out that the mean is known from four operators only, and is narrower.
    Raises DataError for levels that the fit has not seen unless they are new, FormulaError for unknown names in
    new_level, ValueError for unknown options.
    """
    _check_options(n, level, method)
    check_fits((fit,), "predict_interval")
    target = _target(fit, newdata, new_level, mean)
    draws, n_failed = _draws(fit, target, method, n, key_of(seed), memory, progress)
    e = fit.estimate
    centre = target.predict(e.beta[None], [b[None] for b in e.b])[0]
    finite = np.isfinite(draws).all(1)
    if not finite.any():
        raise DataError(f"no refit of {fit.schema.formula!r} to simulated responses gave a prediction")
    lower, upper = np.quantile(draws[finite], tails(level), axis=0)
    if method == "studentized":
        scale = target.scale(e.theta[None], np.atleast_1d(e.sigma), e.unscaled_vcov[None])[0]
        lower, upper = centre + scale * lower, centre + scale * upper
    table = pd.DataFrame({"fit": centre, "lower": lower, "upper": upper}, index=target.index)
    table.attrs["n_failed"] = n_failed
    return table


def _check_options(n: int, level: float, method: str) -> None:
    check_replicates(n)
    check_level(level)
    if method not in METHODS:
        raise ValueError(f"method={method!r}: choose one of {', '.join(METHODS)}")


@dataclass(frozen=True, eq=False)
class Target:
    """R new rows. X : (R, p). offset : (R,). x, codes : per term (R, pᵢ) and (R,). new : per term, new levels or not.

    mean : whether the residual is left out. Methods take batches of estimates, with a leading axis B.
    """

    design: Design
    X: np.ndarray
    offset: Any
    x: tuple[np.ndarray, ...]
    codes: tuple[np.ndarray, ...]
    new: tuple[bool, ...]
    mean: bool
    index: pd.Index

    def predict(self, beta: np.ndarray, b) -> np.ndarray:
        """(B, R) means given the effects b of known levels, per term (B, ℓ, pᵢ)."""
        eta = beta @ self.X.T + self.offset
        for x, codes, new, effects in zip(self.x, self.codes, self.new, b, strict=True):
            if not new:
                eta = eta + np.einsum("rp,brp->br", x, effects[:, codes])
        return eta

    def fresh(self, theta: np.ndarray) -> np.ndarray:
        """(B, R) variance/σ² of the effects of new levels."""
        out = np.zeros((len(theta), len(self.X)))
        templates = [t.template for t in self.design.terms]
        for x, new, template, s in zip(self.x, self.new, templates, term_slices(tuple(templates)), strict=True):
            if new:
                t = template(theta[:, s])
                out += np.sum(np.einsum("rp,bpq->brq", x, t) ** 2, -1)
        return out

    def noise(self, theta: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """(B, R) standard deviation of what is drawn anew: effects of new levels and, unless `mean`, the residual."""
        return sigma[:, None] * np.sqrt(self.fresh(theta) + (not self.mean))

    def scale(self, theta: np.ndarray, sigma: np.ndarray, unscaled_vcov: np.ndarray) -> np.ndarray:
        """(B, R) the standard deviation that errors are divided by, see `predict_interval`."""
        fixed = np.einsum("brp,rp->br", self.X @ unscaled_vcov, self.X)
        residual = not (self.mean and any(self.new))
        return sigma[:, None] * np.sqrt(fixed + self.fresh(theta) + residual)


def _target(fit: Fit, newdata: Any, new_level: bool | str | Collection[str], mean: bool) -> Target:
    schema = fit.schema
    if schema.array_offset:
        raise DataError("the offset was an array, which newdata cannot hold: put offset(column) in the formula")
    new = _new_groups(fit, new_level)
    X, parts, offset = schema.new_data(newdata)
    random = [p for p in parts if p is not None]
    for g, is_new, (_, c) in zip(schema.groups, new, random, strict=True):
        unseen = np.flatnonzero(c < 0)
        if len(unseen) and not is_new:
            raise DataError(
                f"newdata has {len(unseen)} rows (first: row {unseen[0]}) with levels of {g.group!r} that are not in "
                f"the fit; new_level={g.group!r} draws effects for them"
            )
    xs, codes = tuple(x for x, _ in random), tuple(c for _, c in random)
    return Target(fit.design, X, 0.0 if offset is None else offset, xs, codes, new, mean, frame_of(newdata).index)


def _new_groups(fit: Fit, new_level: bool | str | Collection[str]) -> tuple[bool, ...]:
    groups = [g.group for g in fit.schema.groups]
    if isinstance(new_level, bool):
        return (new_level,) * len(groups)
    names = {new_level} if isinstance(new_level, str) else set(new_level)
    unknown = names - set(groups)
    if unknown:
        raise FormulaError(
            f"new_level names {', '.join(sorted(unknown))}; the grouping factors are {', '.join(groups)}"
        )
    return tuple(g in names for g in groups)


def _draws(
    fit: Fit, target: Target, method: str, n: int, key: jax.Array, memory: int, progress: bool
) -> tuple[np.ndarray, int]:
    """(n, R) standardised errors or predictions, see `predict_interval`; and how many refits did not converge."""
    e, parts, n_failed = fit.estimate, [], 0
    keys = jax.random.split(key, 3)
    stays = tuple(method == "plugin" or (method == "percentile" and not new) for new in target.new)
    bytes_each = response_bytes(fit.design) + 8 * len(target.X) * (6 + 2 * fit.design.p)
    todo = chunks(n, bytes_each, memory, progress)
    for first, count in todo:
        y, b = _simulator(todo.size, stays)(fit.design, e.theta, e.beta, e.sigma, e.b, keys[:2], first)
        found = refit_many(fit, y, _kept, memory).estimates
        z = _normals(todo.size, len(target.X))(keys[2], first)
        new = _errors(e, target, found, b, z) if method == "studentized" else _predictions(e, target, found, z, method)
        parts.append(new[:count])
        n_failed += int(failed(found.status[:count]).sum())
    return np.concatenate(parts), n_failed


def _kept(e: Estimate):
    return e.b, e.unscaled_vcov


def _errors(e: Estimate, target: Target, found, b, z) -> np.ndarray:
    """(B, R) new observation minus its prediction by the refit, in the refit's standard deviations."""
    effects, unscaled_vcov = found.kept
    truth = target.predict(e.beta[None], [np.asarray(a) for a in b])
    truth = truth + np.asarray(z) * target.noise(e.theta[None], np.atleast_1d(e.sigma))
    error = truth - target.predict(found.beta, effects)
    return error / target.scale(found.theta, found.sigma, unscaled_vcov)


def _predictions(e: Estimate, target: Target, found, z, method: str) -> np.ndarray:
    own = method == "percentile"
    theta, sigma = (found.theta, found.sigma) if own else (e.theta[None], np.atleast_1d(e.sigma))
    return target.predict(found.beta, found.kept[0]) + np.asarray(z) * target.noise(theta, sigma)


@lru_cache(maxsize=32)
def _simulator(size: int, stays: tuple[bool, ...]) -> Callable:
    """(size, n) responses and the effects in them, per term (size, ℓ, pᵢ): the fit's own b where `stays`, or new."""

    def run(design: Design, theta, beta, sigma, b, keys, first):
        slices = term_slices(tuple(t.template for t in design.terms))
        factors = [sigma * t.template(theta[s]) for t, s in zip(design.terms, slices, strict=True)]

        def one(i):
            effect_keys = jax.random.split(jax.random.fold_in(keys[0], i), len(b))
            parts = zip(design.terms, effect_keys, factors, strict=True)
            drawn = [spherical(term, k, t.dtype) @ t.T for term, k, t in parts]
            effects = [own if stay else new for own, new, stay in zip(b, drawn, stays, strict=True)]
            return response(design, theta, beta, sigma, jax.random.fold_in(keys[1], i), effects), effects

        return jax.vmap(one)(first + jnp.arange(size))

    return jit(run, large=True)


@lru_cache(maxsize=32)
def _normals(size: int, rows: int) -> Callable:
    """(size, rows) standard normal numbers."""

    def run(key, first):
        return jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (rows,)))(first + jnp.arange(size))

    return jit(run, large=True)
