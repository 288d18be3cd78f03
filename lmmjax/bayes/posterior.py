"""Draws as ArviZ's InferenceData, with names for every number; beside the fit's answers; and draws of new responses."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import jax
import numpy as np
import pandas as pd

from ..core.design import Design, RandomTerm
from ..errors import DataError
from ..fit import Fit
from ..formula import Schema
from ..formula.frame import Rows, frame_of
from ..formula.grouping import fit_grouping
from ..formula.hints import listed
from ..formula.scope import resolve_again
from ..formula.values import labels
from ..inference.effects import ranef_intervals
from ..inference.intervals import check_level, tails
from ..inference.nesting import check_fits
from ..inference.parameters import Parameter, parameters_of, values
from ..precision import in_float64
from ..refitting import key_of

CHUNK = 2**22  # numbers of a chunk of rows × draws
TAKEN = ("chain", "draw", "column", "beta", "sigma")  # names that no grouping factor's dimension can have


def inference_data(
    schema: Schema, design: Design, draws: Mapping[str, Any], log_likelihood: bool, stats: Mapping[str, np.ndarray]
) -> Any:
    """InferenceData of draws, each (chains, draws, …).

    draws : beta (…, p), sigma (…), covariances, per term (…, pᵢ, pᵢ), and b, per term (…, ℓ, pᵢ). stats : sample_stats.
    Variables: beta (column); sigma; per term t sd_t (t_column), cor_t (t_pair) where covariances are free, and
    b_t (grouping factor, t_column); the response by row, as observed and with log_likelihood=True as log density given
    the effects. A grouping factor g that has the name of something else here has the dimension g_level.
    """
    import arviz

    coords, dims = _axes(schema, design)
    rows = {"coords": {"row": row_labels(schema.index)}, "dims": {schema.response: ["row"]}}
    groups = {
        "posterior": arviz.dict_to_dataset(_named(schema, design, draws), coords=coords, dims=dims),
        "sample_stats": arviz.dict_to_dataset(dict(stats)),
        "observed_data": arviz.dict_to_dataset({schema.response: design.y}, default_dims=[], **rows),
    }
    if log_likelihood:
        groups["log_likelihood"] = arviz.dict_to_dataset({schema.response: pointwise(design, draws)}, **rows)
    return arviz.InferenceData(**groups)


def _axes(schema: Schema, design: Design) -> tuple[dict[str, list], dict[str, list[str]]]:
    """Labels by dimension, and dimensions by variable of the posterior."""
    coords: dict[str, list] = {"column": schema.fixed_names}
    dims: dict[str, list[str]] = {"beta": ["column"], "sigma": []}
    for name, group, term in zip(schema.term_names, schema.groups, design.terms, strict=True):
        level = f"{group.group}_level" if group.group in TAKEN else group.group
        coords[level], coords[f"{name}_column"] = list(group.levels), group.columns
        dims[f"sd_{name}"], dims[f"b_{name}"] = [f"{name}_column"], [level, f"{name}_column"]
        if _is_correlated(term):
            coords[f"{name}_pair"] = [f"{second}.{first}" for first, second in combinations(group.columns, 2)]
            dims[f"cor_{name}"] = [f"{name}_pair"]
    return coords, dims


def _is_correlated(term: RandomTerm) -> bool:
    return term.p > 1 and not term.template.is_diagonal


def _named(schema: Schema, design: Design, draws: Mapping[str, Any]) -> dict[str, np.ndarray]:
    posterior = {"beta": draws["beta"], "sigma": draws["sigma"]}
    parts = zip(schema.term_names, design.terms, draws["covariances"], draws["b"], strict=True)
    for name, term, covariance, b in parts:
        sd = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
        posterior[f"sd_{name}"], posterior[f"b_{name}"] = sd, b
        if _is_correlated(term):
            first, second = np.triu_indices(term.p, 1)
            posterior[f"cor_{name}"] = covariance[..., first, second] / (sd[..., first] * sd[..., second])
    return posterior


def row_labels(index: pd.Index) -> list:
    """Of a dimension; those of several levels become one, as in interactions."""
    return list(index) if index.nlevels == 1 else [":".join(map(str, row)) for row in index]


def means(design: Design, beta: np.ndarray, b: list[np.ndarray]) -> np.ndarray:
    """(S, n) offset + Xβ + Zb for S draws of β (S, p) and of each term's effects (S, ℓ, pᵢ)."""
    out = beta @ design.X.T
    for term, effects in zip(design.terms, b, strict=True):
        for j in range(term.p):
            out += term.x[:, j] * effects[:, term.codes, j]
    return out if design.offset is None else out + design.offset


