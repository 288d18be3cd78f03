"""Degrees of freedom: lmerTest's and pbkrtest's numbers, and dense matrices of small designs."""

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import references
from core_cases import compiled

import lmmjax as lj
from lmmjax.core import Design, RandomTerm, Template, cross_products
from lmmjax.core.freedom import kenward_roger_pieces
from lmmjax.inference.df import Freedom, freedom, hypothesis, kenward_roger

OWN = references.bundled("inference_reference.json")
BUNDLED = [catalogue.Model("bundled", name) for name in OWN["models"]]
SMALL = [m for m in catalogue.SHARED if not m.name.startswith(("soy", "insteval"))]
R_DIGITS = 1e-6  # R differentiates numerically


def of_fit(fit: lj.Fit, ddf: str | None) -> Freedom:
    return freedom(fit.estimate, fit.cross_products, fit.reml, ddf)


def check(found: Freedom, expected: dict, rtol: float) -> None:
    columns = np.eye(found.vcov.shape[-1])
    np.testing.assert_allclose(np.sqrt(np.diag(found.vcov)), expected["se"], rtol=rtol)
    np.testing.assert_allclose(found.df(columns), expected["df"], rtol=rtol)


@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
@pytest.mark.parametrize("model", [m for m in catalogue.SHARED if m.name != "insteval"], ids=str)
def test_satterthwaite_is_lmertest(model, reml):
    check(of_fit(model.fit(reml), "satterthwaite"), model.r(reml)["satterthwaite"], R_DIGITS)


@pytest.mark.parametrize("model", SMALL, ids=str)
def test_kenward_roger_is_pbkrtest(model):
    found, r = of_fit(model.fit(), "kenward-roger"), model.r(True)
    check(found, r["kenward_roger"], R_DIGITS)
    np.testing.assert_allclose(found.vcov, r["vcov_kr"], rtol=1e-6, atol=1e-8 * np.abs(r["vcov_kr"]).max())


@pytest.mark.slow
def test_of_many_columns():
    """InstEval: lmerTest needs minutes, pbkrtest cannot."""
    model = next((m for m in catalogue.SHARED if m.name == "insteval"), None)
    if model is None:
        pytest.skip(reason="the larger reference is absent")
    fit, (row,) = model.fit(), model.r(True)["anova_satterthwaite"]["III"]
    check(of_fit(fit, "satterthwaite"), model.r(True)["satterthwaite"], 1e-5)
    found = lj.anova(fit).loc["service"]
    np.testing.assert_allclose(found[["F", "dendf"]], [row["F"], row["DenDF"]], rtol=1e-5)


@pytest.mark.parametrize("model", BUNDLED, ids=str)
def test_bundled_models(model):
    """With prior weights R's numbers are those of the rows times √w, as pbkrtest ignores weights."""
    fit = model.fit()
    if model.r(True)["satterthwaite"]:
        check(of_fit(fit, "satterthwaite"), model.r(True)["satterthwaite"], 1e-5)
    expected, found = OWN["models"][model.name]["kenward_roger"], of_fit(fit, "kenward-roger")
    check(found, expected, R_DIGITS)
    np.testing.assert_allclose(found.vcov, expected["vcov"], rtol=1e-6, atol=1e-8 * np.abs(found.vcov).max())


# ------------------------------------------------------------------------------------------------------ dense matrices


def small_design(templates: tuple[Template, ...], seed: int = 0) -> Design:
    rng, n = np.random.default_rng(seed), 30
    codes = (rng.integers(0, 6, n), rng.integers(0, 4, n))
    terms = [
        RandomTerm(np.column_stack([np.ones(n), rng.normal(size=(n, t.p - 1))]), c, k, t)
        for t, c, k in zip(templates, codes, (6, 4), strict=False)
    ]
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    return Design(X=X, y=rng.normal(size=n), terms=tuple(terms), weights=rng.uniform(0.5, 2, n))


def dense_v(parameters, design: Design):
    """V of what KR takes as parameters, at prior weights: σ² last; covariances, or θ of a function times σ²."""
    z = [jax.nn.one_hot(t.codes, t.n_levels)[:, :, None] * t.x[:, None] for t in design.terms]
    v, at = parameters[-1] * jnp.diag(1 / design.weights), 0
    for columns, term in zip(z, design.terms, strict=True):
        template, own = term.template, parameters[at : at + term.template.n_theta]
        at += template.n_theta
        if template.filled:
            d = jnp.zeros((template.p, template.p)).at[template.fn.indices].set(own)
            d = d + jnp.tril(d, -1).T
        else:
            t = template(own)
            d = parameters[-1] * t @ t.T
        v = v + jnp.einsum("nlp,pq,mlq->nm", columns, d, columns)
    return v


