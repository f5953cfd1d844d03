"""Process clips, in a pool of processes or in this one: each gives a result or a reject, in order.

What is raised while one clip is worked on is that clip's reject, whatever its type (`guarded`). A stage ends
only on a user's mistake, a fault of the machine, or where too many clips are rejected.
"""

import itertools
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import Any, TypeVar

from difftalk.runtime.errors import ClipError, UserError, is_machine_fault
from difftalk.runtime.progress import progress
from difftalk.runtime.rejects import Reject

J = TypeVar("J")
R = TypeVar("R")

# Signals by which a process ends itself: what it worked on is at fault. SIGKILL comes from the system.
CRASHES = frozenset((signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL))

logger = logging.getLogger(__name__)

# What a worker's environment differs in from that of its parent. It has one thread: clips run side by side,
# and Snakemake gives the libraries as many as the whole job has. Its memory is in large pages where there are
# any (glibc reads this when a process starts): dlib's landmarks, which jump through 100 MB of trees, take a
# quarter less time.
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}

# In a worker: where it notes the job that it is at.
_notes: Any = None


def share(module: str, workers: int) -> bool:
    """Begin to import what the workers of a pool will have in common; this process goes on meanwhile.

    They are forked from one process that has imported it. So it is read once, and what they look at stays in
    the processor's cache for all of them.

    Args:
        module: its name. Importing it must start no thread. Where it cannot be imported, workers say why.
        workers: as of `map_clips`.

    Returns:
        Whether they will share it: not in one process, and on Linux only.
    """
    if workers <= 1 or sys.platform != "linux":
        return False
    forkserver.set_forkserver_preload([module])
    with _environment(WORKER_ENVIRONMENT):
        forkserver.ensure_running()
    return True


def _end_sharing() -> None:
    """End the process from which workers were forked, so that the next pool has another one.

    It would end with this process. But only if it is waited for, its time and that of its workers counts.
    """
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


def guarded(work: Callable[[J], R], job: J, name: str = "") -> R | ClipError:
    """Return `work(job)`, or why this clip cannot be used.

    A `ClipError` is returned. Any other exception becomes `failed`, with its traceback in the log: one file
    must not cost the others of its shard, and a bug that concerns all of them exceeds `max_reject_fraction`.

    Args:
        work: what is done to a clip.
        job: its argument.
        name: of the clip, for the log.

    Raises:
        UserError: as `work` does.
        Exception: a fault of the machine (`is_machine_fault`).
    """
    try:
        return work(job)
    except ClipError as e:
        return e
    except UserError:
        raise
    except Exception as e:
        if is_machine_fault(e):
            if name:
                e.add_note(f"at {name}")
            raise
        logger.exception("%s: unexpected error", name)
        return ClipError("failed", f"{type(e).__name__}: {e}")


def one_ahead(work: Callable[[J], R], jobs: Iterable[J]) -> Iterator[R]:
    """Yield `work(job)` of each job; a thread does the next one while the caller is at the last.

    The thread also takes the jobs, so that `jobs` may read a file. Two results exist at a time.

    Raises:
        Exception: what `work` or `jobs` raises, where the caller would have met it without a thread.
    """
    left = iter(jobs)

    def following() -> list[R]:
        return [work(job) for job in itertools.islice(left, 1)]

    with ThreadPoolExecutor(1, thread_name_prefix="one ahead") as thread:
        ready = thread.submit(following)
        while done := ready.result():
            ready = thread.submit(following)
            yield done[0]


def map_clips(
    work: Callable[[J], R],
    jobs: Sequence[tuple[str, J]],
    *,
    stage: str,
    workers: int,
    unit: str = "clips",
    lengths: Sequence[float] | None = None,
    shared: str | None = None,
) -> Iterator[tuple[str, R | Reject]]:
    """Yield `(clip_id, work(job))` for each `(clip_id, job)`, in the given order.

    An exception becomes a `Reject` as `guarded` says. So does a crash of a worker process, such as a
    decoder's on a damaged file: the other clips go on in a new pool.

    Args:
        work: a picklable function.
        jobs: picklable.
        stage: name of the stage, for rejects and the progress bar.
        workers: processes; with one, all runs in this process.
        unit: what the progress bar counts.
        lengths: of each job, in any unit. The long ones are begun first, so that no worker is left with the
            longest clip when the others are done.
        shared: a module that the workers shall have in common, as of `share`.

    Raises:
        UserError: as `work`; where the system killed a worker, with the clip that it worked on.
        Exception: a fault of the machine.
    """
    if workers <= 1:
        results: Iterator[R | ClipError] = (guarded(work, job, clip_id) for clip_id, job in jobs)
    else:
        results = _pooled(work, jobs, workers, lengths, shared)
    for (clip_id, _), result in progress(zip(jobs, results, strict=True), len(jobs), stage, unit):
        yield clip_id, Reject.of(clip_id, stage, result) if isinstance(result, ClipError) else result


