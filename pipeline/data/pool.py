"""A piece of work over many chunks, in order, on several processes where that pays; never more than a few chunks ahead."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, islice
from multiprocessing import get_context, parent_process

ALONE = 50  # chunks that this process does itself before it starts others: they have a library or two to load
AHEAD = 2  # chunks that wait for each process


def in_order(work: Callable, chunks: Iterator, processes: int) -> Iterator[tuple]:
    """(chunk, work(chunk)) for each chunk. `work` is sent to each process once, so it has to be pickled."""
    for chunk in chunks if processes < 2 else islice(chunks, ALONE):
        yield chunk, work(chunk)
    first = next(chunks, None)
    if first is None:
        return
    # Not forked: this process has threads of its own by now.
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin, (work,))
    waiting: deque = deque()
    try:
        for chunk in chain([first], chunks):
            waiting.append((chunk, pool.submit(_work, chunk)))
            if len(waiting) > AHEAD * processes:
                done, result = waiting.popleft()
                yield done, result.result()
        for done, result in waiting:
            yield done, result.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(work: Callable) -> None:
    global _WORK
    _WORK = work
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process for each core
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _work(chunk: object) -> object:
    return _WORK(chunk)


def _die_with_parent() -> None:
    parent_process().join()
    os._exit(1)
