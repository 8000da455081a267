"""Frameworks that tests drive: their modules, or a skip that says how to get them."""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest


def module(name: str) -> Any:
    """A module of an installed framework; one whose own dependencies are missing fails the test."""
    top = name.partition(".")[0]
    if find_spec(top) is None:
        pytest.skip(f"{top} is not installed: make test-trainers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(name)


def checkout(variable: str, name: str) -> Any:
    """A module of a framework that has no package, from the checkout that an environment variable names."""
    directory = os.environ.get(variable)
    if not directory:
        pytest.skip(f"{variable} names no checkout")
    if directory not in sys.path:
        sys.path.append(directory)
    return module(name)
