"""Settings that ``with`` blocks change, each for its own thread or asyncio task only."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Generator
from contextvars import ContextVar
from functools import wraps
from typing import Any, Generic, TypeVar

from tinynn.errors import ArgumentError

__all__ = ["Block", "Scoped"]

T = TypeVar("T")


class Scoped(Generic[T]):
    """A setting. Its value is that of the innermost block, and the default outside of all."""

    def __init__(self, name: str, default: T) -> None:
        # of the innermost block: its value, its key, and the same of the enclosing block
        self.innermost: ContextVar[tuple[T, object, Any]]
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
    left at once. If it is raised before the first instruction of ``__exit__``, the block is left
    with the enclosing one, or else when Python deletes the object together with the exception.
    """

    def __init__(self, setting: Scoped[T], inside: Callable[[T], T]) -> None:
        self._innermost, self._inside = setting.innermost, inside
        self._key = object()  # not the block, which would then never be deleted

    def __enter__(self) -> None:
        before = self._innermost.get()
        value = self._inside(before[0])
        try:
            self._innermost.set((value, self._key, before))
        except BaseException:
            self._innermost.set(before)
            raise

    def __exit__(self, *exception: object) -> None:
        _, key, enclosing = self._innermost.get()
        while key is not None:
            if key is self._key:
                self._innermost.set(enclosing)
                return
            _, key, enclosing = enclosing

    __del__ = __exit__

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate a function, also one with ``yield``, or a coroutine."""
        if inspect.isclass(function) or inspect.isasyncgenfunction(function):
            raise ArgumentError(
                "no_grad and the like decorate functions, also with yield, and coroutines, got "
                f"{function!r}; use a with block inside"
            )

        @wraps(function)
        def decorated(*args: Any, **kwargs: Any) -> Any:
            with self:
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
                with self:
                    item = resume(argument)
            except StopIteration as stop:
                return stop.value
            try:
                resume, argument = body.send, (yield item)
            except GeneratorExit:
                with self:
                    body.close()
                raise
            except BaseException as error:
                resume, argument = body.throw, error
