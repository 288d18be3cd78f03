"""No times: do Gibbs and NUTS, which share no sampling code, find the same posteriors? In Monte Carlo standard errors.

Default priors, but for two: those of the notes' example are the notes', and with pulp's four operators the default
leaves the standard deviation so heavy a tail (kurtosis 53, by quadrature) that the standard error of its standard
deviation cannot be estimated from any run.
"""

from typing import Any

import numpy as np
import pandas as pd

import lmmjax as lj

from . import batch
from .gibbs import notes_priors
from .harness import Row

DRAWS, THIN, OF_NUTS = 10_000, 2, 4000  # of each of four chains
LIMIT = 4  # standard errors
NESTED = "Fat ~ 1 + (1 | Lab) + (1 | Lab:Technician) + (1 | Lab:Technician:Sample)"
CASES = {
    "pulp, sd ~ half-t(7) of scale 1": ("pulp", batch.PULP[1], lj.Priors(terms={"operator": lj.HalfT(7, 1)})),
    "the notes' example": ("one_way", "y ~ 1 + (1 | subject)", notes_priors()),
    "sleepstudy": ("sleepstudy", batch.SLEEP[1], None),
    "eggs": ("eggs", NESTED, None),
    "psid" if batch.panel_is_there() else "like psid": ("psid", batch.PANEL, None),
}


def run() -> list[Row]:
    """Rows of the largest deviations for each data set."""
    rows: list[Row] = []
    for case, (name, formula, priors) in CASES.items():
        data = batch.read(name)
        gibbs = lj.gibbs(formula, data, priors, draws=DRAWS, thin=THIN, seed=1)
        nuts = lj.nuts(formula, data, priors, draws=OF_NUTS, seed=2, target_accept=0.95)
        rows += compared(case, gibbs, nuts)
    return rows


def compared(case: str, gibbs: Any, nuts: Any) -> list[Row]:
    """Largest |difference| of means and of standard deviations over all numbers of the posterior, and the chains."""
    ours, theirs = described(gibbs), described(nuts)
    rows = []
    for what in ("mean", "sd"):
        z = (ours[what] - theirs[what]) / np.hypot(ours[f"mcse_{what}"], theirs[f"mcse_{what}"])
        worst = z.abs().idxmax()
        note = f"{len(z)} numbers; {worst}: {ours[what][worst]:.4g} and {theirs[what][worst]:.4g}"
        size = float(z.abs().max())
        rows.append(Row(case, "Gibbs and NUTS", f"{what}s apart, at most", size, size, 1, "se", LIMIT, note))
    for contestant, table, draws in (("lmmjax, gibbs", ours, gibbs), ("lmmjax, nuts", theirs, nuts)):
        rhat = float(table["r_hat"].max())
        note = f"least effective sample size {table['ess_bulk'].min():.0f}, in the tails {table['ess_tail'].min():.0f}"
        if "diverging" in draws.sample_stats:
            note += f"; {int(draws.sample_stats['diverging'].sum())} divergences"
        rows.append(Row(case, contestant, "largest R-hat", rhat, rhat, 1, "", 1.01, note))
    return rows


def described(draws: Any) -> pd.DataFrame:
    """A row for each number, with ArviZ's moments and diagnostics."""
    import arviz

    parts = [arviz.summary(draws, kind=kind, round_to="none") for kind in ("stats", "diagnostics")]
    return parts[0].join(parts[1])
