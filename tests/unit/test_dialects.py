"""Every dialect and container, against the samples that the bodies are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import dynamo_tito as tito
from support import made
from support.bodies import CONTAINERS, DIALECTS, Container, Dialect
from support.made import BODIES, Made
from support.samples import invent
from support.truth import check
from support.writing import compact


@pytest.mark.parametrize("body", BODIES, ids=str)
def test_a_kept_body_decodes_to_its_sample(body: Made) -> None:
    completions = tito.decode_choices(body.path.read_bytes(), wire=body.dialect.wire, **body.options)
    assert [completion.index for completion in completions] == [*range(len(body.samples))]
    for completion, sample in zip(completions, body.samples, strict=True):
        check(completion, sample, body.dialect, body.container)


def test_the_kept_bodies_are_the_ones_that_the_script_makes() -> None:
    assert {path.name for path in made.FOLDER.iterdir()} == {body.name for body in BODIES}
    for body in BODIES:
        assert body.path.read_bytes() == body.write(), body.name


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("experts", [128, 512])
def test_every_container_on_every_dialect(dialect: Dialect, container: Container, experts: int) -> None:
    sample = invent(11, prompt=6, completion=5, layers=3, top_k=2, experts=experts, top=3, prompt_logprobs=True)
    body = compact(dialect.build([sample], container))
    completion = tito.decode(body, wire=dialect.wire, prompt_token_ids=sample.prompt, num_layers=3, top_k=2)
    check(completion, sample, dialect, container)


@pytest.mark.parametrize("dialect", [d for d in DIALECTS.values() if d.several], ids=lambda dialect: dialect.name)
def test_several_choices(dialect: Dialect) -> None:
    first = invent(12, prompt=6, completion=5, top=1)
    samples = [
        first,
        *(replace(invent(13 + n, prompt=6, completion=3 + n, top=1), prompt=first.prompt) for n in range(3)),
    ]
    body = compact(dialect.build(samples, dialect.container))
    options: dict[str, Any] = {"prompt_len": 6, "num_layers": 4, "top_k": 2}
    completions = tito.decode_choices(body, wire=dialect.wire, **options)
    for completion, sample in zip(completions, samples, strict=True):
        check(completion, sample, dialect, dialect.container)
    with pytest.raises(tito.MalformedBodyError) as caught:
        tito.decode(body, wire=dialect.wire, **options)
    assert caught.value.kind == "several_choices"


def test_choices_come_by_index_whatever_their_order() -> None:
    first = invent(12, prompt=6, completion=5)
    document = DIALECTS["vllm_0.32"].build([first, replace(first, tokens=[1, 2, 3, 4, 5])], "npy")
    document["choices"].reverse()
    completions = tito.decode_choices(compact(document), wire="vllm_generate")
    assert [completion.index for completion in completions] == [0, 1]
    assert completions[1].token_ids.tolist() == [1, 2, 3, 4, 5]
    assert completions[1].sources["token_ids"] == "choices[0].token_ids"
