"""The parameters of a fit on the scale of standard deviations and correlations: names, values, and choosing some."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..core.covariance import Template
from ..core.namespace import namespace
from ..core.plan import term_slices
from ..core.residual import natural
from ..errors import DataError
from ..fit import Fit
from ..formula.hints import suggest


class Parameter(NamedTuple):
    """One parameter, by lme4's long name on patsy's columns. place : among all of the fit.

    kind : "sd", "cor", "phi", "sigma" or "beta". term : its random-effects term. columns : the column of that term or
    of X, or the two that are correlated; the place in φ.
    """

    place: int
    name: str
    kind: str
    term: int = -1
    columns: tuple[int, ...] = ()


def parameters_of(fit: Fit) -> list[Parameter]:
    """All parameters, as lme4 orders them: by term the lower triangle column by column, then φ, σ and β."""
    out: list[tuple] = []
    for k, (term, names) in enumerate(zip(fit.design.terms, fit.schema.groups, strict=True)):
        for c, r in _cells(term.template):
            kind, pair = ("sd", names.columns[c]) if r == c else ("cor", f"{names.columns[r]}.{names.columns[c]}")
            out.append((f"{kind}_{pair}|{names.group}", kind, k, (c,) if r == c else (c, r)))
    out += [(name, "phi", -1, (j,)) for j, name in enumerate(fit.phi.index)]
    out.append(("sigma", "sigma"))
    out += [(name, "beta", -1, (j,)) for j, name in enumerate(fit.schema.fixed_names)]
    return [Parameter(i, *fields) for i, fields in enumerate(out)]


def chosen(available: Sequence[Parameter], names: Any) -> list[Parameter]:
    """Those of these names, in the order of `available`; all for None. Raises DataError for a name not among them."""
    if names is None:
        return list(available)
    wanted = [names] if isinstance(names, str) else list(names)
    known = [p.name for p in available]
    for name in wanted:
        if name not in known:
            raise DataError(f"no parameter {name!r} in {', '.join(known)}{suggest(str(name), known)}")
    return [p for p in available if p.name in wanted]


def values(templates: Sequence[Template], factors: Sequence[Any], sigma: Any, beta: Any, phi: Any = ()) -> Any:
    """(…, k) the numbers of `parameters_of`, from each term's T (…, p, p), σ (…) and β (…, p).

    There is no correlation (NaN) with what does not vary.
    phi : the parameters of the residual structure as they are reported, each (…).
    """
    xp, out = namespace((list(factors), sigma, beta)), []
    with np.errstate(invalid="ignore"):
        for template, t in zip(templates, factors, strict=True):
            covariance = xp.asarray(sigma)[..., None, None] ** 2 * t @ t.mT
            sd = xp.sqrt(xp.diagonal(covariance, axis1=-2, axis2=-1))
            cells = _cells(template)
            out += [sd[..., c] if r == c else covariance[..., r, c] / (sd[..., r] * sd[..., c]) for c, r in cells]
    return xp.concatenate([xp.stack([*out, *phi, sigma], -1), beta], -1)


@lru_cache(maxsize=64)
def statistic(templates: tuple[Template, ...], structures: tuple[Any, ...] = ()) -> Callable:
    """`values` of a `core.Estimate`, as one function object for each set of templates and residual structures."""
    slices = term_slices(templates)

    def all_parameters(e):
        factors = [t(e.theta[s]) for t, s in zip(templates, slices, strict=True)]
        phi = natural(structures, e.theta[slices[-1].stop if slices else 0 :]) if structures else ()
        return values(templates, factors, e.sigma, e.beta, phi)

    return all_parameters


def _cells(template: Template) -> list[tuple[int, int]]:
    """(column, row) of what is free in a term's covariance matrix."""
    if template.is_diagonal:
        return [(c, c) for c in range(template.p)]
    return [(c, r) for c in range(template.p) for r in range(c, template.p)]
