"""Paper pulp: one-way random effects (lecture notes on mixed models, "Example: pulp data set" and its continuations).

Does the shift operator on duty influence the brightness of paper? Fixed effects and ANOVA estimators, then REML and ML,
the likelihood-ratio test of the operator variance, and the predicted random effects.
"""

import numpy as np
from published import Published

import lmmjax as lj

FORMULA = "bright ~ 1 + (1|operator)"
pulp = lj.datasets.load("pulp")
table = Published()

# Fixed effects: the one-way analysis of variance, with sum contrasts.
lmod = lj.lm("bright ~ operator", pulp, contrasts="sum")
aov = lj.aov("bright ~ operator", pulp)
print(aov, "\n")
print(lmod.fixef.round(4).to_string(), "\n")
names = ["ANOVA: SSA", "MSA", "F", "p"]
table.check_all(names, "1.34 0.4467 4.204 0.0226", aov.table.loc["operator", ["sumsq", "meansq", "F", "p"]])
table.check_all(["SSE", "MSE"], "1.70 0.1062", aov.table.loc["Residuals", ["sumsq", "meansq"]])
names = ["fixed effects: mean", "a", "b", "c", "d (minus the others)"]
table.check_all(names, "60.40 -0.16 -0.34 0.22 0.28", [*lmod.fixef, -lmod.fixef.iloc[1:].sum()])
components = lj.variance_components_anova(FORMULA, pulp)
print(components, "\n")
table.check("ANOVA estimator of the operator variance", "0.0681", components.components.loc["operator", "estimate"])

# Random effects: REML, which equals ANOVA here because the data are balanced.
mmod = lj.lmer(FORMULA, pulp)
print(mmod, "\n")
print(mmod.certificate, "\n")
variances, sds = mmod.varcorr["vcov"], mmod.varcorr["sdcor"]
table.check("REML criterion", "18.6", mmod.reml_criterion)
table.check_all(["operator variance", "residual variance"], "0.06808 0.10625", variances)
table.check_all(["operator sd", "residual sd"], "0.2609 0.3260", sds)
mean = mmod.summary().coefficients.loc["Intercept"]
table.check_all(["mean", "its standard error", "t"], "60.4000 0.1494 404.2", mean)
quantiles = np.quantile(mmod.resid("scaled"), [0, 0.25, 0.5, 0.75, 1])
quarters = [f"scaled residuals: {name}" for name in ("Min", "1Q", "3Q", "Max")]
table.check_all(quarters, "-1.4666 -0.7595 0.6281 1.6012", np.delete(quantiles, 2))
why = "R up to 4.3 rounds the quantiles twice, here first to -0.12435"
table.slip("scaled residuals: Median", "-0.1244", "-0.1243", quantiles[2], why)

# ML, and the test against the model without operators.
smod = lj.lmer(FORMULA, pulp, reml=False)
nullmod = lj.lm("bright ~ 1", pulp)
print(smod, "\n")
lrt = lj.lrt(nullmod, smod)
print(lrt, "\n")
print(lj.exact_rlrt(mmod, n=100_000, seed=1), "\n")
table.check_all(["likelihood ratio", "its p by chi-squared"], "2.568371 0.1090199", [lrt.statistic, lrt.p_chisq])

# Predicted random effects, their shrinkage, and what is predicted for each operator.
ranef = mmod.ranef(cond_var=True)
modes = ranef["operator"]["Intercept"]
effects = lj.model_tables(aov)["operator"]
blups = mmod.fixef["Intercept"] + modes
print("operator   effect    ranef  cond. sd   mean + ranef")
for level, sd in zip(modes.index, np.sqrt(ranef.cond_var["operator"][:, 0, 0]), strict=True):
    print(f"{level:<8} {effects[level]:8.2f} {modes[level]:8.4f} {sd:9.4f} {blups[level]:14.5f}")
table.check_all([f"ranef {level}" for level in "abcd"], "-0.1219403 -0.2591231 0.1676679 0.2133955", modes)
table.check_all([f"effect {level}" for level in "abcd"], "-0.16 -0.34 0.22 0.28", effects)
f = aov.table.loc["operator", "F"]
why = f"in balanced data the ratio is F / (F - 1) = {f / (f - 1):.9f}; lme4's optimum is less exact"
table.slip("effect / ranef, all levels", "1.312117", "1.312118", float(np.mean(effects / modes)), why)
table.check("largest difference between those ratios", "0.000000", float(np.ptp(effects / modes)))
table.check_all([f"mean + ranef, {level}" for level in "abcd"], "60.27806 60.14088 60.56767 60.61340", blups)
table.report()
