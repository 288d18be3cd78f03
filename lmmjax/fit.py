"""Fit: a fitted model with its names, and what a design and its names become."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from .certificate import Certificate, certify, vanished_directions
from .core.criterion import expansion
from .core.crossprod import CrossProducts, cross_products
from .core.design import Design
from .core.effects import conditional_variances, leverages, linear_predictor
from .core.estimate import Estimate, estimate
from .core.optimize import CONVERGED, FIXED, STATUS
from .errors import ConvergenceWarning, DroppedWarning
from .formula import Schema
from .guard import advice, caller, check_independent, check_residual, check_response, checked_theta
from .inference.df import freedom, t_tails
from .precision import float64, in_float64, to_numpy
from .predict import predict, standardised
from .tables import Summary, quantile_lines, varcorr_rows

TITLES = {
    "satterthwaite": "Satterthwaite's method",
    "kenward-roger": "Kenward-Roger's method",
    "residual": "residual degrees of freedom",
}
RESIDUALS = ("response", "pearson", "scaled", "normalized")


class RandomEffects(dict):
    """Per grouping factor a DataFrame, levels by columns. cond_var : per grouping factor (ℓ, p, p), or None."""

    cond_var: dict[str, np.ndarray] | None = None


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted linear mixed model: names (`schema`), arrays (`design`, `cross_products`) and `estimate`.

    Arrays are NumPy float64. `reml` says which criterion was minimised.
    """

    schema: Schema
    design: Design
    cross_products: CrossProducts
    estimate: Estimate
    reml: bool

    @property
    def theta(self) -> np.ndarray:
        """(m,) lower triangles of the relative covariance factors, column by column, in lme4's order of terms."""
        return self.estimate.theta[: self.design.n_theta]

    @cached_property
    @in_float64
    def phi(self) -> pd.Series:
        """Parameters of the residual structure by name: correlations, ratios of standard deviations and powers; empty
        without one."""
        structure, fitted = self.design.residual, self.schema.residual
        if structure is None or fitted is None:
            return pd.Series([], [], dtype=float, name="estimate")
        free = self.estimate.theta[self.design.n_theta :]
        return pd.Series(to_numpy(structure.natural(free)), list(fitted.names), name="estimate")

    @property
    def sigma(self) -> float:
        """Residual standard deviation, in units of the response (for prior weight one)."""
        return float(self.estimate.sigma)

    @property
    def fixef(self) -> pd.Series:
        """Fixed effects by column of X."""
        return pd.Series(self.estimate.beta, self.schema.fixed_names, name="estimate")

    @property
    def vcov(self) -> pd.DataFrame:
        """Covariance matrix of the fixed effects, at θ̂ and σ̂."""
        names = self.schema.fixed_names
        return pd.DataFrame(self.estimate.vcov, names, names)

    @property
    def varcorr(self) -> pd.DataFrame:
        """Variances and covariances: group, name1, name2 (missing for a variance), vcov, sdcor (sd or correlation)."""
        rows: list[tuple] = []
        for group, columns, t in zip(self.schema.term_names, self._columns, self.templates, strict=True):
            rows += varcorr_rows(group, columns, self.sigma * t)
        rows.append(("Residual", None, None, self.sigma**2, self.sigma))
        return pd.DataFrame(rows, columns=["group", "name1", "name2", "vcov", "sdcor"])

    @property
    def templates(self) -> list[np.ndarray]:
        """Tᵢ(θ̂) of each term, (pᵢ, pᵢ)."""
        slices = self.cross_products.plan.theta_slices()
        return [t.template(self.theta[s]) for t, s in zip(self.design.terms, slices, strict=True)]

    @property
    def _columns(self) -> list[list[str]]:
        return [list(g.columns) for g in self.schema.groups]

    @property
    def nobs(self) -> int:
        """Rows used."""
        return self.design.n

    @property
    def df(self) -> int:
        """Parameters: fixed effects, θ, those of the residual structure and σ."""
        return self.design.p + len(self.estimate.theta) + 1

    @property
    def df_resid(self) -> int:
        """n minus the number of parameters, σ among them where there are random effects, as in R."""
        return self.nobs - self.df + self.is_lm

    @property
    def is_lm(self) -> bool:
        """Whether V is σ²W⁻¹: neither random effects nor a residual structure."""
        return not self.design.terms and self.design.residual is None

    @property
    def deviance(self) -> float:
        """Profiled ML deviance at θ̂, also of a REML fit."""
        return float(self.estimate.deviance)

    @property
    def reml_criterion(self) -> float:
        """Profiled REML criterion at θ̂, also of an ML fit."""
        e, nu = self.estimate, self.nobs - self.design.p
        of_sigma = nu * np.log(e.prss / nu) - self.nobs * np.log(e.prss / self.nobs)
        return float(e.deviance + e.log_rx + of_sigma - self.design.p * (1 + np.log(2 * np.pi)))

    @property
    def loglik(self) -> float:
        """Log-likelihood; the restricted one of a REML fit, the full one of `lm`, as in R."""
        return -0.5 * (self.reml_criterion if self.reml and not self.is_lm else self.deviance)

    @property
    def aic(self) -> float:
        """−2 log-likelihood + 2 df."""
        return 2 * self.df - 2 * self.loglik

    @property
    def bic(self) -> float:
        """−2 log-likelihood + log(n) df."""
        return np.log(self.nobs) * self.df - 2 * self.loglik

    @cached_property
    @in_float64
    def dic(self) -> float:
        """2·deviance of the ML fit + 2 log-likelihood of this one: what R's arm::display prints as DIC."""
        theta = self.estimate.theta if int(self.estimate.status) == FIXED else None
        deviance = estimate(self.cross_products, reml=False, theta=theta).criterion if self.reml else self.deviance
        return 2 * float(deviance) + 2 * self.loglik

    @property
    def is_singular(self) -> bool:
        """Whether some combination of random effects has a standard deviation below 1e-4 σ, in the columns' units."""
        return bool(self.certificate_of_boundary)

    @cached_property
    def certificate_of_boundary(self) -> tuple[str, ...]:
        """The combinations of random-effects columns that have no variance."""
        found: list[str] = []
        for term, t, columns, group in zip(
            self.design.terms, self.templates, self._columns, self.schema.term_names, strict=True
        ):
            rms = np.sqrt(np.mean(term.x**2, 0))
            found += vanished_directions(t, np.where(rms > 0, rms, 1), columns, group)
        return tuple(found)

    @property
    def converged(self) -> bool:
        """Whether the optimiser's conditions for a minimum held where it stopped (or θ was given)."""
        return int(self.estimate.status) in (CONVERGED, FIXED)

    @cached_property
    @in_float64
    def certificate(self) -> Certificate:
        """Exact gradient and curvature at θ̂, recomputed when first asked for."""
        e = self.estimate
        value, gradient, hessian = e.criterion, e.gradient, e.hessian
        if len(e.theta):
            value, gradient, hessian = to_numpy(expansion(e.theta, self.cross_products, self.reml))
        return certify(value, gradient, hessian, e.scale, e.status, e.iterations, self.certificate_of_boundary)

    def ranef(self, cond_var: bool = False) -> RandomEffects:
        """Conditional modes b̂ per grouping factor, terms on one factor side by side.

        cond_var : also Var(b | y, β̂, θ̂) in `.cond_var[group]`, (ℓ, p, p) in the order of the columns.
        """
        out = RandomEffects()
        for g, b in zip(self.schema.groups, self.estimate.b, strict=True):
            frame = pd.DataFrame(b, g.levels, g.columns)
            out[g.group] = frame if g.group not in out else pd.concat([out[g.group], frame], axis=1)
        if cond_var:
            out.cond_var = self._conditional_variances()
        return out

    @in_float64
    def _conditional_variances(self) -> dict[str, np.ndarray]:
        plan = self.cross_products.plan
        blocks = to_numpy(conditional_variances(self.estimate.theta, self.cross_products))
        factors = plan.chain + plan.rest
        names = [self.schema.groups[f.terms[0]].group for f in factors]
        return {n: self.sigma**2 * v for n, v in zip(names, blocks, strict=True)}

    def coef(self) -> dict[str, pd.DataFrame]:
        """Per grouping factor the fixed effects plus the random ones of each level."""
        out = {}
        for group, effects in self.ranef().items():
            names = list(dict.fromkeys([*self.schema.fixed_names, *effects.columns]))
            base = pd.DataFrame({n: self.fixef.get(n, 0.0) for n in names}, index=effects.index)
            out[group] = base.add(effects, fill_value=0.0)[names]
        return out

    @cached_property
    def fitted(self) -> np.ndarray:
        """(n,) offset + Xβ̂ + Zb̂."""
        return linear_predictor(self.design, self.estimate.beta, self.estimate.b)

    @cached_property
    @in_float64
    def hatvalues(self) -> np.ndarray:
        """(n,) leverages: the derivative of each fitted value in its own response, at θ̂ held, as lme4's hatvalues.

        Raises DataError for a fit with a residual structure.
        """
        check_independent(self.schema, "leverages")
        return to_numpy(leverages(self.theta, self.cross_products))

    def resid(self, kind: str = "response", re_form: str | None = None) -> np.ndarray:
        """(n,) y − fitted; `pearson` times √weights and over the ratios of standard deviations of a residual structure,
        `scaled` divided by σ̂ as well, `normalized` also freed of the residuals' correlations.

        re_form : as in `predict`, which random effects are part of the fitted values: all by default, "~0" none
        (marginal residuals), "~(1|g)" those.
        """
        if kind not in RESIDUALS:
            raise ValueError(f"kind={kind!r}: choose one of {', '.join(RESIDUALS)}")
        residuals = self.design.y - (self.fitted if re_form is None else self.predict(re_form=re_form))
        if kind != "response" and self.design.weights is not None:
            residuals = residuals * np.sqrt(self.design.weights)
        if kind != "response" and self.design.residual is not None:
            free = self.estimate.theta[self.design.n_theta :]
            residuals = standardised(self.design.residual, free, residuals, kind == "normalized")
        return residuals / self.sigma if kind in ("scaled", "normalized") else residuals

    def predict(self, newdata: Any = None, re_form: str | None = None, allow_new_levels: bool = False) -> np.ndarray:
        """Predicted means, (rows,).

        newdata : a table; None predicts the rows of the fit. re_form : None uses all random effects, "~0" none, and
        for example "~(1|g)" those. allow_new_levels : give levels that the fit has not seen the effect zero instead of
        raising DataError. Where residuals are correlated and re_form is None, new rows of a group that the fit has seen
        are predicted from its residuals too: the best linear prediction of their responses, of prior weight one.
        """
        return predict(self.schema, self.design, self.estimate, newdata, re_form, allow_new_levels)

    def summary(self, ddf: str | None = None) -> Summary:
        """Prints like lme4's summary, with `ddf` like lmerTest's; a table in a notebook.

        ddf : None, or what gives each coefficient its degrees of freedom and p-value: "satterthwaite",
        "kenward-roger" (whose standard errors are adjusted), "residual". `.coefficients` has estimate, se, df, t, p.
        Raises ValueError for other values, DataError for Kenward–Roger on an ML fit.
        """
        title = self._title if ddf is None else f"{self._title}. t-tests use {TITLES.get(ddf, ddf)}"
        return Summary(
            heading=f"{title}\nFormula: {self.schema.formula}",
            criteria=self._criteria(),
            scaled_residuals=quantile_lines(self.resid("scaled")),
            varcorr=self.varcorr,
            sizes=self._sizes(),
            coefficients=self._coefficients(ddf),
            notes=tuple(self._notes()),
            structure="" if self.schema.residual is None else repr(self.schema.residual.structure),
            phi=self.phi,
        )

    @property
    def _title(self) -> str:
        if self.is_lm:
            return "Linear model"
        kind = "Linear mixed model" if self.design.terms else "Generalized least squares"
        return f"{kind} fit by {'REML' if self.reml else 'maximum likelihood'}"

    def _criteria(self) -> pd.Series:
        if self.reml and not self.is_lm:
            return pd.Series({"REML criterion": self.reml_criterion})
        names = {"AIC": self.aic, "BIC": self.bic, "logLik": self.loglik, "deviance": self.deviance}
        return pd.Series({**names, "df.resid": self.df_resid})

    def _coefficients(self, ddf: str | None) -> pd.DataFrame:
        free = freedom(self.estimate, self.cross_products, self.reml, ddf)
        se = free.se
        t = self.fixef / se
        if ddf is None:
            return pd.DataFrame({"estimate": self.fixef, "se": se, "t": t})
        df = free.df(np.eye(self.design.p))
        return pd.DataFrame({"estimate": self.fixef, "se": se, "df": df, "t": t, "p": t_tails(t, df)})

    def _sizes(self) -> str:
        levels = {g.group: f"{g.group}, {len(g.levels)}" for g in self.schema.groups}
        text = f"Number of obs: {self.nobs}"
        return f"{text}, groups:  {'; '.join(levels.values())}" if levels else text

    def _notes(self) -> list[str]:
        """One sentence for each thing that a reader must know."""
        notes = []
        if self.schema.n_dropped:
            notes.append(f"rows with missing values left out: {self.schema.n_dropped}")
        if self.schema.dropped:
            notes.append(f"columns left out of X, because others determine them: {', '.join(self.schema.dropped)}")
        if self.is_singular:
            where = "; ".join(self.certificate_of_boundary)
            notes.append(f"boundary (singular) fit: the data ask for no variance of {where}.")
        if not self.converged:
            notes.append(f"not converged: {STATUS[int(self.estimate.status)]}")
        return notes

    def __repr__(self) -> str:
        return self.summary().text

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


