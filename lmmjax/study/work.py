"""Blocks of replicates on an executor: what is sent, what comes back, and what happens when a worker dies."""

import multiprocessing
import pickle
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from typing import Any, NamedTuple, TypeAlias

import pandas as pd

IN_FLIGHT = 64  # blocks that wait in an executor's queue
RETRIES = 5  # times that a block is sent again after the worker that had it died


class Task(NamedTuple):
    """A block of replicates of a scenario, by their numbers."""

    scenario: int
    block: int


class Failure(NamedTuple):
    """What a scenario raised. text : the exception; trace : where it came from."""

    text: str
    trace: str


class WorkersLost(RuntimeError):
    """Workers died again and again."""


Outcome: TypeAlias = pd.DataFrame | Failure
Compute: TypeAlias = Callable[[int, int], pd.DataFrame]


def attempt(compute: Compute, task: Task) -> Outcome:
    """The rows of a block, or how it failed; also what an executor's worker runs."""
    try:
        return compute(*task)
    except Exception as error:
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())


def outcomes(compute: Compute, tasks: Iterable[Task], executor: Executor | None) -> Iterator[tuple[Task, Outcome]]:
    """Every task with its outcome, in any order; the rest of a scenario that fails is left out.

    compute : (scenario, block) → rows; to be pickled if there is an executor. Raises TypeError where it cannot be,
    ValueError for a pool that forks, WorkersLost.
    """
    if executor is not None:
        _check(compute, executor)
        yield from _Crew(compute, tasks, executor).outcomes()
        return
    failed = set()
    for task in tasks:
        if task.scenario not in failed:
            outcome = attempt(compute, task)
            failed |= {task.scenario} if isinstance(outcome, Failure) else set()
            yield task, outcome


def _check(compute: Compute, executor: Executor) -> None:
    if isinstance(executor, ProcessPoolExecutor):
        context = getattr(executor, "_mp_context", None) or multiprocessing.get_context()
        if context.get_start_method() == "fork":
            raise ValueError(
                "JAX does not survive a fork: make the pool by "
                "ProcessPoolExecutor(mp_context=multiprocessing.get_context('spawn'))"
            )
    try:
        pickle.dumps(compute)
    except Exception as error:
        text = "cannot be sent to another process; define its functions at the top of a module"
        raise TypeError(f"the study {text} ({type(error).__name__}: {error})") from None


class _Crew:
    """An executor at work on tasks, and where it has broken, a pool like it."""

    def __init__(self, compute: Compute, tasks: Iterable[Task], executor: Executor) -> None:
        self.compute, self.waiting, self.given = compute, deque(tasks), executor
        self.own: Executor | None = None
        self.running: dict[Future, Task] = {}
        self.deaths: Counter[Task] = Counter()
        self.failed: set[int] = set()

    def outcomes(self) -> Iterator[tuple[Task, Outcome]]:
        """As they come."""
        try:
            while self.waiting or self.running:
                self._send()
                done, _ = wait(self.running, return_when=FIRST_COMPLETED)
                for task, future in [(self.running.pop(future), future) for future in done]:
                    if (error := _died(future)) is not None:
                        self._lost(task, error)
                    elif task.scenario not in self.failed:
                        if isinstance(future.result(), Failure):
                            self.failed.add(task.scenario)
                        yield task, future.result()
        finally:
            for future in self.running:
                future.cancel()
            if self.own is not None:
                self.own.shutdown(wait=False, cancel_futures=True)

    def _send(self) -> None:
        while self.waiting and len(self.running) < IN_FLIGHT:
            task, executor = self.waiting.popleft(), self.own or self.given
            if task.scenario in self.failed:
                continue
            try:
                self.running[executor.submit(attempt, self.compute, task)] = task
            except RuntimeError as error:  # broken, or shut down
                self._lost(task, error)
                self.own = _like(executor, error)

    def _lost(self, task: Task, error: BaseException) -> None:
        self.deaths[task] += 1
        if self.deaths[task] > RETRIES:
            text = f"the workers that had block {task.block} of scenario {task.scenario} died {RETRIES + 1} times"
            raise WorkersLost(f"{text}; what was done is kept. The last one: {error!r}") from error
        self.waiting.appendleft(task)


def _died(future: Future) -> BaseException | None:
    """`attempt` raises nothing: an exception is the executor's."""
    if future.cancelled():
        return RuntimeError("the executor gave the block up")
    return future.exception()


def _like(executor: Executor, error: BaseException) -> Executor:
    """A new process pool in the place of a broken one."""
    if not isinstance(executor, ProcessPoolExecutor):
        raise WorkersLost(f"the executor takes no more work; what was done is kept ({error!r})") from error
    known: Any = executor
    executor.shutdown(wait=False, cancel_futures=True)
    return ProcessPoolExecutor(known._max_workers, known._mp_context, known._initializer, known._initargs)
