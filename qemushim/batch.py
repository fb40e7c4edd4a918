"""Work on many guests at once: in processes of this machine, or wherever an executor puts it.

>>> from qemushim import batch
>>> batch.map(examine, tasks)                                  # processes, as many as there are processors
>>> batch.map(examine, tasks, executor=client.get_executor())  # a Dask cluster
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

#: items that go to a worker together: work on one takes milliseconds
CHUNK = 8


def map(  # noqa: A001 - it is map, with somewhere else to do the work
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    chunk: int = CHUNK,
    done: Callable[[R], object] | None = None,
) -> list[R]:
    """``[function(item) for item in items]``, in that order, by the workers of an executor.

    ``executor``: any ``concurrent.futures.Executor``, which is not shut down here; ``None``: processes of this machine
    for this call, ``workers`` of them (one a processor), or none at all where there is little to do.  For processes and
    clusters ``function`` must be importable and items and results must pickle.  ``done`` is called with each result
    as it comes, in whatever order.  Raises what ``function`` raises first; work that has not begun then is dropped.
    """
    everything = list(items)
    chunks = [everything[start : start + chunk] for start in range(0, len(everything), chunk)]
    if executor is not None:
        return _gather(executor, function, chunks, done)
    count = min(workers or os.cpu_count() or 1, len(chunks))
    if count <= 1:
        return _here(function, everything, done)
    context = multiprocessing.get_context("fork" if _may_fork() else "forkserver")
    if isinstance(context, multiprocessing.context.ForkServerContext):
        # every worker would load everything anew
        context.set_forkserver_preload([getattr(function, "__module__", "") or "qemushim"])
    with ProcessPoolExecutor(count, mp_context=context) as own:
        return _gather(own, function, chunks, done)


def _may_fork() -> bool:
    """Whether a copy of this process is safe (no threads run): it is ready at once, whatever the main module does."""
    return threading.active_count() == 1 and "fork" in multiprocessing.get_all_start_methods()


def _here(function: Callable[[T], R], items: list[T], done: Callable[[R], object] | None) -> list[R]:
    results = []
    for item in items:
        results.append(function(item))
        if done is not None:
            done(results[-1])
    return results


def _gather(
    executor: Executor,
    function: Callable[[T], R],
    chunks: list[list[T]],
    done: Callable[[R], object] | None,
) -> list[R]:
    futures = {executor.submit(_work, function, part): number for number, part in enumerate(chunks)}
    results: list[list[R]] = [[] for _ in chunks]
    try:
        for future in as_completed(futures):
            results[futures[future]] = future.result()
            if done is not None:
                for result in results[futures[future]]:
                    done(result)
    except BaseException:
        for future in futures:
            future.cancel()
        raise
    return [result for part in results for result in part]


def _work(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    return [function(item) for item in items]


__all__ = ["CHUNK", "map"]
