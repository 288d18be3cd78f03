"""Split plots: irrigation of whole fields, varieties on their halves (lecture notes, "Example: irrigation split plot
design").

The tests with adjusted degrees of freedom and the simulated null distribution of the notes are not part of lmmjax yet.
"""

from published import Published

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

# The statistic of the test of the field variance: restricted likelihoods with the same fixed effects.
without_fields = lj.lm("yield ~ irrigation * variety", irrigation, contrasts="sum")
table.check("RLRT statistic", "6.1118", without_fields.reml_criterion - lmod.reml_criterion)
table.report()
