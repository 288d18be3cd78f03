"""Replicates of one scenario, each fitted once: what all analyses of a study read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

from ..core.batch import Estimates, OfProblem, estimate_many
from ..core.crossprod import CrossProducts, cross_products
from ..core.design import Design
from ..core.designs import estimate_designs
from ..core.estimate import Estimate
from ..core.freedom import kenward_roger_pieces, satterthwaite_pieces
from ..errors import DataError
from ..inference.df import Freedom, FTest, check_method, kenward_roger, satterthwaite
from ..precision import in_float64
from ..refitting import BatchFit, refit_many
from .population import Population

Change = Callable[[Design], Design]  # to a smaller model


@dataclass(frozen=True, eq=False)
class Sample:
    """B responses drawn from a population, and its model fitted to each.

    key : for analyses that draw random numbers; first : the number of the first replicate.
    """

    population: Population
    responses: np.ndarray
    key: Any
    first: int

    @cached_property
    def fits(self) -> BatchFit:
        """Of the model's own criterion."""
        return refit_many(self.population, self.responses)

    @property
    def estimates(self) -> Estimates:
        """θ, β, σ, criterion and status of each fit."""
        return self.fits.estimates

    @cached_property
    def ok(self) -> np.ndarray:
        """(B,) whether the fit converged."""
        return self.estimates.converged

    @cached_property
    def _freedoms(self) -> dict[str | None, list[tuple[np.ndarray, Freedom]]]:
        return {}

    def freedom(self, ddf: str | None) -> list[tuple[np.ndarray, Freedom]]:
        """(places of fits, what `ddf` says of their tests), of all that converged."""
        if ddf not in self._freedoms:
            self._freedoms[ddf] = self._freedom(ddf)
        return self._freedoms[ddf]

    def _freedom(self, ddf: str | None) -> list[tuple[np.ndarray, Freedom]]:
        return list(self.fits.freedoms(ddf))

    def f_test(self, L: np.ndarray, value: np.ndarray, ddf: str | None) -> FTest:
        """Of Lβ = value for L (k, p): arrays (B,), NaN where there is no fit."""
        found = np.full((4, len(self.ok)), np.nan)
        for part, free in self.freedom(ddf):
            found[:, part] = [np.broadcast_to(a, part.shape) for a in free.f_test(L, self.estimates.beta[part], value)]
        return FTest(*found)

    @in_float64
    def criterion(self, change: Change | None, reml: bool) -> np.ndarray:
        """(B,) the least ML or REML criterion of the model, or of a smaller one."""
        if change is not None:
            return self.refitted(change, reml).criterion
        return self.estimates.criterion if reml == self.population.reml else self._other_criterion

    @cached_property
    def _other_criterion(self) -> np.ndarray:
        """(B,) of the model, the ML criterion if it is estimated by REML, and the other way round."""
        return self.refitted(None, not self.population.reml).criterion

    def refitted(self, change: Change | None, reml: bool) -> Estimates:
        """The fits of the model, or of a smaller one, by one of the criteria."""
        return estimate_many(self.problem(change), self.responses, reml)

    @in_float64
    def problem(self, change: Change | None) -> CrossProducts:
        """What the model, or a smaller one, is fitted from."""
        design = self.population.design
        return self.population.cross_products if change is None else cross_products(change(design), orthonormal=True)


@dataclass(frozen=True, eq=False)
class FreshSample(Sample):
    """Replicates whose covariates were drawn anew, so that each has a design of its own. designs : with responses."""

    designs: Sequence[Design] = ()

    @cached_property
    def _kept(self) -> Estimates:
        """With all pieces that tests of β need: the padded cross-products are not there to be asked again."""
        return estimate_designs(self.designs, self.population.reml, _PIECES[self.population.reml])

    @property
    def estimates(self) -> Estimates:
        """θ, β, σ, criterion and status of each fit."""
        return self._kept

    def _freedom(self, ddf: str | None) -> list[tuple[np.ndarray, Freedom]]:
        reml, places = self.population.reml, np.flatnonzero(self.ok)
        check_method(ddf, reml)
        vcov, wide, free, kr = jax.tree.map(lambda a: a[places], self._kept.kept)
        if ddf == "satterthwaite" and free.shape[1]:
            found: Freedom = satterthwaite(wide, free)
        elif ddf == "kenward-roger" and free.shape[1]:
            found = kenward_roger(self._kept.sigma[places], kr)
        else:
            rows = np.array([d.n for d in self.designs])[places]
            found = Freedom(vcov) if ddf is None else Freedom(vcov, rows - float(vcov.shape[-1]))
        return [(places, found)]

    @in_float64
    def refitted(self, change: Change | None, reml: bool) -> Estimates:
        """The fits of the model, or of a smaller one, by one of the criteria."""
        return estimate_designs([d if change is None else change(d) for d in self.designs], reml)

    def problem(self, change: Change | None) -> CrossProducts:
        """There is no one design to do this with: DataError."""
        raise DataError("this analysis needs the same covariates in every replicate: leave redraw= out")


def _pieces(e: Estimate, cp: CrossProducts, reml: bool) -> Any:
    kr = kenward_roger_pieces(e.theta, cp) if reml and len(e.theta) else ()
    wide = satterthwaite_pieces(e.theta, e.sigma, cp, reml) if len(e.theta) else ()
    return e.vcov, wide, e.free, kr


_PIECES = {reml: OfProblem(partial(_pieces, reml=reml)) for reml in (False, True)}
