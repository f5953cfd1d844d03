"""Process clips in a pool of processes: each gives a result or a reject, in the order of the jobs."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from difftalk.runtime.errors import ClipError
from difftalk.runtime.progress import progress
from difftalk.runtime.rejects import Reject

J = TypeVar("J")
R = TypeVar("R")


def map_clips(
    work: Callable[[J], R],
    jobs: Sequence[tuple[str, J]],
    *,
    stage: str,
    workers: int,
    unit: str = "clips",
    lengths: Sequence[float] | None = None,
) -> Iterator[tuple[str, R | Reject]]:
    """Yield `(clip_id, work(job))` for each `(clip_id, job)`, in the given order.

    A `ClipError` becomes a `Reject`; any other exception is a bug or the machine's fault, and ends the stage.

    Args:
        work: a picklable function.
        jobs: picklable.
        stage: name of the stage, for rejects and the progress bar.
        workers: processes; with one, all runs in this process.
        unit: what the progress bar counts.
        lengths: of each job, in any unit. The long ones are begun first, so that no worker is left with the
            longest clip when the others are done.
    """
    if workers <= 1:
        results: Iterator[R | ClipError] = (_guarded(work, job) for _, job in jobs)
        yield from _verdicts(jobs, results, stage, unit)
        return
    # Spawned, not forked: torch, FFmpeg and OpenCV hold threads that do not survive a fork.
    context = multiprocessing.get_context("spawn")
    # The workers' memory in large pages where the system has them (glibc reads this when a process starts):
    # dlib's landmarks, which jump through 100 MB of trees, take a quarter less time.
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    processes = min(workers, max(len(jobs), 1))
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with_parent) as pool:
        try:
            long_first = sorted(range(len(jobs)), key=lambda k: -lengths[k] if lengths is not None else k)
            futures = {k: pool.submit(_guarded, work, jobs[k][1]) for k in long_first}
            yield from _verdicts(jobs, (futures[k].result() for k in range(len(jobs))), stage, unit)
        except BaseException:
            # An error or a signal: the other clips are not needed any more, so do not wait for them.
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise


def _end_with_parent() -> None:
    """End this worker when its parent ends, even if that is killed and cannot say so."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _guarded(work: Callable[[J], R], job: J) -> R | ClipError:
    try:
        return work(job)
    except ClipError as e:
        return e


def _verdicts(
    jobs: Sequence[tuple[str, J]], results: Iterator[R | ClipError], stage: str, unit: str
) -> Iterator[tuple[str, R | Reject]]:
    for (clip_id, _), result in progress(zip(jobs, results, strict=True), len(jobs), stage, unit):
        yield clip_id, Reject.of(clip_id, stage, result) if isinstance(result, ClipError) else result
