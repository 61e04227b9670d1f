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


class _Token:
    """Exists as long as something may leave the context."""


Key = ref[_Token]


class _Exit:
    """``__exit__`` of a context: a function that owns the token but passes on only the key."""

    def __get__(self, context: Context | None, kind: type[Context]) -> Callable[..., None]:
        if context is None:
            return lambda context, *exception: context.__exit__(*exception)
        leave = partial(context.leave, ref(context.token))
        vars(leave)["token"] = context.token
        return leave


class Context:
    """A context manager that an interrupt (Ctrl-C) never leaves entered.

    Python may raise KeyboardInterrupt within ``__enter__``, or in place of ``__exit__``. The former
    is handled there. In the latter case Python deletes the function ``__exit__`` and with it the
    token, as no frame that the traceback keeps refers to it, and this leaves the context, too.

    Args:
        leave: Called as ``leave(key, *exception)``; without effect if the context is not entered.
    """

    def __init__(self, leave: Callable[..., None]) -> None:
        self.leave, self.token = leave, _Token()

    def __enter__(self) -> Any:
        """Enter it under the key ``ref(self.token, self.leave)``, equal to that of ``leave``."""
        raise NotImplementedError

    __exit__ = _Exit()


class Scoped(Generic[T]):
    """A setting. Its value is that of the innermost block, and the default outside of all."""

    def __init__(self, name: str, default: T) -> None:
        # of the innermost block: its value, its key, and the same of the enclosing block
        self.innermost: ContextVar[tuple[T, Key | None, Any]]
        self.innermost = ContextVar(name, default=(default, None, None))
        self.leave = partial(_leave, self.innermost)

    def get(self) -> T:
        """The value on this thread."""
        return self.innermost.get()[0]

    def block(self, inside: Callable[[T], T]) -> Block[T]:
        """A block whose value is ``inside(value before)``, determined when it is entered."""
        return Block(self, inside)


class Block(Context, Generic[T]):
    """A context in which a setting has another value; one object may be entered several times."""

    def __init__(self, setting: Scoped[T], inside: Callable[[T], T]) -> None:
        super().__init__(setting.leave)
        self.setting, self.inside = setting, inside

    def __enter__(self) -> None:
        innermost, key = self.setting.innermost, ref(self.token, self.leave)
        before = innermost.get()
        value = self.inside(before[0])
        try:
            innermost.set((value, key, before))
        except BaseException:
            innermost.set(before)
            raise

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate a function, also one with ``yield``, or a coroutine."""
        if inspect.isclass(function) or inspect.isasyncgenfunction(function):
            raise ArgumentError(
                "no_grad and the like decorate functions, also with yield, and coroutines, got "
                f"{function!r}; use a with block inside"
            )

        @wraps(function)
        def decorated(*args: Any, **kwargs: Any) -> Any:
            with self.setting.block(self.inside):
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
                with self.setting.block(self.inside):
                    item = resume(argument)
            except StopIteration as stop:
                return stop.value
            try:
                resume, argument = body.send, (yield item)
            except GeneratorExit:
                with self.setting.block(self.inside):
                    body.close()
                raise
            except BaseException as error:
                resume, argument = body.throw, error


def _leave(innermost: ContextVar[Any], key: Key, *exception: object) -> None:
    """Leave the block with this key."""
    _, found, enclosing = innermost.get()
    while found is not None:
        if found == key:  # as long as their token exists, else if they are the same
            innermost.set(enclosing)
            return
        _, found, enclosing = enclosing
