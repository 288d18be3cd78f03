"""bootstrap_lrt(null, alt): the likelihood-ratio test whose null distribution is simulated."""

from functools import partial
from typing import Any

import numpy as np
from scipy.special import chdtrc

from ..core.batch import MEMORY, estimate_many
from ..core.estimate import estimate
from ..fit import Fit
from ..precision import in_float64, to_numpy
from ..refitting import key_of
from .intervals import clopper_pearson
from .nesting import check_comparable, check_fits, likelihood_ratio, without_rounding
from .results import BootstrapTest
from .sampling import (
    LARGEST,
    check_replicates,
    chunks,
    failed,
    parametric,
    response_bytes,
)

LOOK = 1024  # draws before the first look of early stopping
CONFIDENCE = 0.999  # that a look must have in p being on one side of alpha


@in_float64
def bootstrap_lrt(
    null: Fit,
    alt: Fit,
    n: int = 1000,
    seed: Any = 0,
    alpha: float | None = None,
    memory: int = MEMORY,
    progress: bool = False,
) -> BootstrapTest:
    """Tests a model against a larger one by the likelihood ratio, with a simulated null distribution.

    null, alt : fits of `lmer` or `lm` to the same response, in either order; the one with fewer parameters is the null.
    They may differ in fixed effects, random effects or both, and REML fits are refitted by ML. n responses are drawn
    from the ML fit of the null (parametric bootstrap; Davison & Hinkley 1997, section 4.2) and both models are fitted
    to each. That p-value holds where χ² does not: for variances, which are zero under the null, and in small samples.

    p_value is the share r/n of draws at least as large as the observed statistic, p_se its standard error
    √(p(1 − p)/n), and p_value_plus_one = (1 + r)/(1 + n). Statistics below 1e-8 of the deviance count as zero. A draw
    whose statistic is not finite counts as large.
    alpha : stop early, when it is clear on which side of alpha p lies: after 1024, 2048, 4096, … draws, if the 99.9 %
    Clopper-Pearson interval of p excludes alpha. `.n` tells how many were drawn. A sequential rule: the decision is
    wrong with a probability of at most 0.001 at each look; p_se holds for a fixed n only.
    seed, memory, progress : as in `bootstrap`.
    Raises DataError where the fits differ in rows, response, weights or offset, where the columns of the null's X are
    not in the span of the other's, and where the null has the larger likelihood, so that it cannot be nested.
    """
    check_replicates(n)
    check_fits((null, alt), "bootstrap_lrt")
    null, alt = (null, alt) if null.df <= alt.df else (alt, null)
    check_comparable(null, alt)
    e0, e1 = (to_numpy(estimate(f.cross_products, reml=False)) for f in (null, alt))
    observed = likelihood_ratio(float(e0.criterion), float(e1.criterion))
    bytes_each = max(response_bytes(null.design), response_bytes(alt.design))
    todo = chunks(n, bytes_each, memory, progress, LARGEST if alpha is None else LOOK)
    responses, draws, n_failed = partial(parametric(null.design, e0), key_of(seed)), np.empty(n), 0
    for first, count in todo:
        t, bad = _statistics(null, alt, responses(first, todo.size), memory)
        done = first + count
        draws[first:done] = without_rounding(t, e0.criterion)[:count]
        n_failed += int(bad[:count].sum())
        if alpha is not None and _is_look(done) and is_decided(_as_large(draws[:done], observed), done, alpha):
            break
    return _result(null, alt, observed, draws[:done], n_failed)


def _statistics(null: Fit, alt: Fit, y: Any, memory: int) -> tuple[np.ndarray, np.ndarray]:
    """(B,) likelihood ratios of the responses y, (B, n), and whether a fit did not converge."""
    small, full = (estimate_many(f.cross_products, y, reml=False, memory=memory) for f in (null, alt))
    return small.criterion - full.criterion, failed(small.status) | failed(full.status)


def _as_large(draws: np.ndarray, observed: float) -> int:
    """How many draws are at least as large as the observed one, or not finite."""
    return int(np.sum(~(draws < observed)))


def _is_look(n: int) -> bool:
    """Whether n is LOOK times a power of two."""
    looks, rest = divmod(n, LOOK)
    return rest == 0 and looks & (looks - 1) == 0


def is_decided(large: int, n: int, alpha: float) -> bool:
    """Whether the Clopper-Pearson interval of `large` out of n excludes alpha."""
    lower, upper = clopper_pearson(large, n, CONFIDENCE)
    return not lower <= alpha <= upper


def _result(null: Fit, alt: Fit, observed: float, draws: np.ndarray, n_failed: int) -> BootstrapTest:
    n, large, df = len(draws), _as_large(draws, observed), alt.df - null.df
    p = large / n
    return BootstrapTest(
        statistic=observed,
        df=df,
        p_value=p,
        p_se=float(np.sqrt(p * (1 - p) / n)),
        draws=draws,
        null=null.schema.formula,
        alternative=alt.schema.formula,
        n=n,
        n_failed=n_failed,
        share_zero=float(np.mean(draws == 0)),
        p_value_plus_one=(1 + large) / (1 + n),
        p_chisq=float(chdtrc(df, observed)),
    )
