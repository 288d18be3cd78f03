"""The Gibbs kernels draw from the conditional laws of the model, and remember of a state what its rows would say.

Given Σ and σ the effects of `joint` are affine in the normals that it takes, so that its law is found without a draw.
Where draws are compared with a law, seeds are fixed, and p-values below `ALARM` fail: how often another seed would.
"""

import json
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from core_cases import (
    build,
    centred,
    close,
    compiled,
    float64,  # noqa: F401
    products,
)
from scipy import linalg, stats

from lmmjax.core import Design, RandomTerm, Template, cross_products, default_start, random_matrix
from lmmjax.core import gibbs as core
from lmmjax.core.compile import jit
from lmmjax.core.gibbs import HalfT, InverseWishart, Priors, gibbs_kernel

ALARM = 1e-4
CASES = (
    "no term",
    "vector 3",
    "diagonal",
    "two terms",
    "nested 3",
    "crossed vectors",
    "mix",
    "crossed vectors, sparse",
    "mix, sparse",
    "related levels",
)


def follows(values, law) -> None:
    """Kolmogorov and Smirnov's test of a sample against a law of scipy.stats, or its distribution function."""
    p = stats.kstest(np.ravel(values), getattr(law, "cdf", law)).pvalue
    assert p > ALARM, p


def correlations_vanish(columns) -> None:
    """No correlation of independent columns (n, c) beyond what 1e-4 of all such tables would show."""
    n, c = columns.shape
    found = np.corrcoef(columns.T)[np.triu_indices(c, 1)] * np.sqrt(n)
    assert np.abs(found).max() < stats.norm.isf(ALARM / 2 / len(found))


# ---------------------------------------------------------------------------------------- effects given the variances


def design_of(name: str, seed: int, weights: bool) -> Design:
    """A case of `core_cases`, or one whose crossed factors have correlated levels."""
    if name != "related levels":
        return build(name, seed, weights)
    design = build("crossed vectors", seed, weights)
    rng, terms = np.random.default_rng(seed), []
    for term in design.terms:
        half = rng.normal(size=(term.n_levels, term.n_levels + 3))
        related = np.linalg.cholesky(half @ half.T / half.shape[1])
        terms.append(replace(term, level_factor=related if term.p < 3 else None))
    return design.replace(terms=tuple(terms))


def products_of(name: str, design: Design):
    return products("crossed vectors" if name == "related levels" else name, design, orthonormal=True).without_rows()


def priors_of(cp, rng, sd=None) -> Priors:
    """Random ones; half-t and inverse-Wishart laws take turns."""
    laws = []
    for i, (_, columns) in enumerate(core.blocks_of(cp.plan)):
        p = columns.stop - columns.start
        half = rng.normal(size=(p, p + 2))
        laws.append(InverseWishart(p + 1.5, half @ half.T) if i % 2 else HalfT(2.0, rng.uniform(0.5, 2, p)))
    sd = rng.uniform(0.1, 2, cp.p) if sd is None else np.full(cp.p, sd)
    return Priors(rng.normal(size=cp.p), sd, HalfT(3.0, np.ones(1)), tuple(laws))


def start_of(cp, priors: Priors):
    theta = default_start(cp) if cp.plan.templates else np.zeros(0)
    return core.start(cp, priors, jnp.asarray(theta), jnp.zeros(cp.p), jnp.asarray(1.3))


@compiled
def sweeps(cp, priors, state, normals, gammas):
    """A sweep for each row of normals, all with the same gammas."""
    gram = core._prior_gram(cp, priors)
    states = jax.vmap(lambda z: core._sweep(cp, priors, core.joint, gram, state, z, gammas))(normals)
    return replace(states, beta=core._coefficients(cp, states.beta))


def between_levels(term: RandomTerm) -> np.ndarray:
    """A, the (ℓ, ℓ) relations of a term's levels."""
    factor = np.eye(term.n_levels) if term.level_factor is None else term.level_factor
    return factor @ factor.T


