"""anova(fit) → F tests of the terms of one model; anova(fit0, fit1, …) → likelihood-ratio tests of several."""

import numpy as np
import pandas as pd

from ..fit import Fit
from .compare import compare_fits
from .df import freedom
from .hypotheses import hypotheses
from .nesting import check_fits

COLUMNS = ["sumsq", "meansq", "numdf", "dendf", "F", "p"]
KINDS = {"1": 1, "2": 2, "3": 3, "I": 1, "II": 2, "III": 3}


def anova(*fits: Fit, type: int | str = 3, ddf: str | None = "satterthwaite", refit: bool = True) -> pd.DataFrame:
    """The analysis of variance of one fit, or likelihood-ratio tests of several.

    One fit: an F test for each term of the fixed part but the intercept; columns sumsq and meansq (as lmerTest: F σ̂²,
    not a decomposition of y's sum of squares), numdf, dendf, F and p. type : 1 (or "I"), each term after those before
    it; 2, after all terms that do not contain it; 3, with the terms that contain it averaged over their levels. They
    do not depend on the coding of factors. ddf : "satterthwaite", "kenward-roger" (F is scaled, sumsq is not),
    "residual" (D as it was estimated, n − p), or None, χ²/numdf with infinite dendf.

    Several fits: one table with a row for each, see `inference.compare.compare_fits`; refit : REML fits by ML first.
    Raises ValueError for unknown options, DataError for Kenward–Roger on an ML fit or fits that do not compare.
    """
    check_fits(fits, "anova", structured=True)
    if len(fits) != 1:
        return compare_fits(*fits, refit=refit)
    kind = KINDS.get(str(type))
    if kind is None:
        raise ValueError(f"type={type!r}: choose 1, 2 or 3")
    (fit,) = fits
    beta, variance = fit.estimate.beta, fit.sigma**2
    free = freedom(fit.estimate, fit.cross_products, fit.reml, ddf)
    rows = {}
    for term, L in hypotheses(fit.schema, fit.design.X, kind).items():
        test = free.f_test(L, beta)
        meansq = test.F / test.scaling * variance
        rows[term] = [test.numdf * meansq, meansq, test.numdf, test.dendf, test.F, test.p]
    numbers = dict(zip(COLUMNS, np.reshape([*rows.values()], (-1, 6)).T, strict=True))
    numbers["numdf"] = numbers["numdf"].astype(int)
    table = pd.DataFrame(numbers, pd.Index(rows, name="term"))
    table.columns.name = table.attrs["note"] = f"type {'I' * kind}, {ddf or 'χ²'}"
    return table
