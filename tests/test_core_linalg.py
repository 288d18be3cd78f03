"""Small symmetric matrices: what is written out equals LAPACK."""

import jax
import numpy as np
import pytest

from lmmjax.core.linalg import eigh
from lmmjax.precision import float64

rng = np.random.default_rng(5)


def symmetric(kind: str, p: int) -> np.ndarray:
    """(200, p, p): dense, badly scaled, with repeated and tiny eigenvalues, or diagonal."""
    a = rng.normal(size=(200, p, p))
    if kind == "scaled":
        size = 10.0 ** rng.uniform(-5, 5, (200, p))
        a *= size[:, :, None] * size[:, None, :]
    if kind == "repeated":
        q = np.linalg.qr(a)[0]
        a = q * rng.choice([1, 1 + 1e-7, -3, 1e-8, 2], size=(200, 1, p)) @ q.swapaxes(1, 2)
    if kind == "diagonal":
        a *= np.eye(p)
    return a + a.swapaxes(1, 2)


@pytest.mark.parametrize("kind", ["dense", "scaled", "repeated", "diagonal"])
@pytest.mark.parametrize("p", [1, 2, 3, 4, 5])
def test_eigenvectors_diagonalise(kind, p):
    a = symmetric(kind, p)
    with float64():
        values, vectors = map(np.asarray, jax.jit(jax.vmap(eigh))(a))
    size = abs(a).max((1, 2), keepdims=True)
    turned = vectors.swapaxes(1, 2)
    assert (abs(vectors * values[:, None, :] @ turned - a) / size).max() < 1e-14
    assert abs(turned @ vectors - np.eye(p)).max() < 1e-14
    np.testing.assert_allclose(np.sort(values, 1) / size[:, 0], np.linalg.eigvalsh(a) / size[:, 0], atol=1e-14)
