"""The types that checkers see are those of the values."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import dynamo_tito as tito
from support.small import with_experts


def cases() -> ModuleType:
    spec = importlib.util.spec_from_file_location("typing_cases", Path(__file__).with_name("typing_cases.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_type_checkers_accept_runs() -> None:
    body = with_experts()
    cases().results(body)
    cases().bodies(body)
    cases().attributes(tito.DecodeError("message", kind="syntax"))


def test_what_type_checkers_refuse_fails() -> None:
    with pytest.raises(TypeError):
        cases().mistakes(with_experts())
