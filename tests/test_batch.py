"""A batch of responses is a loop of single fits: for every elimination plan, however it is cut, with gaps and failures.

The loop is `core.estimate`, which is tested by itself.
"""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
from batch_checks import CONVERGED, FIXED, assert_same, assert_same_criterion, compilations, stacked
from core_cases import (
    ALL,
    CODES,
    N,
    build,
    close,
    float64,  # noqa: F401
    products,
    random_theta,
    rows_of,
)

from lmmjax.core import (
    STATUS,
    CrossProducts,
    Design,
    Estimate,
    Estimates,
    criterion,
    cross_products,
    estimate,
    estimate_many,
    profile,
    simulate,
)

B = 12
BETA = np.array([1.0, -2.0, 0.5])
# Every elimination plan once, as a batch compiles for seconds: "mix" is the chain of "nested 3" and the dense rest of
# "crossed vectors".
LEFT_OUT = ("vector 3", "diagonal", "mix", "crossed vectors, sparse", "long mix, sparse")
PLANS = tuple(n for n in ALL if n not in LEFT_OUT)
SOME = ("scalar", "vector 2", "crossed", "crossed, sparse")
some = pytest.mark.parametrize("name", SOME)
by_both = pytest.mark.parametrize("reml", [True, False])


def responses(design: Design, seed: int, n: int = B) -> np.ndarray:
    """(n, rows) from the model: a quarter with large random effects, a quarter with small ones, half without any."""
    theta, key = random_theta(design, seed), jax.random.key(seed)
    shares = np.repeat([0.8, 0.25, 0.0], [n // 4, n // 4, n - 2 * (n // 4)])
    draws = [simulate(design, s * theta, BETA, 1.0, key, 2, first=2 * i)[0] for i, s in enumerate(shares)]
    return np.array(draws)


@cache
def case(name: str) -> tuple[Design, CrossProducts, np.ndarray]:
    """A small design with weights and an offset, its cross-products and B responses."""
    design = build(name, 7)
    return design, products(name, design, keep_rows=True), responses(design, 3)


@cache
def batch(name: str, reml: bool) -> Estimates:
    """All responses of a case at once."""
    _, cp, Y = case(name)
    return estimate_many(cp, Y, reml)


@cache
def loop(name: str, reml: bool) -> list[Estimate]:
    """The same one by one."""
    _, cp, Y = case(name)
    return [estimate(cp.with_response(y), reml) for y in Y]


def covariances(theta, cp: CrossProducts) -> np.ndarray:
    """(…, entries) T Tᵀ of every term: what the criterion sees of θ."""
    theta = np.asarray(theta)
    parts = [np.zeros((*theta.shape[:-1], 0))]
    for template, s in zip(cp.plan.templates, cp.plan.theta_slices(), strict=True):
        t = np.tensordot(theta[..., s], template.basis, 1)
        parts.append((t @ np.swapaxes(t, -1, -2)).reshape(*theta.shape[:-1], -1))
    return np.concatenate(parts, -1)


# ------------------------------------------------------------------------------------------- one design, many responses


@by_both
@pytest.mark.parametrize("name", PLANS)
def test_a_batch_is_a_loop(name, reml):
    expected = loop(name, reml)
    found = batch(name, reml)
    assert_same_criterion(found.criterion, stacked(expected, "criterion"))
    status = stacked(expected, "status")
    same = found.status == status
    assert np.all(same | (found.status == CONVERGED)), (found.status, status)  # a batch may do better than the loop
    assert found.kept is None
    assert {a.dtype for a in (found.theta, found.beta, found.sigma, found.criterion)} == {np.dtype("float64")}


@by_both
@pytest.mark.parametrize("name", PLANS)
def test_parameters_are_those_of_the_loop(name, reml):
    """Where the criterion is not flat, by the loop's own Hessian."""
    expected, found, cp = loop(name, reml), batch(name, reml), case(name)[1]
    scaled = stacked(expected, "hessian") / (scale := stacked(expected, "scale"))[:, None] / scale[:, :, None]
    flat = np.min(np.linalg.eigvalsh(scaled), axis=-1, initial=1.0) < 1e-3
    assert flat.mean() <= 0.5
    close(covariances(found.theta, cp)[~flat], covariances(stacked(expected, "theta"), cp)[~flat], 1e-5)
    close(covariances(found.theta, cp), covariances(stacked(expected, "theta"), cp), 1e-3)
    for part in ("beta", "sigma"):
        close(getattr(found, part)[~flat], stacked(expected, part)[~flat], 1e-5)
        close(getattr(found, part), stacked(expected, part), 1e-4)


@by_both
@pytest.mark.parametrize("name", [name for name in PLANS if name != "no term"])
def test_every_t_has_a_non_negative_diagonal(name, reml):
    """The sign of a column of T means nothing, and one sign is chosen."""
    found, plan = batch(name, reml), case(name)[1].plan
    for template, s in zip(plan.templates, plan.theta_slices(), strict=True):
        assert np.all(found.theta[:, s][:, np.array(template.start) > 0] >= 0)


@by_both
def test_optima_lie_on_the_boundary_and_inside(reml):
    """Otherwise the comparisons above would leave out one of the two."""
    theta = batch("scalar", reml).theta[:, 0]
    assert 2 <= np.sum(theta < 1e-6) <= B - 2
    assert np.all((theta < 1e-6) | (theta > 1e-3))


# ------------------------------------------------------------------------------------------- hard responses


@by_both
@pytest.mark.parametrize("name", ["scalar", "vector 2", "crossed"])
def test_random_effects_of_all_sizes(name, reml):
    """From a thousandth to a hundred residual standard deviations, alone and with small ones beside large ones.

    Beyond that, cross-products in the basis of X as given lose the digits that are compared.
    """
    design, cp, _ = case(name)
    theta, key = np.abs(random_theta(design, 5)), jax.random.key(5)
    sizes = [[10.0**e] * len(theta) for e in (-3, -2, -1, 1, 2)]
    sizes += [10.0 ** np.where(np.arange(len(theta)) == i, 2, -2) for i in range(len(theta))]
    sizes = (sizes * 3)[:B]  # the number of responses that is compiled already
    draws = [simulate(design, size * theta, BETA, 1.0, key, 2, first=2 * i)[0] for i, size in enumerate(sizes)]
    Y = np.array(draws)
    expected = stacked([estimate(cp.with_response(y), reml) for y in Y], "criterion")
    found = estimate_many(cp, Y, reml)
    assert_same_criterion(found.criterion, expected)
    assert np.all(found.status == CONVERGED)


@pytest.mark.parametrize("name", ["scalar", "crossed"])
@pytest.mark.parametrize(("shift", "scale"), [(0, 1e-6), (0, 1e6), (1e6, 1)])
def test_location_and_scale_of_the_responses(name, shift, scale):
    """In an orthonormal basis of X, as the formula layer has it, a large mean costs no digits."""
    design, _, Y = case(name)
    moved = products(name, design.replace(offset=None), orthonormal=True, keep_rows=True)
    Y = Y - design.offset
    found, whole = estimate_many(moved, shift + scale * Y), batch(name, True)
    expected = whole.criterion + 2 * (N - design.p) * np.log(scale)
    assert_same_criterion(found.criterion, expected)
    close(found.sigma / scale, whole.sigma, 1e-4)
    close(found.beta / scale, whole.beta + np.array([shift, 0, 0]) / scale, 1e-4)
    np.testing.assert_array_equal(found.status, whole.status)


@by_both
@pytest.mark.parametrize("name", ["scalar", "crossed"])
def test_never_above_a_grid(name, reml):
    """The criterion of one variance can have two minima; which is the lower one depends on the response."""
    design, cp, _ = case(name)
    rng = np.random.default_rng(11)
    heavy = rng.standard_t(1.5, size=(240, N)) / np.sqrt(design.weights)
    levels = rng.normal(size=(240, design.terms[0].n_levels)) * rng.choice([0, 0.5, 3], size=(240, 1))
    Y = design.X @ BETA + design.offset + heavy + levels[:, design.terms[0].codes]
    line = np.concatenate([[0], np.geomspace(0.01, 30, 60 if name == "scalar" else 14)])
    grid = np.stack(np.meshgrid(*[line] * design.n_theta), -1).reshape(-1, design.n_theta)

    def least(y):
        return jax.vmap(lambda theta: criterion(theta, cp.with_response(y), reml))(grid).min()

    bound = np.asarray(jax.lax.map(least, Y, batch_size=20))
    parts = [estimate_many(cp, Y[i : i + B], reml) for i in range(0, len(Y), B)]
    found = np.concatenate([part.criterion for part in parts])
    assert np.all(found <= bound + 1e-8 * np.maximum(1, np.abs(bound)))
    assert np.all(np.concatenate([part.status for part in parts]) == CONVERGED)


# ----------------------------------------------------------------------------------------- how the work is cut


@pytest.mark.parametrize("name", ["vector 2", "crossed, sparse"])
def test_chunks_do_not_matter(name):
    _, cp, Y = case(name)
    assert_same(estimate_many(cp, Y, memory=2**14), batch(name, True))


@pytest.mark.parametrize("name", ["vector 2", "crossed"])
def test_neighbours_do_not_matter(name):
    """A response gets the same fit whatever else is in the batch, wherever it stands."""
    _, cp, Y = case(name)
    whole = batch(name, True)
    for rows in ([11, 0, 4], list(range(B))[::-1]):
        assert_same(estimate_many(cp, Y[rows]), jax.tree.map(lambda a, rows=rows: a[rows], whole))


def test_no_response_at_all():
    _, cp, Y = case("scalar")
    found = estimate_many(cp, Y[:0])
    assert found.theta.shape == (0, 1)
    assert found.beta.shape == (0, 3)
    assert found.criterion.shape == found.status.shape == (0,)


def test_a_memmap_is_an_array(tmp_path):
    _, cp, Y = case("scalar")
    np.save(tmp_path / "y.npy", Y)
    mapped = np.load(tmp_path / "y.npy", mmap_mode="r")
    for memory in (2**14, 2**28):  # in chunks and whole
        assert_same(estimate_many(cp, mapped, memory=memory), batch("scalar", True))


def test_the_hook_sees_compilations():
    with compilations() as seen:
        jax.jit(lambda x: x + len(seen))(np.ones(3))
    assert len(seen) == 1


@some
def test_nothing_is_compiled_twice(name):
    """Neither for other responses nor for another design with blocks of the same sizes."""
    _, cp, Y = case(name)
    batch(name, True)
    with compilations() as seen:
        estimate_many(cp, Y[::-1])
        if "sparse" not in name:  # where every example has another number of crossings
            estimate_many(products(name, build(name, 8), keep_rows=True), Y)
    assert seen == []


# ------------------------------------------------------------------------------------------- what is kept


def three_parts(e: Estimate) -> dict:
    """A statistic with more than one part."""
    return {"u": e.u, "ratio": e.beta[0] / e.sigma, "vcov": e.sigma**2 * e.unscaled_vcov}


@pytest.mark.parametrize("name", ["no term", "crossed"])
@by_both
def test_keep_is_any_function_of_an_estimate(name, reml):
    """What it gives belongs to the θ that is reported."""
    _, cp, Y = case(name)
    found = estimate_many(cp, Y, reml, keep=three_parts)
    expected = [three_parts(profile(t, cp.with_response(y), reml)) for t, y in zip(found.theta, Y, strict=True)]
    stack = jax.tree.map(lambda *parts: np.stack(parts), *expected)
    assert jax.tree.structure(found.kept) == jax.tree.structure(stack)
    jax.tree.map(lambda actual, wanted: close(actual, wanted, 1e-8), found.kept, stack)
    assert_same(replace(found, kept=None), batch(name, reml))


def test_what_keep_sees_is_a_whole_estimate():
    _, cp, Y = case("vector 2")
    found = estimate_many(cp, Y, keep=lambda e: e)
    assert isinstance(found.kept, Estimate)
    for part in ("theta", "beta", "sigma", "criterion", "status"):
        np.testing.assert_array_equal(getattr(found.kept, part), getattr(found, part))
    at = [profile(t, cp.with_response(y)) for t, y in zip(found.theta, Y, strict=True)]
    for part in ("prss", "log_l", "log_rx", "deviance", "unscaled_vcov"):
        close(getattr(found.kept, part), stacked(at, part), 1e-10)
    close(found.kept.u[0], np.stack([e.u[0] for e in at]), 1e-8)
    close(found.kept.scale, stacked(loop("vector 2", True), "scale"), 1e-12)
    assert np.max(np.abs(found.kept.gradient / found.kept.scale)) < 0.01


# ------------------------------------------------------------------------------------------- missing rows


def with_gaps(name: str) -> tuple[np.ndarray, np.ndarray]:
    """B responses of a case with NaN, (B, N), and which rows each has: four patterns, one without a whole level."""
    design, _, Y = case(name)
    codes = design.terms[0].codes if design.terms else CODES["g"]
    present = np.ones((B, N), bool)
    present[[1, 4, 8], :5] = False
    present[2::4] &= np.arange(N) % 7 > 0
    present[[3, 9]] &= codes != codes[0]
    present[5, 17:23] = False
    return np.where(present, Y, np.nan), present


@by_both
@pytest.mark.parametrize("name", ["no term", "vector 2", "crossed", "crossed, sparse"])
def test_missing_rows_are_left_out(name, reml):
    design, cp, complete = case(name)
    Y, present = with_gaps(name)
    keep = (lambda e: e.beta) if name == "no term" else None
    found = estimate_many(cp, Y, reml, keep)
    expected = [
        estimate(cross_products(rows_of(design.replace(y=y), rows)).without_rows(), reml)
        for y, rows in zip(complete, present, strict=True)
    ]
    assert_same_criterion(found.criterion, stacked(expected, "criterion"))
    close(found.beta, stacked(expected, "beta"), 1e-4)
    close(found.sigma, stacked(expected, "sigma"), 1e-4)
    assert name != "no term" or np.array_equal(found.kept, found.beta)
    assert set(found.status) <= {CONVERGED, FIXED}


def test_complete_responses_do_not_notice_gaps_in_others():
    _, cp, Y = case("vector 2")
    Y = Y.copy()
    Y[[2, 6], 5] = np.nan
    rest = np.delete(np.arange(B), [2, 6])
    found, whole = estimate_many(cp, Y), batch("vector 2", True)
    assert_same(*(jax.tree.map(lambda a: a[rest], e) for e in (found, whole)))


# ------------------------------------------------------------------------------------------- failures


def test_failures_keep_their_place_and_harm_nobody():
    """What X explains exactly, but for rounding, is a failure too."""
    design, cp, Y = case("vector 2")
    whole = batch("vector 2", True)
    bad = {
        0: design.offset + 5.0,
        2: design.offset,
        5: np.full(N, np.nan),
        6: np.where(np.arange(N) == 3, np.inf, Y[6]),
        7: design.offset + design.X @ BETA,
        B - 1: np.where(np.arange(N) < 2, Y[-1], np.nan),  # fewer rows than columns of X
    }
    broken = Y.copy()
    broken[list(bad)] = list(bad.values())
    found = estimate_many(cp, broken)
    assert CONVERGED not in found.status[list(bad)]
    for i in (5, 6, B - 1):
        assert STATUS[found.status[i]].startswith("failed")
        assert not np.isfinite(found.criterion[i])
    rest = np.setdiff1d(np.arange(B), list(bad))
    assert_same(*(jax.tree.map(lambda a: a[rest], e) for e in (found, whole)))
