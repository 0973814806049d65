"""A piece of work over many chunks, in order, on several threads; never more than a few chunks ahead."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from threading import local

AHEAD = 2  # chunks that wait for each thread
MOST = 4  # threads: a third of the work is Python's own, which one thread does at a time


def in_order(work: Callable, chunks: Iterator, threads: int) -> Generator[tuple, None, None]:
    """(chunk, work(chunk)) for each chunk. Each thread has a copy of `work`, and with it a tokenizer of its own.

    Most of the time goes into tokenizers, which do not hold Python's lock: threads start at once, share all memory,
    and need nothing to be sent.
    """
    if threads < 2:
        for chunk in chunks:
            yield chunk, work(chunk)
        return
    threads, own = min(threads, MOST), local()

    def worked(chunk: object) -> object:
        if not hasattr(own, "work"):
            own.work = deepcopy(work)
        return own.work(chunk)

    waiting: deque = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        with _one_thread_a_tokenizer():
            error = None
            for chunk, error in _until_error(chunks):
                if error is not None:
                    break
                waiting.append((chunk, pool.submit(worked, chunk)))
                if len(waiting) > AHEAD * threads:
                    done, result = waiting.popleft()
                    yield done, result.result()
            for done, result in waiting:
                yield done, result.result()
            if error is not None:  # after what came before it, as one thread would have it
                raise error
    finally:
        pool.shutdown(cancel_futures=True)


def _until_error(chunks: Iterator) -> Iterator[tuple[object, Exception | None]]:
    """(chunk, None) for each, and (None, error) where there is no other for an error."""
    try:
        for chunk in chunks:
            yield chunk, None
    except Exception as error:
        yield None, error


@contextmanager
def _one_thread_a_tokenizer() -> Iterator[None]:
    """Else each starts as many as there are cores."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
