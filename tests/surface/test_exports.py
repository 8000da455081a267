"""The public surface: exported names, their descriptions, and the time of an import."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import pickle
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest

import dynamo_tito as tito
from dynamo_tito import _types

ROOT = Path(__file__).parents[2]

KNOBS = {
    "wire": inspect.Parameter.empty,
    "prompt_len": None,
    "prompt_token_ids": None,
    "routed_experts_prompt_start": None,
    "num_layers": None,
    "top_k": None,
    "num_indexer_layers": None,
    "index_topk": None,
    "experts": "int32",
    "experts_out": None,
    "require_logprobs": True,
    "require_routed_experts": False,
    "missing_logprob": "raise",
    "logprobs_dtype": "float64",
    "final_row": "omitted",
    "limits": None,
}


def test_all_is_sorted_and_true() -> None:
    assert tito.__all__ == sorted(tito.__all__)
    assert len(set(tito.__all__)) == len(tito.__all__)
    for name in tito.__all__:
        assert getattr(tito, name) is not None


def test_all_is_complete() -> None:
    public = {
        name
        for name, value in vars(tito).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and name not in ("annotations", "Any", "import_module")
    }
    assert public <= {*tito.__all__, "TYPE_CHECKING"}


def test_dir_shows_everything() -> None:
    assert set(tito.__all__) <= set(dir(tito))


@pytest.mark.parametrize("name", [name for name in tito.__all__ if not name.startswith("__")])
def test_every_public_name_is_documented(name: str) -> None:
    value = getattr(tito, name)
    if get_args(value):
        return  # an alias has no docstring of its own
    text = inspect.getdoc(value)
    assert text
    assert text[0].isupper()
    if inspect.isclass(value):
        own = value.__dict__.get("__doc__")
        assert own, f"{name} shows the docstring of its base"


@pytest.mark.parametrize("name", [name for name in tito.__all__ if inspect.isclass(getattr(tito, name))])
def test_every_public_class_has_a_public_address(name: str) -> None:
    value = getattr(tito, name)
    assert (value.__module__, value.__qualname__) == ("dynamo_tito", name)
    assert pickle.loads(pickle.dumps(value)) is value


@pytest.mark.parametrize("function", [tito.decode, tito.decode_choices])
def test_options_are_keyword_only_and_their_defaults_visible(function: Any) -> None:
    body, *knobs = inspect.signature(function).parameters.values()
    assert body.kind is inspect.Parameter.POSITIONAL_ONLY
    assert all(knob.kind is inspect.Parameter.KEYWORD_ONLY for knob in knobs)
    assert {knob.name: knob.default for knob in knobs} == KNOBS


def test_the_encoders_signatures() -> None:
    assert str(inspect.signature(tito.encode_routed_experts)) == "(array, *, start=0, narrow=True)"
    assert str(inspect.signature(tito.encode_token_ids)) == "(prefix, ids, suffix)"


def test_the_signatures_of_scoring() -> None:
    knobs = "start=0, missing_logprob='raise', logprobs_dtype='float64', limits=None"
    decoder = f"(body, /, *, wire, prompt_token_ids, {knobs})"
    assert str(inspect.signature(tito.decode_prompt_logprobs)) == decoder
    comparison = "(sample_logprobs, scored, mask, *, missing_logprob='raise')"
    assert str(inspect.signature(tito.divergence)) == comparison


def test_both_clients_score_with_the_same_arguments() -> None:
    for name in ("score", "score_many"):
        ours, theirs = (
            dict(inspect.signature(getattr(client, name)).parameters)
            for client in (tito.AsyncTitoClient, tito.TitoClient)
        )
        if name == "score_many":  # a semaphore is one of the event loop
            own = ours["concurrency"]
            assert own.annotation == "int | asyncio.Semaphore"
            ours["concurrency"] = own.replace(annotation="int")
        assert ours == theirs


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'dynamo_tito' has no attribute 'nothing'"):
        tito.nothing  # noqa: B018


def test_the_wires_are_those_of_the_core() -> None:
    with pytest.raises(ValueError, match="wire must be one of") as caught:
        tito.decode(b"", wire="")  # type: ignore[arg-type]
    assert (*re.findall(r'"(\w+)"', str(caught.value)),) == get_args(tito.Wire)
    assert get_args(_types.ExpertsMode) == ("int32", "native", "skip")


def test_the_version_is_one() -> None:
    with (ROOT / "Cargo.toml").open("rb") as file:
        version = tomllib.load(file)["package"]["version"]
    assert tito.__version__ == tito.build_info()["version"] == importlib.metadata.version("dynamo-tito") == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_build_info_describes_the_build() -> None:
    info = tito.build_info()
    assert set(info) >= {"version", "kernel", "target", "profile"}
    assert all(isinstance(value, str) for value in info.values())


def test_the_metadata() -> None:
    metadata = importlib.metadata.metadata("dynamo-tito")
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    assert set(extras) == set(metadata.get_all("Provides-Extra") or ())
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="dynamo-tito")
    assert script.value == "dynamo_tito.cli:main"


def test_the_package_is_typed() -> None:
    assert (Path(tito.__file__).parent / "py.typed").exists()


def test_importing_loads_nothing_that_is_not_needed() -> None:
    code = (
        "import sys, json, numpy; before = {*sys.modules}; import dynamo_tito; "
        "print(json.dumps([*{*sys.modules} - before]))"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    loaded = {name.partition(".")[0] for name in json.loads(output)}
    assert not loaded & {
        "httpx",
        "tenacity",
        "typer",
        "rich",
        "click",
        "aiohttp",
        "asyncio",
        "renderers",
        "openai",
        "pydantic",
    }
    assert not {"dynamo_tito.cli", "dynamo_tito.simulator"} & set(json.loads(output))