def law_of_effects(design: Design, priors: Priors, covariances, sigma):
    """Mean and covariance of (β, b) given y, Σ and σ, by the dense normal equations."""
    w = np.ones(design.n) if design.weights is None else design.weights
    A = np.column_stack([design.X, random_matrix(design).toarray()])
    of_b = [np.kron(between_levels(t), v) for t, v in zip(design.terms, covariances, strict=True)]
    before = linalg.block_diag(np.diag(priors.sd**-2.0), *(np.linalg.inv(v) for v in of_b))
    covariance = np.linalg.inv(before + A.T @ (w[:, None] * A) / sigma**2)
    known = A.T @ (w * centred(design)) / sigma**2
    known[: design.p] += priors.mean / priors.sd**2
    return covariance @ known, covariance


def effects_of(states) -> np.ndarray:
    """(draws, p + q) β and b as in the columns of [X Z]."""
    flat = [np.asarray(b).reshape(len(states.beta), -1) for b in states.b]
    return np.column_stack([states.beta, *flat])


@pytest.mark.parametrize("name", CASES)
def test_joint_law_of_the_effects_given_the_variances(name):
    for seed, weights, sd in ((1, False, None), (2, True, np.inf)):
        rng, design = np.random.default_rng(seed), design_of(name, seed, weights)
        cp = products_of(name, design)
        priors = priors_of(cp, rng, sd)
        widths = [1, *(c.stop - c.start for _, c in core.blocks_of(cp.plan))]
        below, r = sum(p * (p - 1) // 2 for p in widths), design.p + design.q
        own = np.vstack([np.zeros(r), np.eye(r), rng.normal(size=(3, r))])
        normals = np.column_stack([np.tile(rng.normal(size=below), (len(own), 1)), own])
        gammas = rng.gamma(4, size=sum(p + law.n_mixing for p, law in zip(widths, priors.laws, strict=True)))
        before = start_of(cp, priors)
        states = jax.tree.map(np.asarray, sweeps(cp, priors, before, normals, gammas))
        scale = 2 * priors.residual.df / before.mixing[0][0]
        np.testing.assert_allclose(states.sigma[0] ** 2, 0.5 * (scale + before.rss) / gammas[0], rtol=1e-12)
        for same in (states.sigma, *states.covariances, *states.mixing):
            np.testing.assert_array_equal(same, np.broadcast_to(same[0], same.shape))

        found = effects_of(states)
        mean, covariance = law_of_effects(design, priors, [v[0] for v in states.covariances], states.sigma[0])
        root = found[1 : 1 + r] - found[0]
        close(found[0], mean, 1e-9)
        close(root.T @ root, covariance, 1e-9)
        rows_say(design, cp.plan, states)


def rows_say(design: Design, plan, states) -> None:
    """The residual sums of squares and moments of states are what the rows and effects give."""
    w = np.ones(design.n) if design.weights is None else design.weights
    left = centred(design) - effects_of(states) @ np.column_stack([design.X, random_matrix(design).toarray()]).T
    np.testing.assert_allclose(states.rss, left**2 @ w, rtol=1e-9)
    for (i, columns), moment in zip(core.blocks_of(plan), states.moments, strict=True):
        inverse = np.linalg.inv(between_levels(design.terms[i]))
        b = states.b[i][..., columns]
        close(moment, np.einsum("dlp,lk,dkq->dpq", b, inverse, b), 1e-9)


# ------------------------------------------------------------------------------------------- laws of covariances


def of_posterior(law, mixing, moment, count):
    """(df, scale) of the inverse-Wishart law that a sweep draws Σ from."""
    df = 2 * np.asarray(law.shapes(count, len(moment)))[len(moment) - 1]
    return df, np.asarray(law.given(mixing).scale + moment)


@pytest.mark.parametrize("law", [InverseWishart(4.5, np.diag([1.0, 2, 3])), HalfT(1.7, np.array([0.5, 1, 2]))])
def test_the_posterior_of_a_covariance_is_the_prior_times_the_likelihood(law):
    """Their log densities differ by a constant; the law's shapes, scale and mixing are all that a sweep uses."""
    rng = np.random.default_rng(4)
    b, mixing = rng.normal(size=(7, 3)), np.array([0.7, 1.1, 2.0])[: law.n_mixing]
    given = law.given(mixing)
    df, scale = of_posterior(law, mixing, b.T @ b, len(b))
    differences = []
    for v in stats.invwishart(5, np.eye(3)).rvs(4, random_state=1):
        prior = stats.invwishart(given.df, np.asarray(given.scale)).logpdf(v)
        likelihood = stats.multivariate_normal(np.zeros(3), v).logpdf(b).sum()
        differences.append(prior + likelihood - stats.invwishart(df, scale).logpdf(v))
    np.testing.assert_allclose(differences, differences[0], rtol=1e-10)


def test_mixing_variables_have_their_conditional_law():
    """log p(Σ | a) + log p(a), in a, is that of independent inverse-gammas with the law's shapes and rates."""
    scale, df = np.array([0.5, 2.0]), 1.7
    law, v = HalfT(df, scale), np.array([[1.0, 0.3], [0.3, 0.5]])
    shapes = np.asarray(law.shapes(7, 2))[2:]
    rates = np.asarray(law.mixing(jnp.asarray(np.linalg.cholesky(v)), np.ones(2)))
    differences = []
    for a in np.random.default_rng(5).gamma(2, size=(4, 2)):
        given = law.given(a)
        joint = stats.invwishart(given.df, np.asarray(given.scale)).logpdf(v)
        joint += stats.invgamma(0.5, scale=scale**-2).logpdf(a).sum()
        differences.append(joint - stats.invgamma(shapes, scale=rates).logpdf(a).sum())
    np.testing.assert_allclose(differences, differences[0], rtol=1e-10)
    np.testing.assert_allclose(law.expected(jnp.asarray(v)), rates / shapes, rtol=1e-12)


@cache
def gammas_of(shapes: tuple[float, ...], draws: int) -> np.ndarray:
    """(draws, len(shapes)) standard gammas as a chain draws them."""

    def drawn(keys):
        uniforms = core._uniforms(keys, 3 * len(shapes), np.dtype(float))
        return core._gammas(uniforms, keys, jnp.array(shapes))

    return np.asarray(compiled(drawn)(jax.random.split(jax.random.key(6), draws)))


def covariances(law: InverseWishart, draws: int, seed: int, scale=None) -> np.ndarray:
    """(draws, 2, 2) of a law before any effect, or of one whose scale differs from draw to draw."""
    gammas = gammas_of(tuple(np.asarray(law.shapes(0, 2)).tolist()), draws)
    below = np.random.default_rng(seed).normal(size=(draws, 1))
    scale = np.broadcast_to(law.scale if scale is None else scale, (draws, 2, 2))
    root = np.asarray(compiled(jax.vmap(core._root))(scale, below, gammas))
    assert (root[:, 0, 1] == 0).all()
    assert (root[:, [0, 1], [0, 1]] > 0).all()
    return root @ root.mT


def test_covariances_have_the_inverse_wishart_law():
    """aᵀΣ⁻¹a has that of a χ² variable, Σ₁₁ and Σ₂₂ inverse-gamma ones; the determinant is a product of two χ²."""
    scale, df, draws = np.array([[2.0, -0.8], [-0.8, 1.0]]), 3.0, 20_000
    found = covariances(InverseWishart(df, scale), draws, 7)
    precision = np.linalg.inv(found)
    for a in ([1, 0], [0, 1], [1, 1], [1, -2]):
        follows(np.einsum("i,dij,j->d", a, precision, a) / (a @ np.linalg.inv(scale) @ a), stats.chi2(df))
    for j in (0, 1):
        follows(found[:, j, j], stats.invgamma((df - 1) / 2, scale=scale[j, j] / 2))
    log_det = np.log(np.linalg.det(scale) / np.linalg.det(found))
    others = np.log(stats.chi2([df, df - 1]).rvs((draws, 2), random_state=8)).sum(1)
    assert stats.ks_2samp(log_det, others).pvalue > ALARM


def test_half_t_makes_half_t_sds_and_uniform_correlations():
    """With df = 2; a is drawn from its own law first."""
    scale, draws = np.array([0.5, 2.0]), 20_000
    law = HalfT(2.0, scale)
    a = stats.invgamma(0.5, scale=scale**-2).rvs((draws, 2), random_state=9)
    found = covariances(law.given(a[0]), draws, 10, np.asarray(jax.vmap(lambda a: law.given(a).scale)(a)))
    sd = np.sqrt(found[:, [0, 1], [0, 1]])
    for j in (0, 1):
        follows(sd[:, j], lambda x, j=j: 2 * stats.t(2, scale=scale[j]).cdf(x) - 1)
    follows(found[:, 0, 1] / sd.prod(1), stats.uniform(-1, 2))


# ------------------------------------------------------------------------------------------------- random numbers


def test_gammas_have_their_laws_and_are_independent():
    shapes = (0.05, 0.4, 0.999, 1.0, 1.5, 12.0, 4000.0)
    drawn = gammas_of(shapes, 20_000)
    for j, shape in enumerate(shapes):
        follows(drawn[:, j], stats.gamma(shape))
    scores = stats.norm.ppf((stats.rankdata(drawn, axis=0) - 0.5) / len(drawn))
    correlations_vanish(np.column_stack([scores[:-1], scores[1:]]))


def test_numbers_of_a_run_are_independent_normals_and_gammas():
    """Within a sweep and from one to the next; the gammas' shapes come from the counts of rows and levels."""
    cp = products_of("two terms", build("two terms", 3))
    priors = priors_of(cp, np.random.default_rng(3))
    normals, gammas = compiled(lambda key: core._random_numbers(key, 0, 4000, cp, priors))(jax.random.key(11))
    follows(normals, stats.norm)
    levels, df = 8, priors.covariances[1].df
    shapes = [(3 + 40) / 2, (3 + 1) / 2, (2 + levels) / 2, (2 + 1) / 2, (df + levels - 1) / 2, (df + levels) / 2]
    assert gammas.shape == (4000, len(shapes))
    for j, shape in enumerate(shapes):
        follows(gammas[:, j], stats.gamma(shape))
    numbers = np.column_stack([normals, gammas])
    correlations_vanish(np.column_stack([numbers[:-1], numbers[1:]]))


# ---------------------------------------------------------------------------------------------------------- one way


@cache
def of_notes():
    """The notes' example: reference, cross-products and priors."""
    reference = json.loads((references.ROOT / "tests/reference/gibbs.json").read_text(encoding="utf-8"))
    counts, y = reference["data"]["T"], np.array(reference["data"]["y"])
    codes = np.repeat(np.arange(7), counts)
    term = RandomTerm(np.ones((len(y), 1)), codes, 7, Template.full(1))
    cp = cross_products(Design(np.ones((len(y), 1)), y, (term,)), orthonormal=True).without_rows()
    s = reference["settings"]
    variance = InverseWishart(2.0 * s["alpha"], np.array([[2.0 * s["beta"]]]))
    return reference, y, codes, cp, Priors(np.zeros(1), np.sqrt([s["sigma_mu"]]), variance, (variance,))


def chains(keys, states, effects, draws: int, thin: int = 1):
    """Each chain from its own state, (chains, draws, …)."""
    *_, cp, priors = of_notes()
    run = compiled(jax.vmap(lambda key, s: gibbs_kernel(key, cp, priors, s, draws, thin, effects=effects)))
    return jax.tree.map(np.asarray, run(keys, states))


def one_way_start(a: np.ndarray, mu: float):
    """The state with these effects, whose variances are the notes' first ones."""
    _, y, codes, cp, priors = of_notes()
    state = core.start(cp, priors, jnp.ones(1), jnp.array([mu]), jnp.sqrt(0.5))
    rss, moments = np.sum((y - mu - a[codes]) ** 2), (jnp.array([[a @ a]]),)
    return replace(state, b=(jnp.asarray(a)[:, None],), rss=jnp.asarray(rss), moments=moments)


def test_one_way_conditionals_are_those_of_the_notes():
    """σ_a and σ_ε (variances) given the state, μ given them and the old a, each aᵢ given all of these: 10⁵ draws of
    one sweep from one state. Each draw goes to the uniform or normal variable that its conditional law makes of it."""
    reference, y, codes, _, _ = of_notes()
    many, a, s = 100_000, np.array(reference["settings"]["a"], float), reference["settings"]
    state = one_way_start(a, 1.2)
    keys = jax.random.split(jax.random.key(12), many)
    states = jax.tree.map(lambda x: jnp.broadcast_to(x, (many, *jnp.shape(x))), state)
    drawn = jax.tree.map(lambda x: x[:, 0], chains(keys, states, core.one_way, 1))

    of_a, of_e, mu = drawn.covariances[0][:, 0, 0], drawn.sigma**2, drawn.beta[:, 0]
    counts, sums = np.bincount(codes), np.bincount(codes, y)
    u_a = stats.invgamma(s["alpha"] + 7 / 2, scale=s["beta"] + a @ a / 2).cdf(of_a)
    left = y - 1.2 - a[codes]
    u_e = stats.invgamma(s["alpha"] + len(y) / 2, scale=s["beta"] + left @ left / 2).cdf(of_e)
    precision = len(y) / of_e + 1 / s["sigma_mu"]
    z_mu = (mu - np.sum(y - a[codes]) / of_e / precision) * np.sqrt(precision)
    precisions = counts / of_e[:, None] + 1 / of_a[:, None]
    means = (sums - counts * mu[:, None]) / of_e[:, None] / precisions
    z_a = (drawn.b[0][..., 0] - means) * np.sqrt(precisions)

    follows(u_a, stats.uniform)
    follows(u_e, stats.uniform)
    for z in (z_mu, *z_a.T):
        follows(z, stats.norm)
    correlations_vanish(np.column_stack([stats.norm.ppf([u_a, u_e]).T, z_mu, z_a]))
    left = y - mu[:5, None] - drawn.b[0][:5, codes, 0]
    np.testing.assert_allclose(drawn.rss[:5], (left**2).sum(1), rtol=1e-10)
    np.testing.assert_allclose(drawn.moments[0][:, 0, 0], (drawn.b[0][..., 0] ** 2).sum(1), rtol=1e-10)


@pytest.mark.parametrize("effects", [core.joint, core.one_way])
def test_posterior_of_the_notes_example(effects):
    """Against its quadrature: means and second moments within four standard errors, which come from 64 chains."""
    posterior = of_notes()[0]["posterior"]
    keys = jax.random.split(jax.random.key(13), 64)
    state = one_way_start(np.zeros(7), 0.0)
    states = jax.tree.map(lambda x: jnp.broadcast_to(x, (64, *jnp.shape(x))), state)
    drawn = jax.tree.map(lambda x: x[:, 25:], chains(keys, states, effects, 250, 8))
    values = np.concatenate(
        [drawn.covariances[0][..., 0], drawn.sigma[..., None] ** 2, drawn.beta, drawn.b[0][..., 0]], -1
    )
    mean, sd = (np.array(list(posterior[name].values())) for name in ("mean", "sd"))
    for statistic, expected in ((values, mean), ((values - mean) ** 2, sd**2)):
        of_chains = statistic.mean(1)
        z = (of_chains.mean(0) - expected) / (of_chains.std(0, ddof=1) / np.sqrt(64))
        assert np.abs(z).max() < 4, z


def test_one_way_is_for_one_way_designs():
    cp = products_of("vector 3", build("vector 3", 1))
    priors = priors_of(cp, np.random.default_rng(1))
    assert not core.is_one_way(cp)
    with pytest.raises(ValueError, match=r"y ~ 1 \+ \(1 \| g\)"):
        gibbs_kernel(jax.random.key(0), cp, priors, start_of(cp, priors), 1, effects=core.one_way)


# ------------------------------------------------------------------------------------------------------------- runs


@cache
def run_of(draws: int, thin: int):
    return compiled(lambda key, cp, priors, state, first: gibbs_kernel(key, cp, priors, state, draws, thin, first))


def vector_term(y: float = 1.0, x: float = 1.0, z: float = 1.0, shift: float = 0.0):
    """Cross-products, priors and a state; y, a column of X and one of Z in other units, X·shift added to y."""
    design = build("vector 2", 14)
    of_x, of_z, half = np.array([1, x, 1]), np.array([1, z]), np.array([1.0, 2.0])
    term = replace(design.terms[0], x=design.terms[0].x * of_z)
    response = y * (design.y + design.X @ np.full(3, shift))
    design = design.replace(X=design.X * of_x, y=response, terms=(term,), offset=y * design.offset)
    cp = products("vector 2", design, orthonormal=True).without_rows()
    mean, sd = (y * np.array(v) / of_x for v in ([1 + shift, shift - 1, shift], [2.0, 1.0, 3.0]))
    priors = Priors(mean, sd, HalfT(3.0, np.array([y])), (HalfT(2.0, y * half / of_z),))
    theta = jnp.array([1.0, 0.2, 0.7]) / of_z[np.array([0, 1, 1])]
    return cp, priors, core.start(cp, priors, theta, jnp.zeros(3), jnp.asarray(y * 1.3))


def test_a_run_in_two_parts_is_the_same_run_and_thinning_keeps_some_of_it():
    """Bit for bit: six sweeps, of which every second one is kept, and three and three."""
    key, (cp, priors, state) = jax.random.key(15), vector_term()
    thinned = run_of(3, 2)(key, cp, priors, state, 0)
    first = run_of(3, 1)(key, cp, priors, state, 0)
    second = run_of(3, 1)(key, cp, priors, jax.tree.map(lambda a: a[-1], first), 3)
    for a, b, c in zip(*map(jax.tree.leaves, (thinned, first, second)), strict=True):
        np.testing.assert_array_equal(a, np.concatenate([b, c])[1::2])


def in_one_kernel_as_in_many(cp, priors, effects) -> None:
    """To rounding, forty sweeps."""
    assert core.is_one_kernel(cp)
    start = start_of(cp, priors)
    kernels = (partial(gibbs_kernel, draws=40, effects=effects, alone=alone) for alone in (True, False))
    one, many = (jit(lambda *a, run=run: run(*a), loop=True)(jax.random.key(2), cp, priors, start) for run in kernels)
    for a, b in zip(*map(jax.tree.leaves, (one, many)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)


def test_one_way_in_one_kernel():
    *_, cp, priors = of_notes()
    in_one_kernel_as_in_many(cp, priors, core.one_way)


@pytest.mark.parametrize("name", ["vector 3", "crossed"])
def test_joint_in_one_kernel(name):
    cp = products_of(name, design_of(name, 3, True))
    in_one_kernel_as_in_many(cp, priors_of(cp, np.random.default_rng(3)), core.joint)


@pytest.mark.parametrize("units", [{"y": 40.0}, {"x": 1e-3, "z": 50.0}, {"shift": 1e3}])
def test_units_of_the_data_are_those_of_the_draws(units):
    base, other = (run_of(3, 1)(jax.random.key(16), *vector_term(**u), 0) for u in ({}, units))
    y, x, z, shift = ({"y": 1, "x": 1, "z": 1, "shift": 0} | units).values()
    of_x, of_z = np.array([1, x, 1]), np.array([1, z])
    for found, expected in (
        (other.sigma, y * base.sigma),
        (other.rss, y**2 * base.rss),
        (other.beta, y * (base.beta + shift) / of_x),
        (other.b[0], y * base.b[0] / of_z),
        (other.covariances[0], y**2 * base.covariances[0] / np.outer(of_z, of_z)),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())


def test_a_chain_stays_in_single_precision():
    """Float32 arrays in, float32 out, also where JAX would have 64 bits."""
    args = jax.tree.map(lambda a: np.asarray(a, np.float32) if np.asarray(a).dtype == float else a, vector_term())
    states = run_of(3, 1)(jax.random.key(16), *args, 0)
    assert {a.dtype for a in jax.tree.leaves(states)} == {np.dtype(np.float32)}
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(states))


def test_templates_without_a_conjugate_law_are_refused():
    design = build("vector 2", 1)
    terms = (replace(design.terms[0], template=Template.compound_symmetry(2)),)
    with pytest.raises(ValueError, match="term 0 has neither a full nor a diagonal covariance"):
        core.blocks_of(cross_products(design.replace(terms=terms)).plan)
