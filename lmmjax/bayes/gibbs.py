"""gibbs(): formula, data and priors in, posterior draws out."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from patsy import EvalEnvironment

from ..core import gibbs as core
from ..core.compile import jit
from ..core.start import default_start
from ..errors import DataError
from ..guard import check_counts
from ..inference.sampling import Chunks
from ..precision import float64, in_float64, to_numpy
from ..refitting import key_of
from .model import Model, model_of
from .posterior import inference_data
from .priors import Priors, laws

KERNELS = {"joint": core.joint, "one_way": core.one_way}
STATE = "lmmjax_state"  # where InferenceData keeps what `resume` needs
MEMORY = 2**25  # bytes that the random numbers of a block may take, of the chains that are run as one
LONGEST, STEP = 2**14, 2**10  # draws in a block at most, and of what its size is a multiple: few shapes are compiled
DISPERSION = 0.7  # log standard deviation of the chains' first standard deviations about a common guess


def gibbs(
    formula: str,
    data: Any,
    priors: Priors | None = None,
    draws: int = 1000,
    warmup: int = 1000,
    chains: int = 4,
    seed: Any = 0,
    thin: int = 1,
    kernel: str = "joint",
    log_likelihood: bool = False,
    progress: bool = False,
    resume: Any = None,
    **options: Any,
) -> Any:
    """Posterior draws of a linear mixed model by Gibbs sampling, as ArviZ's InferenceData.

    formula, data and options : as in `lmer` (weights, offset, contrasts, subset, na_action, relmat, covariance), but
    missing values are refused unless na_action="omit". priors : `lj.Priors`; what it leaves out has wide defaults.
    draws : kept of each chain, every `thin`-th sweep, after `warmup` sweeps (rounded up to a multiple of thin).
    chains : started from standard deviations that differ by a factor of two or so; chain i of a seed is the same
    whatever their number (on an accelerator to rounding). kernel : "joint" draws all coefficients and effects at once;
    "one_way", for y ~ 1 + (1 | g), first the mean and then each effect, as textbooks do. log_likelihood : keep that of
    each row given the effects (draws × n numbers a chain). progress : show a bar. resume : the result of an earlier
    call for the same model, whose chains go on, with its seed, thin and kernel and without warmup; returns its draws
    and the new ones, as one longer run would have been (predictions have to be made again).
    The posterior has beta (column), sigma, and for each term t sd_t, cor_t and b_t; sample_stats the residual sum of
    squares. Raises DataError and FormulaError for data, formula and priors, ValueError and TypeError for options.
    """
    check_counts(draws=(draws, 1), warmup=(warmup, 0), chains=(chains, 1), thin=(thin, 1))
    if kernel not in KERNELS:
        raise ValueError(f"kernel={kernel!r}: choose one of {', '.join(KERNELS)}")
    model = model_of(formula, data, priors, EvalEnvironment.capture(1), options)
    if kernel == "one_way" and not core.is_one_way(model.cross_products):
        raise DataError(f"kernel='one_way' is for models y ~ 1 + (1 | g), not for {formula!r}")
    with float64():
        run = _begun(model, seed, chains, thin, kernel) if resume is None else _Run.read(model, resume)
        log_likelihood = log_likelihood if resume is None else "log_likelihood" in resume.groups()
        run, states = run.go_on(draws, 0 if resume is not None else -(-warmup // thin), progress)
        found = _as_draws(run, states, log_likelihood)
    return found if resume is None else _joined(resume, found)


@dataclass(frozen=True)
class _Run:
    """Chains on their way. keys : of the chains. sweeps : how many each has made; state : where they are."""

    model: Model
    keys: Any
    thin: int
    kernel: str
    sweeps: int
    state: core.State

    def go_on(self, draws: int, skipped: int, progress: bool) -> tuple["_Run", core.State]:
        """The run afterwards, and its states (chains, draws, …) without the first `skipped`."""
        cp, total = self.model.cross_products, draws + skipped
        effects = cp.p + sum(f.q for f in cp.plan.chain + cp.plan.rest)
        todo = Chunks(total, _block(total, 8 * self._together * self.thin * effects), progress, unit=" draws")
        now, kept = self, []
        for at, count in todo:
            states = now._block_of(todo.size)
            now = replace(now, state=_draws_of(states, count - 1), sweeps=now.sweeps + count * self.thin)
            kept.append(_draws_of(states, slice(max(0, skipped - at), count)))
        return now, jax.tree.map(lambda *a: np.concatenate(a, 1), *kept)

    @property
    def _together(self) -> int:
        """How many chains make one computation.

        An accelerator takes all at once. On a CPU each is by itself and the cores share them: that is as fast, and no
        bit of a chain depends on how many there are.
        """
        return 1 if jax.default_backend() == "cpu" else len(self.keys)

    def _block_of(self, draws: int) -> core.State:
        """The next states (chains, draws, …) of all chains."""
        cp, size = self.model.cross_products, self._together
        of_priors = laws(self.model.priors, cp.plan)
        sweep_on = _sweeper(draws, self.thin, KERNELS[self.kernel], size == 1 and core.is_one_kernel(cp))

        @in_float64
        def of(first: int) -> core.State:
            own = slice(first, first + size)
            state = jax.tree.map(lambda a: a[own], self.state)
            return to_numpy(sweep_on(self.keys[own], cp, of_priors, state, self.sweeps))

        if size == len(self.keys):  # here, where the caller's choice of a device holds
            return of(0)
        with ThreadPoolExecutor(os.cpu_count()) as cores:
            parts = list(cores.map(of, range(0, len(self.keys), size)))
        return jax.tree.map(lambda *a: np.concatenate(a), *parts)

    def written(self) -> str:
        """What `read` needs, as JSON; floats keep every bit."""
        leaves = [np.asarray(a).tolist() for a in jax.tree.leaves(self.state)]
        keys = jax.random.key_data(self.keys).tolist()
        rest = {"thin": self.thin, "kernel": self.kernel, "sweeps": self.sweeps, "model": _identity(self.model)}
        return json.dumps({"keys": keys, "state": leaves, **rest})

    @classmethod
    def read(cls, model: Model, idata: Any) -> "_Run":
        """The run that ended with this InferenceData."""
        text = getattr(getattr(idata, "posterior", None), "attrs", {}).get(STATE)
        if text is None:
            raise DataError("resume: this is no result of lj.gibbs, or its posterior's attrs were lost")
        saved = json.loads(text)
        if saved.pop("model") != _identity(model):
            raise DataError("resume: the formula, the data or the priors are not those of the earlier run")
        keys = jax.random.wrap_key_data(jnp.array(saved.pop("keys"), jnp.uint32))
        leaves = [np.array(a, float) for a in saved.pop("state")]
        tree = jax.tree.structure(_started(model, keys[:1]))
        return cls(model, keys, state=jax.tree.unflatten(tree, leaves), **saved)


def _block(total: int, bytes_each: int) -> int:
    """How many draws at a time: as few blocks as memory allows, nearly equal, of which an eighth at most is waste."""
    most = max(1, min(LONGEST, MEMORY // bytes_each))
    step = 2 ** int(np.log2(min(STEP, most, max(1, total // 8))))
    blocks = -(-total // (most // step * step))
    return step * -(-total // (blocks * step))


def _draws_of(states: core.State, which: Any) -> core.State:
    return jax.tree.map(lambda a: a[:, which], states)


def _identity(model: Model) -> list:
    return [model.schema.formula, model.design.n, float(model.cross_products.response.yy), str(model.priors)]


def _begun(model: Model, seed: Any, chains: int, thin: int, kernel: str) -> _Run:
    root = key_of(seed)
    pairs = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(root, i)))(jnp.arange(chains))
    return _Run(model, pairs[:, 1], thin, kernel, 0, _started(model, pairs[:, 0]))


def _started(model: Model, keys: Any) -> core.State:
    """A state for each key: T = I in the columns' units and half of what X leaves as variance, times random factors."""
    cp = model.cross_products
    beta = np.linalg.solve(cp.basis, cp.response.shift)
    sigma = np.sqrt(0.5 * cp.response.yy / cp.n)
    return to_numpy(_starts(keys, cp, laws(model.priors, cp.plan), default_start(cp), beta, sigma))


