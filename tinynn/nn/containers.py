"""Containers: modules that hold modules."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tinynn.errors import ArgumentError
from tinynn.nn import fusion
from tinynn.nn.module import Module

__all__ = ["ModuleDict", "ModuleList", "Sequential"]


class _Container(Module):
    """Its children are attributes with any names, such as "0": paths have no extra component."""

    def _add(self, name: str, module: Module) -> None:
        if not isinstance(module, Module):
            raise ArgumentError(
                f"{type(self).__name__} holds modules, got {type(module).__name__} as {name!r}; "
                "wrap a plain function in a Module with a forward()"
            )
        vars(self)[name] = module

    def _modules(self) -> list[Module]:
        return [value for value in list(vars(self).values()) if isinstance(value, Module)]

    def __len__(self) -> int:
        return len(self._modules())


class Sequential(_Container):
    """Chains modules: the output of each is the input of the next.

    Runs of layers that are faster together are fused, see ``tinynn.nn.fusion``.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten())
        >>> model[0].weight.shape
        (3, 3, 3, 8)
    """

    def __init__(self, *modules: Module) -> None:
        for position, module in enumerate(modules):
            self._add(str(position), module)

    def forward(self, x: Any) -> Any:
        return fusion.run(self._modules(), x)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules())

    def __getitem__(self, index: int | slice) -> Module:
        """One module, or a Sequential of a slice, which shares its parameters with this one."""
        chosen = self._modules()[index]
        return chosen if isinstance(chosen, Module) else Sequential(*chosen)


class ModuleList(_Container):
    """A list of modules, without a forward() of its own."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        if not isinstance(modules, Iterable):
            raise ArgumentError(f"ModuleList expects modules, got {modules!r:.80}")
        self._arguments = ((list(modules),), {})
        for module in self._arguments[0][0]:
            self.append(module)

    def append(self, module: Module) -> None:
        """Add a module at the end."""
        self._add(str(len(self)), module)
        self._arguments = ((self._modules(),), {})

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules())

    def __getitem__(self, index: int) -> Module:
        return self._modules()[index]


class ModuleDict(_Container):
    """A dict of modules by name, without a forward() of its own."""

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        self._arguments = (({},), {})
        if modules is not None and not isinstance(modules, Mapping):
            raise ArgumentError(f"ModuleDict expects modules by name, got {modules!r:.80}")
        for name, module in ({} if modules is None else modules).items():
            self[name] = module

    def __setitem__(self, name: str, module: Module) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise ArgumentError(f"ModuleDict expects names without dots, got {name!r}")
        if hasattr(ModuleDict, name):
            raise ArgumentError(f"{name!r} cannot be a name: every ModuleDict has that attribute")
        self._add(name, module)
        self._arguments = ((dict(self.named_children()),), {})

    def __getitem__(self, name: str) -> Module:
        return dict(self.named_children())[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.named_children())

    def __contains__(self, name: str) -> bool:
        return name in dict(self.named_children())

    def items(self) -> Iterator[tuple[str, Module]]:
        """Name and module, in order."""
        return self.named_children()