def _pooled(
    work: Callable[[J], R],
    jobs: Sequence[tuple[str, J]],
    workers: int,
    lengths: Sequence[float] | None,
    shared: str | None,
) -> Iterator[R | ClipError]:
    """Yield the results in the order of the jobs."""
    # Not forked from this process: torch, FFmpeg and OpenCV hold threads that do not survive a fork.
    if shared is None or not share(shared, workers):
        yield from _in_pools(multiprocessing.get_context("spawn"), work, jobs, workers, lengths)
        return
    try:
        yield from _in_pools(multiprocessing.get_context("forkserver"), work, jobs, workers, lengths)
    finally:
        _end_sharing()


def _in_pools(
    context: Any,
    work: Callable[[J], R],
    jobs: Sequence[tuple[str, J]],
    workers: int,
    lengths: Sequence[float] | None,
) -> Iterator[R | ClipError]:
    """Yield the results; after a crash, with a new pool for those that are left."""
    long_first = sorted(range(len(jobs)), key=lambda k: -lengths[k] if lengths is not None else k)
    done: dict[int, R | ClipError] = {}
    given = 0
    while given < len(jobs):
        left = [k for k in long_first if k >= given and k not in done]
        processes = min(workers, max(len(left), 1))
        futures: dict[int, Future[R | ClipError]] = {}
        started: dict[int | None, Any] = {}
        # Of each worker: its process, and 1 + the number of the job that it is at.
        notes = context.Array("q", 2 * processes)
        with ProcessPoolExecutor(
            processes, mp_context=context, initializer=_start_worker, initargs=(notes,)
        ) as pool:
            try:
                with _environment(WORKER_ENVIRONMENT):
                    for k in left:
                        futures[k] = pool.submit(_noted, work, k, jobs[k])
                        # The pool starts a worker with a job, until it has all.
                        started |= {p.pid: p for p in multiprocessing.active_children()}
                while given < len(jobs):
                    result = done.pop(given) if given in done else futures[given].result()
                    yield result
                    given += 1
            except BrokenProcessPool:
                done |= _finished(futures, given)
            except BaseException:
                # An error or a signal: the other clips are not needed any more, so do not wait for them.
                pool.shutdown(wait=False, cancel_futures=True)
                for worker in multiprocessing.active_children():
                    worker.terminate()
                raise
        if given < len(jobs):
            done |= _crashed(jobs, notes, started)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Give the processes that are started in the block these variables, too."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _finished(futures: dict[int, "Future[R | ClipError]"], given: int) -> dict[int, R | ClipError]:
    """Return what was done when the pool broke, by the number of the job."""
    return {k: f.result() for k, f in futures.items() if k >= given and f.done() and f.exception() is None}


def _crashed(
    jobs: Sequence[tuple[str, J]], notes: Any, started: dict[int | None, Any]
) -> dict[int, ClipError]:
    """Return the jobs whose worker crashed, with the reject of each.

    Raises:
        UserError: where no worker crashed: the system killed one.
    """
    found: dict[int, ClipError] = {}
    under_way = []
    for pid, job in zip(notes[::2], notes[1::2], strict=True):
        worker = started.get(pid)
        ended_by = -worker.exitcode if worker is not None and worker.exitcode else 0
        if job and ended_by in CRASHES:
            detail = f"the process that worked on it crashed ({signal.Signals(ended_by).name})"
            found[job - 1] = ClipError("failed", detail)
        # The pool ends the others by SIGTERM.
        elif job and ended_by != signal.SIGTERM:
            under_way.append(jobs[job - 1][0])
    if not found:
        raise UserError(
            f"a worker process was killed while it worked on {' or '.join(under_way) or 'a clip'}: most "
            "likely the memory was not enough. Run it again with fewer workers, or more memory for the job"
        )
    return found


def _start_worker(notes: Any) -> None:
    """Take a place for this worker's notes, and end it when its parent ends, even by a kill."""
    global _notes
    with notes.get_lock():
        place = list(notes[::2]).index(0)
        notes[2 * place] = os.getpid()
    _notes = notes, 2 * place + 1
    end_with_parent()


def end_with_parent() -> None:
    """End this process of `multiprocessing` when the one that started it ends, even by a kill."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _noted(work: Callable[[J], R], number: int, job: tuple[str, J]) -> R | ClipError:
    """Work on one job, and note meanwhile which it is."""
    notes, place = _notes
    notes[place] = number + 1
    result = guarded(work, job[1], job[0])
    notes[place] = 0
    return result