def _start(key: Any, cp: Any, of_priors: core.Priors, theta: Any, beta: Any, sigma: Any) -> core.State:
    factors = jnp.exp(DISPERSION * jax.random.normal(key, (1 + len(theta),)))
    return core.start(cp, of_priors, theta * factors[1:], beta, sigma * factors[0])


@jit
def _starts(keys: Any, *common: Any) -> core.State:
    return jax.lax.map(lambda key: _start(key, *common), keys)


@lru_cache
def _sweeper(draws: int, thin: int, effects: Any, alone: bool) -> Any:
    """The kernel for some chains: (keys, cp, priors, states, first) → states (chains, draws, …)."""
    compiled = {one: _compiled(draws, thin, effects, one) for one in (True, False)}

    def sweep_on(*args: Any) -> core.State:
        nonlocal alone
        if alone:
            with suppress(jax.errors.JaxRuntimeError):
                return compiled[True](*args)
            alone = False  # another XLA, which makes no one kernel of it
        return compiled[False](*args)

    return sweep_on


def _compiled(draws: int, thin: int, effects: Any, alone: bool) -> Any:
    def blocks(keys: Any, cp: Any, of_priors: core.Priors, states: core.State, first: int) -> core.State:
        def chain(key: Any, state: core.State) -> core.State:
            return core.gibbs_kernel(key, cp, of_priors, state, draws, thin, first, effects, alone)

        if len(keys) > 1:
            return jax.vmap(chain)(keys, states)
        return jax.tree.map(lambda a: a[None], chain(keys[0], jax.tree.map(lambda a: a[0], states)))

    return jit(blocks, loop=True)


def _as_draws(run: _Run, states: core.State, log_likelihood: bool) -> Any:
    schema, design = run.model.schema, run.model.design
    draws = {name: getattr(states, name) for name in ("beta", "sigma", "covariances", "b")}
    found = inference_data(schema, design, draws, log_likelihood, {"rss": states.rss})
    found.posterior.attrs[STATE] = run.written()
    return found


def _joined(before: Any, after: Any) -> Any:
    """Both, draw after draw, in the groups that sampling makes."""
    import arviz
    import xarray

    groups = {"observed_data": after.observed_data}
    for name in ("posterior", "sample_stats", "log_likelihood"):
        if name in after.groups():
            parts = [before[name], after[name].assign_coords(draw=after[name].draw + before[name].sizes["draw"])]
            groups[name] = xarray.concat(parts, "draw", combine_attrs="override", data_vars="minimal")
    groups["posterior"].attrs[STATE] = after.posterior.attrs[STATE]
    return arviz.InferenceData(**groups)
