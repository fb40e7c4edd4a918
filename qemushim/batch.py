"""Work on many guests at once: in processes of this machine, or wherever an executor puts it.

>>> from qemushim import batch
>>> batch.map(examine, tasks)                                  # processes, as many as there are processors
>>> batch.map(examine, tasks, executor=client.get_executor())  # a Dask cluster
>>> for finding in batch.each(examine, tasks): ...              # one after the other, of as many as there are
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

#: items that go to a worker together: work on one takes milliseconds
CHUNK = 8
#: chunks of ``each`` that are under way at once: each worker has its next one before it has done the last
AHEAD = 16


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
    with _processes(count, function) as own:
        return _gather(own, function, chunks, done)


def each(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    chunk: int = CHUNK,
) -> Generator[R, None, None]:
    """``function(item) for item in items``, in that order, of a stream: items are taken as workers get free.

    So memory stays the same however many items there are; for the rest see ``map``.
    """
    stream = iter(items)
    count = workers or os.cpu_count() or 1
    if executor is not None:
        yield from _stream(executor, function, stream, chunk)
    elif count <= 1:
        for item in stream:
            yield function(item)
    else:
        with _processes(count, function) as own:
            yield from _stream(own, function, stream, chunk)


def _processes(count: int, function: Callable[[T], R]) -> ProcessPoolExecutor:
    """Workers of our own, for one call."""
    context = multiprocessing.get_context("fork" if _may_fork() else "forkserver")
    if isinstance(context, multiprocessing.context.ForkServerContext):
        # every worker would load everything anew
        context.set_forkserver_preload([getattr(function, "__module__", "") or "qemushim"])
    # what a worker begins with stays: it is not looked through for garbage again and again
    return ProcessPoolExecutor(count, mp_context=context, initializer=gc.freeze)


def _stream(executor: Executor, function: Callable[[T], R], stream: Iterator[T], chunk: int) -> Iterator[R]:
    under_way: deque[Future[list[R]]] = deque()
    try:
        while part := list(islice(stream, chunk)):
            under_way.append(executor.submit(_work, function, part))
            if len(under_way) >= AHEAD:
                yield from under_way.popleft().result()
        while under_way:
            yield from under_way.popleft().result()
    finally:
        for future in under_way:
            future.cancel()


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


__all__ = ["CHUNK", "each", "map"]
