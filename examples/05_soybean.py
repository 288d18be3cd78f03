"""Leaf photosynthesis of soybeans: plots crossed with measuring disks (lecture notes, "Example: soybean").

Three models of growing size, bootstrapped likelihood-ratio tests between them, and a screen of 40 genotypes. The notes'
measurements are not public. `soybean_sim` is a simulated trial of the same shape, so the notes' numbers stand beside
other ones here, and only what does not depend on the measurements is checked.
"""

import time

import numpy as np
from published import Published

import lmmjax as lj

FIXED = "AqE ~ ID + days + I(days^2) + Precip + Precip_7day"
DRAWS = 1000
STAR = {True: "*", False: ""}
# The notes' screen: AIC of the full model minus AIC without the genotype, ID1 to ID40.
NOTES = """
    -2.92 -0.40 -0.89 -3.02 1.51 0.55 -5.72 1.83 -1.84 1.76 -1.19 -0.63 -6.39 1.04 -4.53 -0.32 -8.27 1.61 -1.18 0.25
    0.06 0.96 1.04 -7.60 1.93 -6.00 -1.04 1.89 1.08 -1.41 -0.33 -2.41 1.02 1.94 1.89 1.57 -1.10 -3.64 1.59 -4.83
"""
soybean = lj.datasets.load("soybean_sim")
table = Published()

# Three models in increasing complexity, by ML.
m = lj.lm(FIXED, soybean)
m_re_plot = lj.lmer(f"{FIXED} + (1|plot_number)", soybean, reml=False)
m_re_full = lj.lmer(f"{FIXED} + (1|plot_number) + (1|disk)", soybean, reml=False)
print(m_re_full.varcorr[["group", "vcov", "sdcor"]].round(4).to_string(index=False), "\n")
ladder = lj.anova(m, m_re_plot, m_re_full).set_axis(["lm", "+ (1|plot_number)", "+ (1|disk)"])
criteria = ladder[["npar", "aic", "bic"]].rename(columns={"aic": "AIC, here", "bic": "BIC, here"})
criteria.insert(1, "AIC, notes", [7532.349, 7485.456, 7449.532])
criteria.insert(3, "BIC, notes", [7813.152, 7772.363, 7742.544])
print(criteria.to_string(float_format="{:.3f}".format), "\n")
print(ladder[["deviance", "chisq", "df", "p"]].to_string(float_format="{:.4g}".format), "\n")
assert ladder["aic"].idxmin() == ladder["bic"].idxmin() == "+ (1|disk)", "the notes select the largest model"
quantities = [f"BIC - AIC, {name}" for name in ladder.index]  # a matter of rows and parameters only
table.check_all(quantities, "280.80 286.91 293.01", ladder["bic"] - ladder["aic"])

# A variance is zero under the null, which is no case for the chi-squared distribution: the parametric bootstrap.
for what, null, alt, zero, seconds in (
    ("plots", m, m_re_plot, 0.979, 74.2),
    ("disks", m_re_plot, m_re_full, 0.557, 210.8),
):
    start = time.perf_counter()
    test = lj.bootstrap_lrt(null, alt, n=DRAWS, seed=13)
    took = time.perf_counter() - start
    largest = np.max(test.draws)
    print(f"Are there {what}? LRT = {test.statistic:.2f}, largest of {DRAWS} draws under the null {largest:.2f}")
    print(f"  draws that are zero: notes {zero:.3f}, here {test.share_zero:.3f}")
    print(f"  seconds: notes {seconds}, here {took:.1f}, compilation included\n")
    assert test.p_value == 0
    table.check(f"bootstrapped p-value, {what}", "0", test.p_value)

# Which genotypes differ from the check RC? The full model without the column of each, all refits in one batch.
columns = [name for name in m_re_full.fixef.index if name.startswith("ID")]
seconds = []
for _ in range(2):  # the first time compiles
    start = time.perf_counter()
    screen = lj.drop_one(m_re_full, columns)
    seconds.append(time.perf_counter() - start)
gain = screen["aic"].iloc[0] - screen["aic"].iloc[1:].to_numpy()
notes = np.array(NOTES.split(), dtype=float)
print("AIC of the full model minus AIC without the genotype; negative: it differs from RC")
print("notes                 here")
for i, (name, theirs, ours) in enumerate(zip(columns, notes, gain, strict=True), start=1):
    print(f"ID{i:<4} {theirs:6.2f} {STAR[theirs < 0]:<8} {name} {ours:6.2f} {STAR[ours < 0]}".rstrip())
print(f"genotypes that differ: notes {np.sum(notes < 0)} of 40, here {np.sum(gain < 0)}")
print(f"seconds for 40 refits: notes 4.7, here {seconds[1]:.2f} (the first time {seconds[0]:.1f}, with compilation)")
assert np.max(gain) < 2, "a column more costs 2 and cannot lower the likelihood"
table.report()
