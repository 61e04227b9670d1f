"""A thread pool that makes do with the threads it gets."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any


class Pool(ThreadPoolExecutor):
    """Does on the calling thread what the system refuses to start a thread for."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        """Call ``function(*args, **options)`` on some thread."""
        future: Future[Any] = Future()
        job = [partial(function, *args, **options)]

        def run() -> None:
            try:
                work = job.pop()
            except IndexError:  # the caller has done it, after it was put into the queue
                return
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        try:
            super().submit(run)
        except RuntimeError:  # can't start new thread
            run()
        return future
