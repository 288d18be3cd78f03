"""Which subjects carry the sleepstudy slopes? One derivative of the fit answers, and gives a robust covariance.

A fit is a differentiable function of how often each subject counts. Minus its derivative is, to first order, what
happens when the subject is left out (the infinitesimal jackknife); the sum of its squares is a covariance of the fixed
effects that does not believe the model. Both are checked against refits without each subject.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

import lmmjax as lj

mpl.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 - after the backend is chosen

FIGURE = Path(__file__).parent / "figures" / "06_influence.png"

sleepstudy = lj.datasets.load("sleepstudy")
fit = lj.lmer("Reaction ~ Days + (Days|Subject)", sleepstudy)
predicted, exact = lj.influence(fit), lj.influence(fit, exact=True)
print(predicted.table.head(6).to_string(float_format="{:.3f}".format), "\n")

slopes = {}
for column in fit.fixef.index:
    x, y = predicted.dbeta[column], exact.dbeta[column]
    slopes[column] = np.polyfit(x, y, 1)[0]
    r = np.corrcoef(x, y)[0, 1]
    print(f"{column}: predicted and exact change correlate {r:.6f}, slope {slopes[column]:.4f}")
    assert r > 0.999

# In a balanced design leaving one of G subjects out moves the mean by G/(G − 1) of the derivative.
assert np.allclose(list(slopes.values()), 18 / 17, atol=1e-6)

kinds = ("IJ", "CR0", "CR1", "CR2", "CR3")
errors = pd.DataFrame({k: np.sqrt(np.diag(lj.vcov_cr(fit, k))) for k in kinds}, fit.fixef.index)
errors.insert(0, "model", np.sqrt(np.diag(fit.vcov)))
print("\nStandard errors\n" + errors.to_string(float_format="{:.4f}".format))
jackknife = exact.dbeta - exact.dbeta.mean()
by_refits = np.sqrt(17 / 18 * np.sum(jackknife.to_numpy() ** 2, 0))
assert np.allclose(by_refits, errors["CR1"], rtol=0.01)
# Robust errors are near the model's: the covariance that it assumes is not far from the truth.
assert np.all(abs(errors["CR2"] / errors["model"] - 1) < 0.1)

scores = lj.cross_validate(fit)
flat = lj.cross_validate(lj.lmer("Reaction ~ Days + (1|Subject)", sleepstudy))
gain = scores["log_density"] - flat["log_density"]
print(f"\nLog density of subjects that were left out: {scores['log_density'].sum():.1f}")
print(f"Random slopes gain {gain.sum():.1f} of it, for {np.sum(gain > 0)} of {len(gain)} subjects")
assert gain.sum() > 0

figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for ax, column in zip(axes, fit.fixef.index, strict=True):
    ax.axline((0, 0), slope=slopes[column], color="0.7")
    ax.scatter(predicted.dbeta[column], exact.dbeta[column], s=18)
    for subject in predicted.cooks.nlargest(4).index:
        ax.annotate(str(subject), (predicted.dbeta.loc[subject, column], exact.dbeta.loc[subject, column]))
    ax.set(title=column, xlabel="predicted by the derivative", ylabel="refit without the subject")
FIGURE.parent.mkdir(exist_ok=True)
figure.savefig(FIGURE, dpi=120)
print(f"\nPicture: {FIGURE}")
print("Checks met")
