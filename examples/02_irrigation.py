"""Split plots: irrigation of whole fields, varieties on their halves (lecture notes, "Example: irrigation split plot
design").

Tests of the fixed effects with adjusted degrees of freedom, and the exact test of the field variance.
"""

from published import Published
from scipy import stats

import lmmjax as lj

irrigation = lj.datasets.load("irrigation")
table = Published()
yields = irrigation["yield"].describe()
print(irrigation.describe(include="all").to_string(na_rep=""), "\n")
names = [f"yield: {name}" for name in ("min", "25%", "50%", "mean", "75%", "max")]
numbers = yields[["min", "25%", "50%", "mean", "75%", "max"]]
table.check_all(names, "34.80 37.60 40.15 40.23 42.73 47.60", numbers)

# A random effect for each half field is a second residual: lme4 refuses it, and so does lmmjax.
try:
    lj.lmer("yield ~ irrigation * variety + (1|field) + (1|field:variety)", irrigation, contrasts="sum")
except lj.DataError as error:
    print(f"Refused: {error}\n")
    print(lj.identifiability("yield ~ irrigation * variety + (1|field) + (1|field:variety)", irrigation), "\n")
else:
    raise AssertionError("the model with (1|field:variety) was fitted")

lmod = lj.lmer("yield ~ irrigation * variety + (1|field)", irrigation, contrasts="sum")
print(lmod, "\n")
ml = lj.lmer("yield ~ irrigation * variety + (1|field)", irrigation, reml=False, contrasts="sum")
dic = 2 * ml.deviance - lmod.reml_criterion
print(f"AIC = {lmod.aic:.1f}, DIC = {dic:.1f}, deviance = {ml.deviance:.1f} (refitted by ML, as R's arm::display)\n")
print(lmod.certificate)
coefficients = lmod.summary().coefficients
table.check_all(list(coefficients.index), "40.23 -1.42 -0.42 -0.83 -0.37 0.08 0.27 0.18", coefficients["estimate"])
errors = [f"se {name}" for name in coefficients.index]
table.check_all(errors, "1.47 2.54 2.54 2.54 0.36 0.63 0.63 0.63", coefficients["se"])
sd_field, sd_residual = lmod.varcorr["sdcor"]
table.check("sd field", "4.02", sd_field)
table.slip("sd field, in the text", "4.03", "4.02", sd_field, "the table beside the text has 4.02")
table.check("sd residual", "1.45", sd_residual)
table.check_all(["AIC", "DIC", "deviance"], "76.5 80.7 68.6", [lmod.aic, dic, ml.deviance])

# Backwards from the largest model, by Kenward and Roger's F.
smaller = {name: f"yield ~ {name} + (1|field)" for name in ("irrigation + variety", "irrigation", "variety")}
both, irrigated, varieties = (lj.lmer(formula, irrigation) for formula in smaller.values())
for dropped, large, small, printed in (
    ("interaction", lmod, both, "0.2452 3.0000 4.0000 1 0.8612"),
    ("variety", both, irrigated, "1.5782 1.0000 7.0000 1 0.2493"),
    ("irrigation", both, varieties, "0.3882 3.0000 4.0000 1 0.7685"),
):
    test = lj.kr_compare(large, small)
    print(f"without the {dropped}: F = {test.statistic:.4f} on {test.df} and {test.ddf:.4f} df, p = {test.p_value:.4f}")
    quantities = [f"KR, {dropped}: {what}" for what in ("F", "ndf", "ddf", "scaling", "p")]
    table.check_all(quantities, printed, [test.statistic, test.df, test.ddf, test.scaling, test.p_value])
print(f"\n{lj.anova(lmod, ddf='kenward-roger').to_string()}\n\n{lj.emmeans(both, 'irrigation')}\n")

# The data are balanced: the exact test is an F test, and simulation must find its p-value.
exact = lj.exact_rlrt(lmod, n=1_000_000, seed=1)
print(exact)
strata = lj.aov("yield ~ irrigation * variety + Error(field)", irrigation).strata
f = strata["field"].loc["Residuals", "meansq"] / strata["Within"].loc["Residuals", "meansq"]
p = stats.f.sf(f, 4, 4)
print(f"F test of the fields: {f:.3f} on 4 and 4 df, p = {p:.5f}")
table.check("RLRT statistic", "6.1118", exact.statistic)
table.slip(
    "its p-value", "0.0091", "0.0096", p, "10,000 draws have a standard error of 0.001; the F test gives 0.00956"
)
assert abs(exact.p_value - p) < 4 * exact.p_se
table.report()
