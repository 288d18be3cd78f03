"""An equivalent model with fewer levels, for batches over responses.

Levels of one grouping factor with the same Gram block are exchangeable: an orthogonal transformation of their rows
changes no criterion. It can gather all that they have in common with X in the first few; of the others only the sum of
products of y remains, which is a Cholesky factor. What is left of them is their number, in log|L|.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .crossprod import CrossProducts
from .linalg import UNROLL, cholesky
from .products import Response, Stage

EQUAL = 12  # decimals, relative to the largest element, to which Gram blocks are the same
WORTH = 0.7  # share of the levels from which merging does not pay
MOST_LEVELS = 1500  # whose rotation is cheap


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Merged:
    """The smaller model. Its estimates of θ, β, σ and its criterion are those of the whole; its random effects are not.

    cp : with L levels. kept : (a, ℓ) orthogonal combinations of levels that stay. summed : (b, ℓ) those of which only
    sums of products matter, in groups `slot` (b,). root : (L,) square roots of how many levels each stands for.
    """

    cp: CrossProducts
    kept: Any
    summed: Any
    slot: Any
    root: Any

    def response(self, whole: Response) -> Response:
        """A response to the whole model as one of the smaller."""
        zy, p = whole.zy[0], whole.zy[0].shape[-1]
        rotated = self.summed @ zy
        groups = (self.root.shape[0] - self.kept.shape[0]) // p
        products = jax.ops.segment_sum(rotated[:, :, None] * rotated[:, None, :], self.slot, groups)
        ridge = 1e-15 * jnp.trace(products, axis1=1, axis2=2) + 1e-300  # far below what y determines
        factors = cholesky(products + ridge[:, None, None] * jnp.eye(p, dtype=zy.dtype))
        rows = jnp.concatenate([self.kept @ zy, factors.mT.reshape(-1, p)])
        return replace(whole, zy=(rows / self.root[:, None],))


def merge_levels(cp: CrossProducts) -> Merged | None:
    """The smaller model of NumPy cross-products; None where there is nothing to gain."""
    plan = cp.plan
    if plan.rest or len(plan.chain) != 1 or plan.chain[0].p > UNROLL or plan.chain[0].n_levels > MOST_LEVELS:
        return None
    stage, p = cp.stages[0], plan.chain[0].p
    blocks = np.round(stage.gram / np.max(abs(stage.gram)), EQUAL).reshape(len(stage.gram), -1)
    _, first, group = np.unique(blocks, axis=0, return_index=True, return_inverse=True)
    group = group.ravel()
    kept, of_kept, summed, of_summed = _rotations(group, stage.border, p)
    tails, slot = np.unique(of_summed, return_inverse=True)
    members = np.concatenate([of_kept, np.repeat(tails, p)])
    if stage.multiplicity is not None or len(members) > WORTH * len(group):
        return None
    count = (np.bincount(group) / np.bincount(members))[members]
    border = np.concatenate([np.tensordot(kept, stage.border, 1), np.zeros((len(tails) * p, *stage.border.shape[1:]))])
    root = np.sqrt(count)
    small = Stage(stage.gram[first][members], border / root[:, None, None], multiplicity=count)
    chain = (replace(plan.chain[0], n_levels=len(members)),)
    whole = replace(cp.without_rows(), stages=(small,), plan=replace(plan, chain=chain))
    return Merged(whole, kept, summed, slot, root)


def _rotations(group: np.ndarray, border: np.ndarray, p: int):
    """Rows of an orthogonal matrix: (a, ℓ) that meet X and their groups (a,), (b, ℓ) that do not and theirs."""
    kept, of_kept, summed, of_summed = [], [], [], []
    for g in range(group.max() + 1):
        levels = np.flatnonzero(group == g)
        q, r = np.linalg.qr(border[levels].reshape(len(levels), -1), mode="complete")
        rows = np.zeros((len(levels), len(group)))
        rows[:, levels] = q.T
        head = r.shape[1] if len(levels) - r.shape[1] > p else len(levels)
        kept.append(rows[:head])
        summed.append(rows[head:])
        of_kept += [g] * head
        of_summed += [g] * (len(levels) - head)
    return np.concatenate(kept), np.array(of_kept, int), np.concatenate(summed), np.array(of_summed, int)
