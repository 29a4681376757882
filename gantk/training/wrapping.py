"""Methods of networks that are wrapped for distribution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel


def with_methods(wrapped: nn.Module, network: nn.Module) -> nn.Module:
    """Give the wrapper of a network the network's own public attributes and methods.

    In one process a loss may call `networks["discriminator"].features(x)`; a DistributedDataParallel has no `features`, and one
    that is called past the wrapper has gradients that are not averaged. So each method runs as the wrapper's forward pass.

    Args:
        wrapped: what `Runtime.distribute` gave for `network`; returned as it is where that is the network itself.
        network: the network without its wrapper.
    """
    if not isinstance(wrapped, DistributedDataParallel):
        return wrapped

    class WithMethods(type(wrapped)):  # type: ignore[misc]
        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                if name.startswith("_"):
                    raise
            found = getattr(network, name)
            is_method = getattr(found, "__self__", None) is network and not isinstance(found, nn.Module)
            return _through(self, network, found) if is_method else found

    WithMethods.__name__ = WithMethods.__qualname__ = type(wrapped).__name__
    wrapped.__class__ = WithMethods
    return wrapped


def _through(wrapper: nn.Module, network: nn.Module, method: Callable[..., Any]) -> Callable[..., Any]:
    """The same method, called as `wrapper`'s forward pass."""

    def call(*arguments: Any, **named: Any) -> Any:
        own = vars(network).get("forward")

        def once(*arguments: Any, **named: Any) -> Any:
            # The method may call the network itself.
            with _forward(network, own):
                return method(*arguments, **named)

        with _forward(network, once):
            return wrapper(*arguments, **named)

    return call


@contextmanager
def _forward(network: nn.Module, forward: Callable[..., Any] | None) -> Iterator[None]:
    """Have `network` run `forward`; None: that of its class."""
    before = vars(network).pop("forward", None)
    if forward is not None:
        vars(network)["forward"] = forward
    try:
        yield
    finally:
        vars(network).pop("forward", None)
        if before is not None:
            vars(network)["forward"] = before
