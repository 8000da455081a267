"""Keywords that several functions share: one typed dictionary, seen by type checkers and in signatures."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class Keywords:
    """The keywords of a typed dictionary, and their defaults.

    A function takes them as ``**options: Unpack[...]``: type checkers know the keywords then, and at run time
    :meth:`shown_by` puts them into its signature, and :meth:`complete` refuses others.

    Args:
        options: the typed dictionary.
        **defaults: of the keywords whose default is not None.
    """

    def __init__(self, options: Any, **defaults: Any) -> None:
        self._annotations = {
            name: getattr(kind, "__forward_arg__", kind) for name, kind in options.__annotations__.items()
        }
        self._defaults = dict.fromkeys(self._annotations) | defaults

    def shown_by(self, function: F) -> F:
        """Replace ``**options`` by the keywords in the result of :func:`inspect.signature`."""
        signature = inspect.signature(function)
        *kept, _ = signature.parameters.values()
        keywords = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=self._defaults[name], annotation=annotation)
            for name, annotation in self._annotations.items()
        ]
        vars(function)["__signature__"] = signature.replace(parameters=[*kept, *keywords])
        return function

    def complete(self, function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """The options, and the defaults of those that are absent; TypeError for a keyword that is none of them."""
        for name in options:
            if name not in self._defaults:
                raise TypeError(f"{function.__qualname__}() got an unexpected keyword argument {name!r}")
        return {**self._defaults, **options}

    def among(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Those of other options that are keywords of this dictionary."""
        return {name: value for name, value in options.items() if name in self._defaults}
