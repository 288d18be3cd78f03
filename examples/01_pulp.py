"""Paper pulp: one-way random effects (lecture notes on mixed models, "Example: pulp data set" and its continuations).

Does the shift operator on duty influence the brightness of paper? Fixed effects and ANOVA estimators, then REML and ML,
the likelihood-ratio test of the operator variance, and the predicted random effects.
"""

import numpy as np
from published import Published
from scipy import stats

import lmmjax as lj

FORMULA = "bright ~ 1 + (1|operator)"
pulp = lj.datasets.load("pulp")
table = Published()

# Fixed effects: the one-way analysis of variance, with sum contrasts.
lmod = lj.lm("bright ~ operator", pulp, contrasts="sum")
ssa = np.sum((lmod.fitted - pulp["bright"].mean()) ** 2)
sse = np.sum(lmod.resid() ** 2)
msa, mse = ssa / 3, sse / 16
f = msa / mse
p = stats.f.sf(f, 3, 16)
print(f"""Analysis of variance
            Df  Sum Sq  Mean Sq  F value  Pr(>F)
operator     3  {ssa:6.2f}  {msa:7.4f}  {f:7.3f}  {p:6.4f}
Residuals   16  {sse:6.2f}  {mse:7.4f}
""")
print(lmod.fixef.round(4).to_string(), "\n")
table.check_all(["ANOVA: SSA", "MSA", "F", "p"], "1.34 0.4467 4.204 0.0226", [ssa, msa, f, p])
table.check_all(["SSE", "MSE"], "1.70 0.1062", [sse, mse])
names = ["fixed effects: mean", "a", "b", "c", "d (minus the others)"]
table.check_all(names, "60.40 -0.16 -0.34 0.22 0.28", [*lmod.fixef, -lmod.fixef.iloc[1:].sum()])
table.check("ANOVA estimator of the operator variance", "0.0681", (msa - mse) / 5)

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
lrt = 2 * (smod.loglik - nullmod.loglik)
p = stats.chi2.sf(lrt, 1)
print(f"likelihood ratio {lrt:.6f}, p = {p:.7f} by chi-squared with 1 df (too large: the null is on the boundary)\n")
table.check_all(["likelihood ratio", "its p"], "2.568371 0.1090199", [lrt, p])

# Predicted random effects, their shrinkage, and what is predicted for each operator.
ranef = mmod.ranef(cond_var=True)
modes = ranef["operator"]["Intercept"]
effects = pulp.groupby("operator", observed=True)["bright"].mean() - pulp["bright"].mean()
blups = mmod.fixef["Intercept"] + modes
print("operator   effect    ranef  cond. sd   mean + ranef")
for level, sd in zip(modes.index, np.sqrt(ranef.cond_var["operator"][:, 0, 0]), strict=True):
    print(f"{level:<8} {effects[level]:8.2f} {modes[level]:8.4f} {sd:9.4f} {blups[level]:14.5f}")
table.check_all([f"ranef {level}" for level in "abcd"], "-0.1219403 -0.2591231 0.1676679 0.2133955", modes)
why = f"in balanced data the ratio is MSA / (MSA - MSE) = {msa / (msa - mse):.9f}; lme4's optimum is less exact"
table.slip("effect / ranef, all levels", "1.312117", "1.312118", float(np.mean(effects / modes)), why)
table.check("largest difference between those ratios", "0.000000", float(np.ptp(effects / modes)))
table.check_all([f"mean + ranef, {level}" for level in "abcd"], "60.27806 60.14088 60.56767 60.61340", blups)
table.report()
