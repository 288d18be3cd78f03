"""Longitudinal data: incomes of 85 people over 23 years (lecture notes, "Example: Panel Study of Income Dynamics").

A line for each person and a t test of the lines first, then one mixed model with a random line for each person.
The data are not part of the package: they are read from the folder LMMJAX_DATA_DIR or downloaded once.
"""

import sys

import numpy as np
from published import Published
from scipy import stats

import lmmjax as lj

try:
    psid = lj.datasets.load("psid")
except lj.DataError as error:
    print(f"Nothing to show without the data: {error}")
    sys.exit(0)
table = Published()

# One person, then a line for each (the response feature analysis).
lmod = lj.lm("log(income) ~ I(year-78)", psid, subset="person == 1")
print(lmod.fixef.to_string(), "\n")
table.check_all(["person 1: intercept", "person 1: slope"], "9.3999568 0.0842667", lmod.fixef)
people = psid.groupby("person")
slopes, intercepts = np.array([np.polyfit(one["year"] - 78, np.log(one["income"]), 1) for _, one in people]).T
men = (people["sex"].first() == "M").to_numpy()
for name, values, mean_men, mean_women, published in (
    ("slopes", slopes, "0.05691046", "0.08903346", "-2.3786 56.736 0.02077 -0.05916871 -0.00507729"),
    ("intercepts", intercepts, "9.382325", "8.229275", "8.2199 79.719 3.065e-12 0.8738792 1.4322218"),
):
    welch = stats.ttest_ind(values[men], values[~men], equal_var=False)
    interval = welch.confidence_interval()
    print(f"{name}: t = {welch.statistic:.4f}, df = {welch.df:.3f}, p = {welch.pvalue:.4g}")
    table.check(f"{name}: mean of men", mean_men, values[men].mean())
    table.check(f"{name}: mean of women", mean_women, values[~men].mean())
    quantities = [f"{name}: {what}" for what in ("t", "df", "p", "lower", "upper")]
    table.check_all(quantities, published, [welch.statistic, welch.df, welch.pvalue, *interval])

# One model for all.
psid["cyear"] = psid["year"] - 78
formula = "log(income) ~ cyear*sex + age + educ + (cyear|person)"
mmod = lj.lmer(formula, psid, contrasts="sum")
print(f"\n{mmod}\n")
ml = lj.lmer(formula, psid, reml=False, contrasts="sum")
dic = 2 * ml.deviance - mmod.reml_criterion
print(f"AIC = {mmod.aic:.1f}, DIC = {dic:.1f}, deviance = {ml.deviance:.1f} (refitted by ML, as R's arm::display)\n")
print(mmod.certificate)
coefficients = mmod.summary().coefficients
table.check_all(list(coefficients.index), "7.249 0.072 -0.575 0.011 0.104 0.013", coefficients["estimate"])
errors = [f"se {name}" for name in coefficients.index]
table.check_all(errors, "0.540 0.006 0.061 0.014 0.021 0.006", coefficients["se"])
names = ["sd Intercept", "sd cyear", "correlation", "sd residual"]
table.check_all(names, "0.531 0.049 0.187 0.684", mmod.varcorr["sdcor"])
table.check_all(["AIC", "DIC", "deviance"], "3842.5 3748.4 3785.5", [mmod.aic, dic, ml.deviance])
table.check_all(["observations", "people"], "1661 85", [mmod.nobs, len(mmod.ranef()["person"])])

# What the text says of the table. With sum contrasts a sex differs from the other by twice its coefficient.
beta = mmod.fixef
women, difference = beta["cyear"] + beta["cyear:sex[S.F]"], 2 * beta["cyear:sex[S.F]"]
table.check("growth a year, women", "0.085", women)
why = "8.5% - 2.9% is not the 5.9% beside it; twice 0.013 is 0.026"
table.slip("difference in growth", "0.029", "0.026", difference, why)
table.check("growth a year, men", "0.059", women - difference)
table.check("income of men / women (the text says it of women)", "3.16", np.exp(-2 * beta["sex[S.F]"]))
table.slip("factor for a year of education", "0.104", "1.11", np.exp(beta["educ"]), "exp(0.104) is 1.110")
table.report()
