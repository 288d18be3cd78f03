"""profile(fit) → Profile: the profile likelihood of standard deviations, correlations, σ and fixed effects.

Bates et al. (2015), J. Stat. Softw. 67(1), section 5.1; here every point is an exact constrained minimum of the
profiled ML deviance, and every limit a root of it, without interpolation.
"""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import ndtri

from ..core.correlation import Unstructured
from ..core.estimate import estimate
from ..core.optimize import CONVERGED, STALLED
from ..core.plan import term_slices
from ..core.profiling import Chart, HeldColumn, HeldColumnOfRows, Space, minimise_on, squared
from ..errors import ConvergenceWarning, DataError
from ..fit import Fit
from ..guard import caller
from ..precision import in_float64, to_numpy
from ..refitting import given_theta
from .intervals import check_level
from .nesting import check_fits
from .parameters import Parameter, chosen, parameters_of, values

POINTS = 8  # of a profile, on each side
RANGE = 10.0  # of log σ on each side; where ζ does not end it there is no limit but zero or infinity
GROWTH = 4.0  # of the distance from the estimate, at most, in one step
LOWER = 1e-6  # a decrease of the deviance that is no rounding
ROUNDING = 1e-7  # a standard deviation, over σ and in units of its column, that is zero


class Point(NamedTuple):
    """A constrained minimum. u : the held parameter, for σ its logarithm, for a residual structure's the free φ.

    zeta : signed root of the deviance's excess. w : the coordinates on its chart. numbers : (k,) all parameters there.
    """

    u: float
    zeta: float
    w: np.ndarray
    numbers: np.ndarray


class Likelihood:
    """The ML fit that a profile starts from. numbers : (k,) its parameters."""

    def __init__(self, fit: Fit) -> None:
        self.fit, self.ml = fit, to_numpy(estimate(fit.cross_products, reml=False))
        self.templates = tuple(t.template for t in fit.design.terms)
        self.space = Space(self.templates, squared(fit.cross_products), self.ml.theta, float(self.ml.sigma))
        chart, w = self.space.chart(), self.space.start()
        self.numbers = self.numbers_at(chart, w, self.ml.beta)

    def minimum(self, chart: Chart, start: np.ndarray, cp: Any) -> tuple[float, np.ndarray, np.ndarray]:
        """The least deviance on a chart, w (m + 1,) and β̂ (p,) there; NaN where the optimiser failed."""
        found = np.asarray(minimise_on(chart, start, cp))
        good = int(found[1]) in (CONVERGED, STALLED)
        return found[0] if good else np.nan, found[2 : 2 + len(start)], found[2 + len(start) :]

    def numbers_at(self, chart: Chart, w: np.ndarray, beta: np.ndarray) -> np.ndarray:
        """(k,) all parameters at a point of a chart."""
        at, plan, structure = chart(w), self.space.cp.plan, self.fit.design.residual
        factors = [t(at[s]) for t, s in zip(plan.templates, plan.theta_slices(), strict=True)]
        phi = () if structure is None else np.asarray(structure.natural(at[plan.n_theta : -1]))
        return values(self.templates, factors, at[-1], beta, phi)


