"""The compiled core. No other module imports it."""

from ._core import *  # noqa: F403 - the stub's __all__ names what it exports