@compiled
def dense_kenward_roger(parameters, design: Design):
    """Φ, the adjusted Φ, W and the P of Kenward & Roger (1997), as they are written there."""
    X = design.X
    inverse = jnp.linalg.inv(dense_v(parameters, design))
    g = jnp.moveaxis(jax.jacfwd(dense_v)(parameters, design), -1, 0)
    gg = jnp.moveaxis(jax.jacfwd(jax.jacfwd(dense_v))(parameters, design), (-2, -1), (0, 1))
    phi = jnp.linalg.inv(X.T @ inverse @ X)
    p = -(X.T @ inverse @ g @ inverse @ X)
    q = jnp.einsum("ni,rnm,mk,skl,lj->rsij", inverse @ X, g, inverse, g, inverse @ X)
    r = X.T @ inverse @ gg @ inverse @ X
    projection = inverse - inverse @ X @ phi @ X.T @ inverse
    w = jnp.linalg.inv(0.5 * jnp.einsum("nm,rmk,kl,sln->rs", projection, g, projection, g))
    u = jnp.einsum("rs,rsij->ij", w, q - jnp.einsum("rij,jk,skl->rsil", p, phi, p) - 0.25 * r)
    return phi, phi + 2 * phi @ u @ phi, w, p


@pytest.mark.parametrize(
    ("templates", "theta"),
    [
        ((Template.full(2), Template.full(1)), [0.8, 0.3, 0.5, 0.7]),
        ((Template.full(2),), [0.8, -0.4, 0.0]),  # correlation −1
        ((Template.diagonal(2), Template.full(1)), [0.0, 0.6, 0.9]),  # a variance of zero
        ((Template.ar1(3), Template.full(1)), [0.7, 0.3, 0.5]),  # V is not linear in its parameters
    ],
    ids=["crossed", "singular", "zero", "function"],
)
def test_against_dense_matrices(templates, theta):
    design, theta, sigma = small_design(templates), np.array(theta), 1.3
    with lj.float64():
        cp = cross_products(design, orthonormal=True)
        own, at = [], 0
        for t in templates:
            part = theta[at : at + t.n_theta]
            at += t.n_theta
            own.append(sigma**2 * (t(part) @ t(part).T)[t.fn.indices] if t.filled else part)
        parameters = jnp.concatenate([*map(jnp.asarray, own), jnp.array([sigma**2])])
        phi, adjusted, w, p = map(np.asarray, dense_kenward_roger(parameters, design))
        found = kenward_roger(sigma, jax.tree.map(np.asarray, kenward_roger_pieces(theta, cp)))
    np.testing.assert_allclose(sigma**2 * found.half @ found.half.T, phi, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.vcov, adjusted, rtol=1e-8, atol=1e-10)
    L = np.array([[0, 1.0, -1], [0, 0, 1]])
    middle = phi @ L.T @ np.linalg.solve(L @ phi @ L.T, L)
    pushed = middle @ phi @ p  # (r, p, p)
    traces = np.einsum("rii->r", pushed)
    a1, a2 = w @ traces @ traces, np.einsum("rs,rij,sji->", w, pushed, pushed)
    found_a1, found_a2 = moments_of(found, L)
    np.testing.assert_allclose([found_a1, found_a2], [a1, a2], rtol=1e-8)


def moments_of(found, L):
    """A₁ and A₂ that `found` uses for L."""
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmmjax.inference.df._matched", lambda a1, a2, q: (kept.append((a1, a2)) or 1.0, np.inf))
        found.f_test(L, np.zeros(L.shape[1]))
    return kept[0]


# ---------------------------------------------------------------------------------------------------------- identities


@pytest.fixture(scope="module")
def sleep() -> pd.DataFrame:
    return lj.datasets.load("sleepstudy")


@pytest.fixture(scope="module")
def fit(sleep) -> lj.Fit:
    return lj.lmer("Reaction ~ Days + (Days | Subject)", sleep[:-7])


@pytest.mark.parametrize("ddf", ["satterthwaite", "kenward-roger", "residual", None])
def test_units_and_bases_of_a_hypothesis_do_not_matter(sleep, fit, ddf):
    scaled = sleep[:-7].assign(Reaction=lambda d: 1e3 * d.Reaction, Days=lambda d: d.Days / 24)
    other = lj.lmer("Reaction ~ Days + (Days | Subject)", scaled)
    L = np.array([[1.0, 5], [0, 2]])
    one, two = of_fit(fit, ddf), of_fit(other, ddf)
    a, b = one.f_test(np.array([[0, 1.0]]), fit.estimate.beta), two.f_test(np.array([[0, 3.0]]), other.estimate.beta)
    np.testing.assert_allclose(a, b, rtol=1e-6)
    if ddf != "satterthwaite":  # whose df are those of the principal directions of this very L
        both = [one.f_test(m, fit.estimate.beta) for m in (L, np.eye(2))]
        np.testing.assert_allclose(*both, rtol=1e-9)


