"""Importing a framework when its adapter is used."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def framework(module: str, *, extra: str, install: str | None = None) -> Any:
    """A module of a framework.

    Raises:
        ImportError: the framework is not installed; the message names what to install.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        wanted = f"pip install 'dynamo-tito[{extra}]'" if install is None else install
        raise ImportError(f"{module} cannot be imported ({error}): {wanted}", name=error.name) from error
