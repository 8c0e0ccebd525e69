"""Deprecation of public names. A deprecated name works for at least one more minor version and warns when used."""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar

Named = TypeVar("Named", bound=Callable[..., Any])


def deprecated(*, since: str, remove: str, instead: str) -> Callable[[Named], Named]:
    """Return a decorator for a function or a class. Calling the object gives a FutureWarning with the replacement.

    since, remove: the versions that deprecate and that remove it. instead: what to use, as code: ``segpipe.load(run)``.
    A class warns when it is instantiated, and so do its subclasses. The docstring says the same as the warning.
    """

    def mark(named: Named) -> Named:
        message = text(named.__qualname__, since=since, remove=remove, instead=instead)
        function: Callable[..., Any] = named.__init__ if isinstance(named, type) else named  # type: ignore[misc]

        @functools.wraps(function)
        def warning(*arguments: Any, **keywords: Any) -> Any:
            warnings.warn(message, FutureWarning, stacklevel=2)
            return function(*arguments, **keywords)

        marked: Any = named if isinstance(named, type) else warning
        if isinstance(named, type):
            marked.__init__ = warning
        marked.__doc__ = f"{inspect.cleandoc(named.__doc__ or '')}\n\n.. deprecated:: {since}\n   {message}\n"
        return marked  # type: ignore[no-any-return]

    return mark


def renamed(module: str, names: Mapping[str, str], *, since: str, remove: str) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a module, so that renamed and moved attributes work under their former names.

    module: its ``__name__``. names: each former name with the present one, of this module (``load``) or in full
    (``segpipe.engine.predictor.Predictor``). since, remove: see ``deprecated``.
    """

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        place, _, attribute = names[name].rpartition(".")
        present = f"{place or module}.{attribute}"
        message = text(f"{module}.{name}", since=since, remove=remove, instead=present)
        warnings.warn(message, FutureWarning, stacklevel=2)
        return getattr(import_module(place or module), attribute)

    return __getattr__


def text(name: str, *, since: str, remove: str, instead: str) -> str:
    """Return the text of the warning."""
    return f"{name} is deprecated since segpipe {since} and will be removed in {remove}. Use {instead} instead."