@pytest.mark.parametrize("unit", [1e-5, 86400.0, 1e7])
def test_units_of_a_slope_do_not_matter(sleep, fit, unit):
    """The information in the variances has entries in units of x⁻⁴ beside those of one."""
    other = lj.lmer("Reaction ~ Days + (Days | Subject)", sleep[:-7].assign(Days=lambda d: d.Days * unit))
    for ddf in ("satterthwaite", "kenward-roger"):
        one, two = of_fit(fit, ddf), of_fit(other, ddf)
        np.testing.assert_allclose(two.df(np.eye(2)), one.df(np.eye(2)), rtol=1e-6)
        np.testing.assert_allclose(np.diag(two.vcov) * [1, unit**2], np.diag(one.vcov), rtol=1e-6)


def test_linear_models_have_n_minus_p(sleep):
    fit = lj.lm("Reaction ~ Days", sleep)
    for ddf in ("satterthwaite", "kenward-roger", "residual"):
        found = of_fit(fit, ddf)
        np.testing.assert_allclose(found.df(np.eye(2)), 178)
        np.testing.assert_allclose(found.vcov, fit.vcov)


def test_a_given_theta_is_known(sleep):
    fit = lj.lmer("Reaction ~ Days + (1 | Subject)", sleep, theta=[0.8])
    for ddf in ("satterthwaite", "kenward-roger"):
        np.testing.assert_allclose(of_fit(fit, ddf).df(np.eye(2)), 178)


def test_zero_variance_leaves_the_linear_model():
    """At θ = 0 nothing but σ is uncertain for Satterthwaite: n − p."""
    fit = lj.lmer("Yield ~ 1 + (1 | Batch)", lj.datasets.load("Dyestuff2"))
    assert fit.is_singular
    np.testing.assert_allclose(of_fit(fit, "satterthwaite").df(np.eye(1)), 29, rtol=1e-9)


def test_refusals(fit, sleep):
    with pytest.raises(ValueError, match="ddf='kr': choose None, 'satterthwaite'"):
        of_fit(fit, "kr")
    ml = lj.lmer("Reaction ~ Days + (1 | Subject)", sleep, reml=False)
    with pytest.raises(lj.DataError, match="needs a REML fit"):
        of_fit(ml, "kenward-roger")


def test_hypotheses_in_all_their_forms():
    names = ["Intercept", "a[T.x]", "b"]
    for given, rows, value in (
        ("b", [[0, 0, 1]], [0]),
        (["b", "a[T.x]"], [[0, 0, 1], [0, 1, 0]], [0, 0]),
        ("b = 2", [[0, 0, 1]], [2]),
        ("2 * b - a[T.x]", [[0, -1, 2]], [0]),
        ("b = a[T.x], Intercept = 1", [[0, -1, 1], [1, 0, 0]], [0, 1]),
        ([0, 1, 0], [[0, 1, 0]], [0]),
        ({"b": 3}, [[0, 0, 3]], [0]),
        (pd.Series({"b": 1.0, "Intercept": 2}), [[2, 0, 1]], [0]),
        (pd.DataFrame([[1, 9], [0, 1]], columns=["b", "a[T.x]"]), [[0, 9, 1], [0, 1, 0]], [0, 0]),
    ):
        found = hypothesis(given, names)
        np.testing.assert_array_equal(found[0], rows)
        np.testing.assert_array_equal(found[1], value)
    for wrong, message in (
        ("c", "no fixed-effects columns.*there are Intercept"),
        ({"c": 1}, "no fixed-effects columns c; there are Intercept"),
        ([1.0, 2], r"L has shape \(1, 2\); there are 3"),
        (np.zeros((2, 2, 3)), r"L has shape \(2, 2, 3\)"),
        ([0, np.nan, 1], "not finite"),
        ([[1.0], [2.0, 3.0]], "L must be numbers, names of columns or constraints, not"),
        ([[0, 1, 0], [0, 0, 0]], "a row of zeros"),
        ([[0, 1, 0], [0, 2, 0]], "depend on each other"),
    ):
        with pytest.raises(lj.DataError, match=message):
            hypothesis(wrong, names)
