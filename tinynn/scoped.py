"""Settings that ``with`` blocks change, each for its own thread or asyncio task only."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Generator
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any, Generic, TypeVar
from weakref import ref

from tinynn.errors import ArgumentError

__all__ = ["Block", "Scoped"]

T = TypeVar("T")


class Scoped(Generic[T]):
    """A setting. Its value is that of the innermost block, and the default outside of all."""

    def __init__(self, name: str, default: T) -> None:
        # of the innermost block: its value, a reference to it, and the same of the enclosing block
        self.innermost: ContextVar[tuple[T, ref[Block[T]] | None, Any]]
        self.innermost = ContextVar(name, default=(default, None, None))

    def get(self) -> T:
        """The value on this thread."""
        return self.innermost.get()[0]

    def block(self, inside: Callable[[T], T]) -> Block[T]:
        """A block whose value is ``inside(value before)``, determined when it is entered."""
        return Block(self, inside)


class Block(Generic[T]):
    """A context in which a setting has another value; one object may be entered several times.

    An interrupt (Ctrl-C) leaves no block behind. If it is raised inside ``__enter__``, the block is
    left at once. If it is raised in ``__exit__``, which Python may do before the first instruction,
    the block is left with the enclosing one, or else when Python deletes it with the exception.
    """

    def __init__(self, setting: Scoped[T], inside: Callable[[T], T]) -> None:
        self._setting, self._inside = setting, inside

    def __enter__(self) -> None:
        innermost = self._setting.innermost
        before = innermost.get()
        value = self._inside(before[0])
        key = ref(self, partial(_leave, innermost))
        try:
            innermost.set((value, key, before))
        except BaseException:
            innermost.set(before)
            raise

    def __exit__(self, *exception: object) -> None:
        _leave(self._setting.innermost, self)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate a function, also one with ``yield``, or a coroutine."""
        if inspect.isclass(function) or inspect.isasyncgenfunction(function):
            raise ArgumentError(
                "no_grad and the like decorate functions, also with yield, and coroutines, got "
                f"{function!r}; use a with block inside"
            )

        @wraps(function)
        def decorated(*args: Any, **kwargs: Any) -> Any:
            with self._setting.block(self._inside):  # one that is deleted after an interrupt
                return function(*args, **kwargs)

        @wraps(function)
        def stepwise(*args: Any, **kwargs: Any) -> Any:
            return self._steps(function(*args, **kwargs))

        @wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return await types.coroutine(stepwise)(*args, **kwargs)

        if inspect.iscoroutinefunction(function):
            return awaited
        return stepwise if inspect.isgeneratorfunction(function) else decorated

    def _steps(self, body: Any) -> Generator[Any, Any, Any]:
        """Run a generator or coroutine within the block, and what consumes it outside."""
        resume, argument = body.send, None
        while True:
            try:
                with self._setting.block(self._inside):
                    item = resume(argument)
            except StopIteration as stop:
                return stop.value
            try:
                resume, argument = body.send, (yield item)
            except GeneratorExit:
                with self._setting.block(self._inside):
                    body.close()
                raise
            except BaseException as error:
                resume, argument = body.throw, error


def _leave(innermost: ContextVar[Any], block: object) -> None:
    """Leave a block, given by itself or, after it was deleted, by its key."""
    _, key, enclosing = innermost.get()
    while key is not None:
        if key is block or key() is block:
            innermost.set(enclosing)
            return
        _, key, enclosing = enclosing