def pointwise(design: Design, draws: Mapping[str, Any]) -> np.ndarray:
    """(chains, draws, n) log density of each row given β, b and σ."""
    shape = np.shape(draws["sigma"])
    beta, b = _stacked(draws["beta"]), [_stacked(v) for v in draws["b"]]
    sigma = draws["sigma"].reshape(-1, 1)
    root = 1 if design.weights is None else np.sqrt(design.weights)
    out = np.empty((len(beta), design.n))
    for part in _chunks(out):
        z = root * (design.y - means(design, beta[part], [v[part] for v in b])) / sigma[part]
        out[part] = -0.5 * z**2 - np.log(sigma[part]) + np.log(root) - 0.5 * np.log(2 * np.pi)
    return out.reshape(*shape, design.n)


def _stacked(draws: np.ndarray) -> np.ndarray:
    """(S, …) of draws (chains, draws, …), chain after chain."""
    return draws.reshape(draws.shape[0] * draws.shape[1], *draws.shape[2:])


def _chunks(out: np.ndarray) -> list[slice]:
    """Parts of the draws, the first axis."""
    size = max(1, CHUNK // max(1, out.shape[1]))
    return [slice(at, at + size) for at in range(0, len(out), size)]


def compare_posterior(fit: Fit, idata: Any, level: float = 0.95, effects: bool = False) -> pd.DataFrame:
    """The posterior beside the REML or ML fit of the same model.

    idata : what `gibbs` or `nuts` returned. Rows: the parameters by lme4's names, in the order of `confint`; with
    effects=True the random effects by (group, level, column), as in `ranef_intervals`. Of the fit are estimate and se
    (NaN for standard deviations and correlations; of an effect √Var(b | y) at the estimates) and for effects fit_lower
    and fit_upper, the limits of `ranef_intervals`; of the posterior are mean, sd, lower and upper, the quantiles that
    leave (1 − level)/2 on either side, ess, the bulk effective sample size, and rhat (ArviZ; NaN for a single chain).
    Raises DataError for draws of another model or response, ValueError for a bad level.
    """
    check_fits((fit,), "compare_posterior")
    check_level(level)
    posterior = _checked(fit, idata)
    if effects:
        table = ranef_intervals(fit, level).rename(columns={"lower": "fit_lower", "upper": "fit_upper"})
        draws = _effects(fit, posterior)
    else:
        parameters = parameters_of(fit)
        estimate = values([t.template for t in fit.design.terms], fit.templates, fit.sigma, fit.estimate.beta)
        se = np.full(len(parameters), np.nan)
        se[len(se) - fit.design.p :] = np.sqrt(np.diag(fit.estimate.vcov))
        table = pd.DataFrame({"estimate": estimate, "se": se}, [p.name for p in parameters])
        draws = np.stack([_parameter(fit, posterior, p) for p in parameters], -1)
    return table.assign(**_described(draws, level))


def posterior_of(idata: Any) -> Any:
    """The group of that name. Raises DataError where there is none."""
    posterior = getattr(idata, "posterior", None)
    if posterior is None:
        raise DataError(f"{type(idata).__name__} without a posterior: give what lj.gibbs or lj.nuts returned")
    return posterior


def _checked(fit: Fit, idata: Any) -> Any:
    """The posterior of idata. Raises DataError unless it is one of the fit's model and response."""
    posterior, formula = posterior_of(idata), fit.schema.formula
    coords, dims = _axes(fit.schema, fit.design)
    for name in [*dims, *(v for v in posterior if v.startswith(("sd_", "cor_")))]:
        if name not in posterior or name not in dims:
            where = "the draws have, but not" if name in posterior else "the draws do not have, but"
            raise DataError(f"{name!r} is what {where} the fit of {formula!r}: fit and draws must be of one model")
        for found, dim in zip(posterior[name].dims[2:], dims[name], strict=True):
            ours, theirs = labels(pd.Index(coords[dim])), labels(pd.Index(posterior[found].values))
            if list(ours) != list(theirs):
                raise DataError(f"{name!r} has {listed(theirs)} in the draws, {listed(ours)} in the fit of {formula!r}")
    observed = getattr(idata, "observed_data", {}).get(fit.schema.response, fit.design.y)
    if not np.array_equal(observed, fit.design.y):
        raise DataError(f"the draws are given other values of {fit.schema.response!r} than the fit of {formula!r}")
    return posterior


def _parameter(fit: Fit, posterior: Any, p: Parameter) -> np.ndarray:
    """(chains, draws)"""
    if p.kind == "sigma":
        return posterior["sigma"].values
    if p.kind == "beta":
        return posterior["beta"].values[..., p.columns[0]]
    pairs: list[tuple[int, ...]] = list(combinations(range(fit.design.terms[p.term].p), 2))
    at = p.columns[0] if p.kind == "sd" else pairs.index(p.columns)
    return posterior[f"{p.kind}_{fit.schema.term_names[p.term]}"].values[..., at]


def _effects(fit: Fit, posterior: Any) -> np.ndarray:
    """(chains, draws, q) in the order of `ranef_intervals`: by factor, level, term and column."""
    parts: dict[str, list[np.ndarray]] = {}
    for name, group in zip(fit.schema.term_names, fit.schema.groups, strict=True):
        parts.setdefault(group.group, []).append(posterior[f"b_{name}"].values)
    sides = [np.concatenate(v, -1) for v in parts.values()]
    return np.concatenate([v.reshape(*v.shape[:2], -1) for v in sides], -1)


def _described(draws: np.ndarray, level: float) -> dict[str, np.ndarray]:
    """Columns that describe draws (chains, draws, k)."""
    import arviz

    chains = arviz.dict_to_dataset({"draws": draws})
    flat = draws.reshape(-1, draws.shape[-1])
    lower, upper = np.quantile(flat, tails(level), axis=0)
    rhat = arviz.rhat(chains)["draws"].values if len(draws) > 1 else np.nan  # it would log what it cannot do
    ess = arviz.ess(chains)["draws"].values
    return {"mean": flat.mean(0), "sd": flat.std(0, ddof=1), "lower": lower, "upper": upper, "ess": ess, "rhat": rhat}


def posterior_predictive(
    fit: Fit, idata: Any, newdata: Any = None, allow_new_levels: bool = False, seed: Any = 0, draws: int | None = None
) -> Any:
    """New responses from the posterior, as InferenceData that `idata.extend` takes in.

    Each is N(offset + Xβ + Zb, σ²/w) at one draw of β, b and σ; the effects stay, w is the prior weight. They are in
    the group posterior_predictive, for the rows of the fit, or, for newdata, in predictions, of prior weight one: one
    variable with the response's name (chain, draw, row). newdata : a table with the model's columns.
    allow_new_levels : draw effects for levels that the fit has not seen from N(0, Σ) at the draw's Σ, one for all rows
    of a level, independent of other levels also where those are related by relmat. fit : of `lmer`, for names and
    design. draws : how many of each chain are used, evenly spaced; all by default. seed : an int or a JAX key.
    Raises DataError for draws of another model or response, levels not seen and what is wrong with newdata, ValueError
    for draws.
    """
    check_fits((fit,), "posterior_predictive")
    posterior = _thinned(_checked(fit, idata), draws)
    rng = _generator(seed)
    design, index = fit.design, fit.schema.index
    if newdata is not None:
        design, index = _new_design(fit, newdata, allow_new_levels), frame_of(newdata).index
    beta, sigma = _flat(posterior["beta"]), _flat(posterior["sigma"])
    parts = zip(fit.schema.term_names, design.terms, strict=True)
    b = [_level_effects(posterior, name, term.n_levels, rng) for name, term in parts]
    noise = 1 if design.weights is None else design.weights**-0.5
    out = np.empty((len(beta), design.n))
    for part in _chunks(out):
        mean = means(design, beta[part], [v[part] for v in b])
        out[part] = mean + sigma[part, None] * noise * rng.standard_normal(mean.shape)
    group = "posterior_predictive" if newdata is None else "predictions"
    return _predicted(group, fit.schema.response, out, posterior, index)


@in_float64
def _generator(seed: Any) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key_of(seed))))