def fit_design(schema: Schema, design: Design, reml: bool, theta: Any = None) -> Fit:
    """Estimates a design whose names are known already. Raises and warns as `lmer`."""
    check_response(schema.response, design.y)
    if schema.dropped:
        text = f"X is rank deficient: left out {', '.join(schema.dropped)}, which other columns determine"
        warnings.warn(text, DroppedWarning, stacklevel=caller())
    with float64():
        if design.residual is not None and not design.terms:
            design = design.replace(residual=design.residual.started(_of_least_squares(design)))
        cp = cross_products(design, orthonormal=True)
    return fit_cross_products(schema, design, cp, reml, theta)


@in_float64
def fit_cross_products(schema: Schema, design: Design, cp: CrossProducts, reml: bool, theta: Any = None) -> Fit:
    """The same from cross-products."""
    fixed = None if theta is None else checked_theta(theta, design.n_theta + design.n_phi)
    fit = Fit(schema, design, cp, to_numpy(estimate(cp, reml=reml, theta=fixed)), reml)
    check_residual(schema, design.y, float(cp.response.yy), fit.estimate)
    if not fit.converged:
        warnings.warn(advice(fit.estimate), ConvergenceWarning, stacklevel=caller())
    return fit


def _of_least_squares(design: Design) -> np.ndarray:
    """(n,) √w (y − offset − Xβ̂), β̂ by weighted least squares."""
    root = np.ones(design.n) if design.weights is None else np.sqrt(design.weights)
    y = (design.y if design.offset is None else design.y - design.offset) * root
    q = np.linalg.qr(design.X * root[:, None])[0]
    return y - q @ (q.T @ y)
