"""Nested random effects: samples within technicians within laboratories (lecture notes, "Example of nested random
effects").

Bootstrap intervals show that any of the three variances could be zero, profiles and tests of each say the same.
"""

import pandas as pd
from published import Published

import lmmjax as lj

eggs = lj.datasets.load("eggs")
table = Published()
print(eggs.describe(include="all").to_string(na_rep=""), "\n")
names = ["min", "25%", "50%", "mean", "75%", "max"]
numbers = eggs["Fat"].describe()[names]
table.check_all([f"Fat: {name}" for name in names], "0.0600 0.3075 0.3700 0.3875 0.4300 0.8000", numbers)

formula = "Fat ~ 1 + (1|Lab) + (1|Lab:Technician) + (1|Lab:Technician:Sample)"
cmod = lj.lmer(formula, eggs)
print(cmod, "\n")
ml = lj.lmer(formula, eggs, reml=False)
dic = 2 * ml.deviance - cmod.reml_criterion
print(f"AIC = {cmod.aic:.1f}, DIC = {dic:.1f}, deviance = {ml.deviance:.1f} (refitted by ML, as R's arm::display)\n")
print(cmod.certificate)

# The short form of the same model.
nested = lj.lmer("Fat ~ 1 + (1|Lab/Technician/Sample)", eggs)
assert abs(nested.reml_criterion - cmod.reml_criterion) < 1e-9, "(1|Lab/Technician/Sample) is another model"

mean = cmod.summary().coefficients.loc["Intercept"]
table.check_all(["mean", "its standard error"], "0.39 0.04", mean[["estimate", "se"]])
sds = cmod.varcorr.set_index("group")["sdcor"]
table.check_all([f"sd {name}" for name in sds.index], "0.06 0.08 0.08 0.08", sds)
table.check_all(["AIC", "DIC", "deviance"], "-54.2 -73.3 -68.8", [cmod.aic, dic, ml.deviance])
levels = [len(effects) for effects in cmod.ranef().values()]
table.check_all([f"levels of {name}" for name in cmod.ranef()], "24 12 6", levels)

# Is there variation at each level? The notes' limits are quantiles of 500 random draws, so they stand beside ours only.
notes = [(0, 0.09715684), (0, 0.13479538), (0, 0.14973231), (0.06090721, 0.10947625), (0.30211507, 0.48042274)]
boot, profile = lj.confint(cmod, method="boot", n=2000, seed=1), lj.confint(cmod)
printed = pd.DataFrame(notes, boot.index, boot.columns)
beside = pd.concat({"notes": printed, "bootstrap": boot, "profile": profile}, axis=1)
print(f"\n{beside.round(4).to_string()}\n\n{lj.ranova(cmod).round(4).to_string()}")
sds_of_terms = [name for name in boot.index if name.startswith("sd_")]
table.check_all(
    [f"bootstrap, lower limit of {name}" for name in sds_of_terms], "0.00 0.00 0.00", boot["lower"].iloc[:3]
)
assert (boot - printed).abs().to_numpy().max() < 0.02
table.report()