def _thinned(posterior: Any, draws: int | None) -> Any:
    """The posterior with so many draws of each chain."""
    there = posterior.sizes["draw"]
    if draws is None:
        return posterior
    if not isinstance(draws, int | np.integer) or not 1 <= draws <= there:
        raise ValueError(f"draws={draws!r}: give an integer from 1 to {there}, the draws that each chain has")
    return posterior.isel(draw=np.arange(draws) * there // draws)


def _flat(variable: Any) -> np.ndarray:
    """(S, …), chain after chain."""
    return _stacked(variable.values)


def _level_effects(posterior: Any, name: str, n_levels: int, rng: np.random.Generator) -> np.ndarray:
    """(S, n_levels, p) the effects of a term: those of the levels there are, then new ones drawn from N(0, Σ)."""
    b, sd = _flat(posterior[f"b_{name}"]), _flat(posterior[f"sd_{name}"])
    draws, there, p = b.shape
    if n_levels == there:
        return b
    correlation = np.tile(np.eye(p), (draws, 1, 1))
    if f"cor_{name}" in posterior:
        first, second = np.triu_indices(p, 1)
        correlation[:, first, second] = correlation[:, second, first] = _flat(posterior[f"cor_{name}"])
    variances, directions = np.linalg.eigh(correlation)
    root = sd[:, :, None] * directions * np.sqrt(np.maximum(variances, 0))[:, None]  # (S, p, p)
    new = rng.standard_normal((draws, n_levels - there, p)) @ root.mT
    return np.concatenate([b, new], 1)


def _new_design(fit: Fit, newdata: Any, allow_new_levels: bool) -> Design:
    """The design of new rows, without response; a level not seen has a number after those of the fit."""
    schema = fit.schema
    X, parts, offset = schema.new_data(newdata)
    if schema.array_offset:
        raise DataError("the offset was an array, which newdata cannot hold: put offset(column) in the formula")
    terms, rows = [], _grouping_rows(schema, newdata)
    for group, term, part in zip(schema.groups, fit.design.terms, parts, strict=True):
        assert part is not None
        x, codes = part
        unseen = codes < 0
        if unseen.any() and not allow_new_levels:
            raise DataError(
                f"newdata has {unseen.sum()} rows (first: row {np.argmax(unseen)}) with levels of {group.group!r} that "
                "are not in the fit; allow_new_levels=True draws effects for them"
            )
        new, place = np.unique(fit_grouping(group.grouping.atoms, rows)[1][unseen], return_inverse=True)
        codes = codes.copy()
        codes[unseen] = term.n_levels + place
        terms.append(RandomTerm(x, codes, term.n_levels + len(new), term.template))
    return Design(X, np.zeros(len(X)), tuple(terms), offset=offset)


def _grouping_rows(schema: Schema, newdata: Any) -> Rows:
    """The columns of newdata that the grouping factors are made of."""
    frame, atoms = frame_of(newdata), [a for g in schema.groups for a in g.grouping.atoms]
    return Rows(frame.n, resolve_again(atoms, frame, schema.constants), schema.constants)


def _predicted(group: str, response: str, y: np.ndarray, posterior: Any, index: pd.Index) -> Any:
    """InferenceData of responses (S, n), with the chains and draws of the posterior."""
    import arviz

    coords = {"chain": posterior["chain"].values, "draw": posterior["draw"].values, "row": row_labels(index)}
    shaped = y.reshape(posterior.sizes["chain"], posterior.sizes["draw"], -1)
    data = arviz.dict_to_dataset({response: shaped}, coords=coords, dims={response: ["row"]})
    return arviz.InferenceData(**{group: data})
