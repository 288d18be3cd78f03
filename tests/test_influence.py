"""Case weights of groups: influence against refits, robust covariances against dense ones, cross-validation."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import references
from core_cases import (
    build,
    close,
    compiled,
    dense_covariance,
    float64,  # noqa: F401
    products,
    random_theta,
    rows_of,
    slope,
)
from scipy import stats

import lmmjax as lj
from lmmjax.core import criterion
from lmmjax.core.criterion import deviance_at
from lmmjax.core.groups import Parameters, group_deviances, group_products

SLEEP = "Reaction ~ Days + (Days|Subject)"
EGGS = "Fat ~ 1 + (1|Lab) + (1|Lab:Technician) + (1|Lab:Technician:Sample)"


@pytest.fixture(scope="module")
def sleepstudy() -> pd.DataFrame:
    return lj.datasets.load("sleepstudy")


@pytest.fixture(scope="module")
def fit(sleepstudy):
    return lj.lmer(SLEEP, sleepstudy)


def slope_of(predicted, exact) -> float:
    """Of the least-squares line through the predicted changes."""
    return np.sum(predicted * exact) / np.sum(exact**2)


def outer_levels(design, plan) -> np.ndarray:
    return np.asarray(design.terms[plan.chain[-1].terms[0]].codes)


@pytest.mark.parametrize("name", ["vector 2", "two terms", "nested 3"])
def test_a_group_of_weight_zero_is_not_there(name):
    """And integer weights of groups are copies of all that is in them."""
    design = build(name, 41)
    cp, theta = products(name, design, keep_rows=True), random_theta(design, 41)
    codes = outer_levels(design, cp.plan)
    groups = cp.plan.chain[-1].n_levels
    counts = np.random.default_rng(1).integers(0, 3, groups).astype(float)
    rows, terms = np.repeat(np.arange(design.n), counts[codes].astype(int)), []
    copy = np.concatenate([np.arange(counts[c]) for c in codes]).astype(int)
    for term in design.terms:
        seen = np.asarray(term.codes)[rows] * 10 + copy
        _, fresh = np.unique(seen, return_inverse=True)
        terms.append(term.__class__(term.x[rows], fresh, fresh.max() + 1, term.template))
    repeated = design.replace(
        X=design.X[rows], y=design.y[rows], terms=tuple(terms), weights=design.weights[rows], offset=design.offset[rows]
    )
    weighted = cp.with_case_weights(groups=counts)
    for reml in (True, False):
        close(criterion(theta, weighted, reml), criterion(theta, lj.core.cross_products(repeated), reml), 1e-11)


def test_crossed_factors_have_no_groups():
    design = build("crossed", 1)
    cp = products("crossed", design, keep_rows=True)
    with pytest.raises(ValueError, match="no independent groups"):
        cp.with_case_weights(groups=np.ones(8))
    penicillin = lj.lmer("diameter ~ 1 + (1|plate) + (1|sample)", lj.datasets.load("Penicillin"))
    for call in (lj.influence, lj.vcov_cr, lj.cross_validate):
        with pytest.raises(lj.DataError, match=r"plate, sample are crossed"):
            call(penicillin)


@pytest.mark.parametrize("name", ["vector 2", "nested 3"])
def test_shares_of_groups_are_dense_densities(name):
    design = build(name, 42)
    cp, theta = products(name, design, keep_rows=True), random_theta(design, 42)
    codes, v = outer_levels(design, cp.plan), 1.7**2 * dense_covariance(design, theta)
    beta = np.array([0.5, -1.0, 2.0])
    groups = cp.plan.chain[-1].n_levels
    expected, crossed = np.zeros(groups), np.zeros((groups, 4, 4))
    for g in np.unique(codes):
        r = codes == g
        mean = design.X[r] @ beta + design.offset[r]
        expected[g] = -2 * stats.multivariate_normal(mean, v[np.ix_(r, r)]).logpdf(design.y[r])
        xy = np.column_stack([design.X[r], (design.y - design.offset)[r]])
        crossed[g] = 1.7**2 * xy.T @ np.linalg.solve(v[np.ix_(r, r)], xy)
    same = Parameters(*(jnp.broadcast_to(jnp.asarray(a), (groups, *np.shape(a))) for a in (beta, theta, 1.7)))
    close(compiled(group_deviances)(cp, same), expected, 1e-11)
    close(compiled(deviance_at)(beta, theta, 1.7, cp), expected.sum(), 1e-11)
    close(compiled(group_products)(cp, theta), crossed, 1e-11)


@pytest.mark.parametrize("name", ["sleepstudy", "psid"])
def test_leaving_a_group_out_is_predicted(name, fit):
    if name == "psid":
        panel = pd.read_csv(references.shared_data("psid.csv")).assign(x=lambda d: d["year"] - 78)
        fit = lj.lmer("log(income) ~ x * sex + age + educ + (x|person)", panel)
    predicted, exact = lj.influence(fit), lj.influence(fit, exact=True)
    assert exact.converged.all()
    for column in fit.fixef.index:
        assert np.corrcoef(predicted.dbeta[column], exact.dbeta[column])[0, 1] > 0.999
    assert np.corrcoef(predicted.dsigma, exact.dsigma)[0, 1] > 0.99


def test_exact_influence_is_that_of_refits(fit, sleepstudy):
    exact = lj.influence(fit, exact=True)
    for subject in ("309", "335"):
        without = lj.lmer(SLEEP, sleepstudy[sleepstudy["Subject"].astype(str) != subject])
        change = (without.fixef - fit.fixef).to_numpy()
        row = exact.dbeta.set_axis(exact.dbeta.index.astype(str)).loc[subject]
        np.testing.assert_allclose(row, change, rtol=1e-5)
        cooks = change @ np.linalg.solve(fit.vcov, change) / 2
        np.testing.assert_allclose(exact.cooks.set_axis(exact.cooks.index.astype(str))[subject], cooks, rtol=1e-5)
    assert exact.table.index[0] == exact.cooks.idxmax()
    assert "refits" in repr(exact)


def test_nested_groups():
    eggs = lj.datasets.load("eggs")
    fit = lj.lmer(EGGS, eggs)
    exact = lj.influence(fit, exact=True)
    labs = exact.dbeta.index.to_numpy()
    for lab in labs[:2]:
        without = lj.lmer(EGGS, eggs[(eggs["Lab"] != lab).to_numpy()])
        np.testing.assert_allclose(
            exact.dbeta.loc[lab, "Intercept"], without.fixef.iloc[0] - fit.fixef.iloc[0], atol=1e-9
        )
    predicted = lj.influence(fit).dbeta["Intercept"]
    assert slope_of(predicted, exact.dbeta["Intercept"]) == pytest.approx(5 / 6, abs=0.01)  # six of them
    with pytest.raises(lj.DataError, match="levels of 'Lab:Technician' have no case weights.*exact=True"):
        lj.influence(fit, "Lab:Technician")


LEFT_OUT = references.bundled("diagnostics_reference.json")["left_out"]
PENICILLIN = "diameter ~ 1 + (1|plate) + (1|sample)"


@pytest.mark.parametrize("case", LEFT_OUT)
def test_refits_are_those_of_lme4(case, fit):
    expected, (data, by) = LEFT_OUT[case], case.split("_")
    whole = fit if data == "sleepstudy" else lj.lmer(PENICILLIN, lj.datasets.load(data))
    exact = lj.influence(whole, by, exact=True)
    assert exact.converged.all()
    if by != "row":
        assert exact.dbeta.index.name == by
        assert exact.dbeta.index.astype(str).tolist() == expected["levels"]
    se = np.array(expected["se"])  # R stops within about 1e-6 of an optimum
    assert np.max(np.abs(exact.dbeta + whole.fixef - np.array(expected["beta"])) / se) < 1e-6
    np.testing.assert_allclose(exact.se, se, rtol=1e-6)
    np.testing.assert_allclose(exact.dfbetas * exact.se, exact.dbeta, rtol=1e-12)
    np.testing.assert_allclose(exact.dtheta + whole.theta, expected["theta"], atol=3e-6)
    np.testing.assert_allclose(exact.dsigma + whole.sigma, expected["sigma"], rtol=1e-6)
    np.testing.assert_allclose(exact.cooks, expected["cooks"], rtol=1e-5, atol=1e-7)


def test_first_order_of_rows_is_exact_where_theta_is_held(fit, sleepstudy):
    held = lj.lmer(SLEEP, sleepstudy, theta=fit.theta)
    design, gone = held.design, 59
    v = dense_covariance(rows_of(design, np.arange(180) != gone), fit.theta)
    X, y = np.delete(design.X, gone, 0), np.delete(design.y, gone)
    beta = np.linalg.solve(X.T @ np.linalg.solve(v, X), X.T @ np.linalg.solve(v, y))
    predicted = lj.influence(held, "row")
    np.testing.assert_allclose(predicted.dbeta.loc[gone], beta - held.fixef, rtol=1e-8)
    assert np.all(predicted.dtheta == 0)


def test_first_order_of_rows(fit):
    predicted, exact = (lj.influence(fit, "row", exact=e) for e in (False, True))
    for column in fit.fixef.index:
        assert slope_of(predicted.dbeta[column], exact.dbeta[column]) == pytest.approx(1, abs=0.03)
        assert np.corrcoef(predicted.dbeta[column], exact.dbeta[column])[0, 1] > 0.999
    assert np.corrcoef(predicted.dsigma, exact.dsigma)[0, 1] > 0.99
    assert "180 in all" in repr(exact)


def test_first_order_of_a_crossed_factor_that_is_eliminated_first():
    penicillin = lj.lmer(PENICILLIN, lj.datasets.load("Penicillin"))
    predicted, exact = (lj.influence(penicillin, "plate", exact=e) for e in (False, True))
    assert slope_of(predicted.dbeta["Intercept"], exact.dbeta["Intercept"]) == pytest.approx(23 / 24, abs=0.002)
    assert np.corrcoef(predicted.dsigma, exact.dsigma)[0, 1] > 0.99
    with pytest.raises(lj.DataError, match="'sample' have no case weights.*exact=True"):
        lj.influence(penicillin, "sample")
    with pytest.raises(lj.DataError, match="did you mean 'plate'"):
        lj.influence(penicillin, "plates")


def test_a_linear_model_has_the_deletion_formulas_of_r(sleepstudy):
    line = lj.lm("Reaction ~ Days", sleepstudy)
    h, e = line.hatvalues, line.resid()
    predicted, exact = lj.influence(line, "row"), lj.influence(line, "row", exact=True)
    cooks = (e / (1 - h)) ** 2 * h / (2 * line.sigma**2)
    np.testing.assert_allclose(exact.cooks, cooks, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(predicted.cooks, cooks, rtol=1e-8, atol=1e-12)
    with pytest.raises(lj.DataError, match="no groups to leave out"):
        lj.influence(line)


@pytest.mark.parametrize(("by", "exact"), [("Batch", False), ("Batch", True), ("row", False)])
def test_what_alone_determines_a_fixed_effect_has_no_values(by, exact):
    """A treatment that one batch had, or one row."""
    alone = {"Batch": 2, "row": 7}[by]
    data = lj.datasets.load("Dyestuff").assign(row=np.arange(30))
    codes = data["Batch"].cat.codes if by == "Batch" else data["row"]
    without = lj.influence(lj.lmer("Yield ~ heat + (1|Batch)", data.assign(heat=(codes == alone) * 1.0)), by, exact)
    assert np.flatnonzero(~without.converged).tolist() == [alone]
    assert without.dbeta.iloc[alone].isna().all()
    assert np.isnan(without.dsigma.iloc[alone])
    assert without.cooks.notna().sum() == len(without.cooks) - 1
    assert "1 without values" in repr(without)


def test_refits_leave_the_boundary():
    """Balanced groups: the variance is estimated as zero iff their mean square is at most that within."""
    means = np.repeat([-1.0, 0, 0, 0, 0, 1], 5) * np.sqrt(2.5 / 2.25)  # mean square 2a²; 2.5a² without a middle one
    data = pd.DataFrame({"g": np.repeat(np.arange(6), 5), "y": means + np.tile(np.arange(5.0), 6)})
    whole = lj.lmer("y ~ 1 + (1|g)", data)
    exact = lj.influence(whole, exact=True)
    assert whole.is_singular
    assert exact.converged.all()
    np.testing.assert_allclose(exact.dtheta[:, 0] ** 2, [0, *[(2.5 / 2.25 - 1) / 5] * 4, 0], atol=1e-7)


def groups_by_hand(fit):
    """Per group H = XᵀV⁻¹X and the score XᵀV⁻¹e, from dense matrices, and M."""
    design, codes = fit.design, fit.design.terms[0].codes
    v, X = fit.sigma**2 * dense_covariance(design, fit.theta), design.X
    e = design.y - X @ fit.fixef.to_numpy()
    h, s = [], []
    for g in range(design.terms[0].n_levels):
        r = codes == g
        half = np.linalg.solve(v[np.ix_(r, r)], X[r])
        h.append(half.T @ X[r])
        s.append(half.T @ e[r])
    return np.array(h), np.array(s), np.linalg.inv(np.sum(h, 0))


def unbalanced(sleepstudy):
    return lj.lmer(SLEEP, sleepstudy[np.random.default_rng(3).random(180) < 0.7])


def test_robust_covariances_against_dense_ones(sleepstudy):
    fit = unbalanced(sleepstudy)
    h, s, m = groups_by_hand(fit)
    zero, three = s @ m, np.array([m @ np.linalg.solve(np.eye(2) - a @ m, b) for a, b in zip(h, s, strict=True)])
    for kind, d in (("CR0", zero), ("CR3", three)):
        np.testing.assert_allclose(lj.vcov_cr(fit, kind), d.T @ d, rtol=1e-8)
    np.testing.assert_allclose(lj.vcov_cr(fit, "CR1"), zero.T @ zero * 18 / 17, rtol=1e-8)
    jackknife = lj.influence(fit).dbeta.to_numpy()
    np.testing.assert_allclose(lj.vcov_cr(fit, "IJ"), jackknife.T @ jackknife, rtol=1e-10)


def test_cr2_is_unbiased_under_the_model(sleepstudy):
    fit = unbalanced(sleepstudy)
    held = lj.lmer(SLEEP, sleepstudy[np.random.default_rng(3).random(180) < 0.7], theta=fit.theta)
    fits = [lj.refit(held, y) for y in lj.simulate(fit, 300, seed=5)]
    means = {k: np.mean([np.diag(lj.vcov_cr(f, k)) for f in fits], 0) / np.diag(fit.vcov) for k in ("CR0", "CR2")}
    assert np.all(abs(means["CR2"] - 1) < 0.08)  # 18 groups, 300 draws: a standard error of 0.02
    assert np.all(means["CR0"] < means["CR2"])


def test_unknown_kind_is_refused(fit):
    with pytest.raises(ValueError, match="CR2"):
        lj.vcov_cr(fit, "CR9")


def test_cross_validation_scores_rows_that_were_left_out(fit, sleepstudy):
    scores = lj.cross_validate(fit)
    subject = scores.index[1]
    r = (sleepstudy["Subject"] == subject).to_numpy()
    without = lj.lmer(SLEEP, sleepstudy[~r])
    t = without.templates[0]
    x = np.column_stack([np.ones(10), sleepstudy["Days"][r]])
    v = without.sigma**2 * (np.eye(10) + x @ t @ t.T @ x.T)
    expected = stats.multivariate_normal(x @ without.fixef.to_numpy(), v).logpdf(sleepstudy["Reaction"][r])
    np.testing.assert_allclose(scores["log_density"].iloc[1], expected, rtol=1e-6)
    np.testing.assert_allclose(scores["in_sample"].sum(), -0.5 * fit_deviance(fit), rtol=1e-10)
    assert scores["log_density"].sum() < scores["in_sample"].sum()
    quick = lj.cross_validate(fit, exact=False)
    assert abs(quick["log_density"].sum() - scores["log_density"].sum()) < 3


def fit_deviance(fit) -> float:
    return float(compiled(deviance_at)(fit.fixef.to_numpy(), fit.theta, fit.sigma, fit.cross_products))


def test_derivatives_in_group_weights_are_differences():
    design = build("nested 3", 43)
    theta, cp = random_theta(design, 43), products("nested 3", design, keep_rows=True)
    cp = jax.tree.map(jnp.asarray, cp)
    ones, direction = jnp.ones(cp.plan.chain[-1].n_levels), np.random.default_rng(2).normal(size=2)

    def value(c):
        return criterion(theta, cp.with_case_weights(groups=c))

    close(compiled(jax.grad(value))(ones) @ direction, slope(compiled(value), ones, direction), 1e-8)