class Curve:
    """The profile of one parameter; remembers every point that it has computed."""

    def __init__(self, likelihood: Likelihood, parameter: Parameter) -> None:
        self.likelihood, self.parameter = likelihood, parameter
        space, kind = likelihood.space, parameter.kind
        self.columns = parameter.columns if parameter.term >= 0 else ()
        held = HeldColumn if space.cp.unwhitened is None else HeldColumnOfRows
        self.column = held.of(space.cp, parameter.columns[0]) if kind == "beta" else None
        self.u = float(np.log(self.estimate) if kind == "sigma" else self.estimate)
        if kind == "phi":
            self.u = float(likelihood.ml.theta[likelihood.fit.design.n_theta + parameter.columns[0]])
        line = (self.u - RANGE, self.u + RANGE)
        bounds = {"sd": (0.0, np.inf), "cor": (-1.0, 1.0), "sigma": line, "phi": line}
        self.bounds = bounds.get(kind, (-np.inf, np.inf))
        self.points = {self.u: Point(self.u, 0.0, space.start(parameter.term, self.columns), likelihood.numbers)}

    @property
    def estimate(self) -> float:
        """Of the parameter, by ML."""
        return float(self.likelihood.numbers[self.parameter.place])

    @cached_property
    def identified(self) -> bool:
        """Whether the estimate exists: a correlation with what does not vary does not."""
        if self.parameter.kind != "cor":
            return True
        term, space = self.parameter.term, self.likelihood.space
        t = space.templates[term](space.theta[term_slices(space.templates)[term]])
        sd = [space.sigma * np.linalg.norm(t[c]) / space.unit(term, c) for c in self.columns]
        return bool(min(sd) > ROUNDING)

    @cached_property
    def step(self) -> float:
        """A first step away from the estimate."""
        kind, e = self.parameter.kind, self.likelihood.ml
        if kind == "beta":
            return float(np.sqrt(e.vcov[self.parameter.columns * 2]))
        if kind == "sigma":
            return float(1 / np.sqrt(self.likelihood.fit.nobs))
        if kind == "phi":
            return 0.2
        if kind == "cor":
            return 0.05 + 0.2 * (1 - abs(self.u))
        return 0.2 * max(self.u, self.likelihood.space.unit(self.parameter.term, self.columns[0]))

    def at(self, u: float) -> Point:
        """The minimum with the parameter held at u."""
        if u not in self.points:
            nearest = min((p for p in self.points.values() if np.isfinite(p.zeta)), key=lambda p: abs(p.u - u))
            deviance, w, numbers = self._minimum(u, nearest.w)
            excess = deviance - float(self.likelihood.ml.criterion)
            if excess < -LOWER:
                self._warn(f"the deviance falls {-excess:.2g} below that of the fit: refit from another start")
            self.points[u] = Point(u, np.copysign(np.sqrt(max(excess, 0.0)), u - self.u), w, numbers)
        return self.points[u]

    def _minimum(self, u: float, w: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """The deviance, w and all parameters."""
        space, kind, of = self.likelihood.space, self.parameter.kind, self.parameter.term
        phi = self.parameter.columns[0] if kind == "phi" else None
        chart = space.chart(of, self.columns, u, kind == "sigma", phi)
        w = np.append(w[:-1], u) if kind == "sigma" else w
        cp = self.column.at(u) if self.column else space.cp
        deviance, w, beta = self.likelihood.minimum(chart, w, cp)
        numbers = self.likelihood.numbers_at(chart, w, self.column.coefficients(beta, u) if self.column else beta)
        if kind == "cor":
            deviance, numbers = min((deviance, numbers), *self._without_one, key=lambda found: found[0])
            numbers = np.where(np.arange(len(numbers)) == self.parameter.place, u, numbers)
        return deviance, w, numbers

    @cached_property
    def _without_one(self) -> list[tuple[float, np.ndarray]]:
        """The deviance and the parameters where either standard deviation is zero: the edge of each correlation's
        domain, where any value of it does as well."""
        space, out = self.likelihood.space, []
        for c in self.columns:
            chart = space.chart(self.parameter.term, (c,), 0.0)
            deviance, w, beta = self.likelihood.minimum(chart, space.start(self.parameter.term, (c,)), space.cp)
            out.append((deviance, self.likelihood.numbers_at(chart, w, beta)))
        return out

    def limit(self, zeta: float, side: int) -> float:
        """The parameter where |ζ| first reaches `zeta` on one side (−1 or 1); its bound where ζ stays below."""
        if not self.identified:
            return np.nan
        point = self._reach(zeta, side)
        if not self.columns and abs(point.zeta) < zeta - LOWER:
            return self._value(side * np.inf)
        return self._value(point.u) if np.isfinite(point.zeta) else np.nan

    def trace(self, zeta: float) -> list[Point]:
        """Points of equally spaced ζ, POINTS on each side as far as there are so many, and the estimate."""
        if not self.identified:
            return []
        steps = np.arange(1, POINTS + 1) / POINTS * zeta
        found = [self.at(self.u), *(self._reach(z, side) for side in (-1, 1) for z in steps)]
        return sorted({p.u: p for p in found if np.isfinite(p.zeta)}.values())

    def _reach(self, zeta: float, side: int) -> Point:
        """The point where |ζ| first reaches `zeta`, or the last one where it never does."""
        inside, outside = self._bracket(zeta, side)
        if outside is None:
            return inside
        if not np.isfinite(outside.zeta):
            self._warn(f"no minimum of the deviance was found at {self._value(outside.u):.4g}; the limit is unknown")
            return outside
        width = abs(outside.u - self.u)
        root = brentq(lambda u: abs(self.at(u).zeta) - zeta, inside.u, outside.u, xtol=1e-11 * width)
        return self.at(root)

    def _bracket(self, zeta: float, side: int) -> tuple[Point, Point | None]:
        """The last point with |ζ| below `zeta` on the way out, and the first beyond; None where there is none."""
        known = sorted((p for p in self.points.values() if (p.u - self.u) * side >= 0), key=lambda p: abs(p.u - self.u))
        inside = known[0]
        for p in known[1:]:
            if abs(p.zeta) >= zeta:
                return inside, p
            inside = p
        while inside.u != self.bounds[side > 0] and np.isfinite(inside.u):
            p = self.at(float(np.clip(inside.u + side * self._step(inside, zeta), *self.bounds)))
            if not abs(p.zeta) < zeta:
                return inside, p
            inside = p
        return inside, None

    def _step(self, inside: Point, zeta: float) -> float:
        """How far ζ is from `zeta`, by its mean slope so far, and a little more."""
        distance = abs(inside.u - self.u)
        if distance == 0:
            return self.step
        wanted = 1.05 * zeta * distance / abs(inside.zeta) if inside.zeta else np.inf
        return min(wanted, GROWTH * distance) - distance

    def _value(self, u: float) -> float:
        structure = self.likelihood.fit.design.residual
        if self.parameter.kind == "phi" and structure is not None:  # each number is a function of its own φ
            place = self.parameter.columns[0]
            free = np.where(np.arange(structure.n_phi) == place, u, 0.0)
            return float(structure.natural(free)[place])
        return float(np.exp(u)) if self.parameter.kind == "sigma" else u

    def _warn(self, text: str) -> None:
        warnings.warn(f"profile of {self.parameter.name}: {text}", ConvergenceWarning, stacklevel=caller())


@dataclass(frozen=True, eq=False, repr=False)
class Profile:
    """Profiles of some parameters of a fit. curves : by name. level : of the intervals that the points reach to.

    note : what a reader must know.
    """

    curves: dict[str, Curve]
    level: float
    note: str

    @property
    def estimate(self) -> pd.Series:
        """ML estimates of the profiled parameters."""
        return pd.Series({name: c.estimate for name, c in self.curves.items()}, name="estimate")

    @cached_property
    @in_float64
    def table(self) -> pd.DataFrame:
        """The points: parameter, zeta, value of that parameter, and a column for every parameter of the model there.

        zeta : signed square root of the increase of the deviance, zero at the estimate.
        """
        rows, names = [], []
        for name, curve in self.curves.items():
            points = curve.trace(_zeta(self.level))
            rows += [[name, p.zeta, p.numbers[curve.parameter.place], *p.numbers] for p in points]
            names = [p.name for p in parameters_of(curve.likelihood.fit)]
        return pd.DataFrame(rows, columns=["parameter", "zeta", "value", *names])

    @in_float64
    def confint(self, level: float = 0.95) -> pd.DataFrame:
        """Where the deviance is a χ²₁ quantile above its minimum: lower, upper by parameter.

        A limit that is a bound is exact: 0 of a standard deviation, ±1 of a correlation. Of a correlation with an
        effect whose estimated standard deviation is zero both limits are NaN. Raises ValueError for a level outside
        (0, 1).
        """
        check_level(level)
        rows = [[c.limit(_zeta(level), side) for side in (-1, 1)] for c in self.curves.values()]
        out = pd.DataFrame(rows, list(self.curves), ["lower", "upper"])
        out.attrs["note"] = self.note
        return out

    def __repr__(self) -> str:
        return f"Profile likelihood of {', '.join(self.curves)}\n{self.note}".rstrip()


def _zeta(level: float) -> float:
    """√ of the χ²₁ quantile."""
    return float(ndtri((1 + level) / 2))


@in_float64
def profile(fit: Fit, parameters: Any = None, level: float = 0.99) -> Profile:
    """Profiles parameters of a fit: each is held at values around its estimate while all others minimise the deviance.

    parameters : names as in `confint`, or None for all: standard deviations of random effects, their correlations, σ
    and the fixed effects, in lme4's order. level : the points of the table reach to the limits of this level; `confint`
    of the result gives those of any level. A REML fit is profiled by ML, as in lme4, and `.note` says so.
    Standard deviations and correlations of terms whose covariance is a function of other parameters (`covariance=`),
    and unstructured correlations of residuals, have no profile: None leaves them out, their names raise DataError. So
    does a fit with a given θ.
    """
    check_fits((fit,), "profile", structured=True)
    check_level(level)
    if given_theta(fit) is not None:
        raise DataError(f"theta of {fit.schema.formula!r} was given, not estimated: it has no profile")
    everything = parameters_of(fit)
    wanted = chosen(everything, parameters)
    open_ = [p for p in wanted if _has_profile(fit, p)]
    if parameters is not None and len(open_) < len(wanted):
        missing = ", ".join(p.name for p in wanted if p not in open_)
        raise DataError(f"{missing}: functions of other parameters (covariance= or residual=): no profile")
    likelihood = Likelihood(fit)
    curves = {p.name: Curve(likelihood, p) for p in open_}
    return Profile(curves, level, _note(fit, curves, len(wanted) - len(open_)))


def _note(fit: Fit, curves: dict[str, Curve], left_out: int) -> str:
    """One sentence for each thing that a reader must know."""
    notes = ["profiled by ML, though the fit is by REML"] if fit.reml and not fit.is_lm else []
    unknown = [name for name, c in curves.items() if not c.identified]
    if unknown:
        notes.append(f"no limits of {', '.join(unknown)}: a standard deviation is zero at the estimate")
    if left_out:
        notes.append("no profile of covariances that are functions of other parameters")
    return "; ".join(notes)


def _has_profile(fit: Fit, p: Parameter) -> bool:
    """Not covariances made by a function (covariance=), nor unstructured correlations of residuals."""
    if p.kind != "phi":
        return p.term < 0 or fit.design.terms[p.term].template.filled
    correlation = None if fit.design.residual is None else fit.design.residual.correlation
    return not isinstance(correlation, Unstructured) or p.columns[0] >= correlation.n_phi
