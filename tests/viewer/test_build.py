"""What a page is made of: exact columns, texts, places of prompts and scorings, and no way out of the data."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from typer.testing import CliRunner

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.cli._app import app
from dynamo_tito.rollout import Rollout, TrainingSample
from dynamo_tito.rollout.routing import Rows
from dynamo_tito.viewer import Page, load
from dynamo_tito.viewer.bundle import script
from dynamo_tito.viewer.columns import Column, pack
from dynamo_tito.viewer.texts import ids_of, texts_of
from support import viewing
from support.chat import ChatRenderer
from support.completions import completion as made_completion

CAPTURES = Path(__file__).parents[1] / "data"


def unpacked(column: Column) -> np.ndarray[Any, Any]:
    blocks = [base64.b64decode(block, validate=True) for block in column.blocks]
    data = b"".join(zlib.decompress(block, -15) if column.deflate else block for block in blocks)
    return np.frombuffer(data, f"<{column.dtype}").reshape(column.shape)


DTYPES = st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64, np.bool_])


@given(arrays.arrays(DTYPES, arrays.array_shapes(max_dims=3, max_side=40)))
def test_columns_are_exact(array: np.ndarray[Any, Any]) -> None:
    found = unpacked(pack("any", array))
    np.testing.assert_array_equal(found, array)
    assert found.shape == array.shape


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0, 255], "u1"),
        ([-1, 255], "i2"),
        ([0, 256], "i2"),
        ([0, 65535], "u2"),
        ([-1, 65535], "i4"),
        ([0, 2**31 - 1], "i4"),
        ([-0.5, np.nan], "f4"),
        ([-0.1, np.nan], "f8"),
        ([-1e300], "f8"),
    ],
)
def test_the_narrowest_exact_dtype(values: list[float], dtype: str) -> None:
    assert pack("any", np.array(values)).dtype == dtype


def test_large_columns_are_cut_into_blocks() -> None:
    array = np.random.default_rng(0).integers(0, 200, 3_000_001).astype(np.int32)
    column = pack("any", array)
    assert len(column.blocks) == 3
    np.testing.assert_array_equal(unpacked(column), array)


def test_ids_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="32 bits"):
        pack("any", np.array([2**31]))


class Outline(HTMLParser):
    """The elements of a document, and the texts of its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": [], "title": []}
        self.inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in self.texts:
            self.inside = tag
            self.texts[tag].append("")

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 - the parser's own signature
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[self.inside][-1] += data


def hostile() -> Page:
    class Attack:
        def decode(self, ids: list[int]) -> str:  # noqa: ARG002 - a tokenizer's signature
            return "</script><script>alert(1)</script><!--"

    sample = viewing.made().sample
    attack = "</script></title><img src=x onerror=alert(1)>"
    turns = tuple(dataclasses.replace(turn, finish_reason=attack, request_id=attack) for turn in sample.turns)
    hit = TrainingSample(sample.token_ids, sample.mask, sample.logprobs, None, turns)
    return tito.view(hit, tokenizer=Attack(), title=attack, names=[attack])


def test_data_adds_no_element() -> None:
    calm, attacked = Outline(tito.view(viewing.made().sample[:100]).html), Outline(hostile().html)
    assert {tag for tag, _ in attacked.elements} == {tag for tag, _ in calm.elements}
    named = [attributes for tag, attributes in attacked.elements if tag == "script"]
    assert [attributes for attributes in named if "type" not in attributes] == [{}]
    assert attacked.texts["title"] == ["</script></title><img src=x onerror=alert(1)>"]


def test_the_policy_names_the_program_and_the_style_and_no_more() -> None:
    outline = Outline(hostile().html)
    policy = next(
        attributes["content"] or ""
        for tag, attributes in outline.elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    scripts = [
        text
        for (_, attributes), text in zip(
            [element for element in outline.elements if element[0] == "script"], outline.texts["script"], strict=True
        )
        if not attributes
    ]

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert policy.split("; ") == [
        "default-src 'none'",
        f"script-src {digest(scripts[0])}",
        f"style-src {digest(outline.texts['style'][0])}",
        "base-uri 'none'",
        "form-action 'none'",
    ]


def test_the_page_names_no_address() -> None:
    assert not re.search(r"https?:|//[a-z]+\.[a-z]|url\(|@import", Outline(hostile().html).texts["style"][0])
    assert not re.search("https?:", tito.view(viewing.made().sample[:10]).html)


def test_the_program_makes_no_markup_of_data() -> None:
    program = script(Path(tito.__file__).parent / "viewer" / "assets")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", program)


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    made = viewing.made()
    for name in ("one", "two"):
        tito.view(made.sample, against=made.other, tokenizer=viewing.tokenizer()).save(tmp_path / name)
    data = (tmp_path / "one").read_bytes()
    assert data == (tmp_path / "two").read_bytes()
    assert data.decode() == tito.view(made.sample, against=made.other, tokenizer=viewing.tokenizer()).html


def test_a_page_is_small() -> None:
    assert len(tito.view(viewing.made().sample[:10]).html) < 150_000


def test_the_bundle_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "app.js").write_text('import { one } from "./b.js";\none();\n')
    (tmp_path / "b.js").write_text("export const one = () => 1;\nexport default one;\n")
    with pytest.raises(ValueError, match=r"b\.js"):
        script(tmp_path)
    (tmp_path / "b.js").write_text('import { two } from "./app.js";\nexport const one = two;\n')
    with pytest.raises(ValueError, match="app -> b -> app"):
        script(tmp_path)
    (tmp_path / "b.js").write_text('export const one = () => "</script>";\n')
    with pytest.raises(ValueError, match="ends a script"):
        script(tmp_path)


# --- texts ---


def test_texts_keep_spaces_and_show_parts_of_characters() -> None:
    words = viewing.tokenizer()
    ids = np.array(words.encode(" the rollout\n").ids + words.encode("é").ids[:1], np.int32)
    texts = texts_of(ids_of([ids]), words)
    assert texts is not None
    by_id = dict(zip(ids_of([ids]).tolist(), texts, strict=True))
    assert "".join(by_id[token] for token in ids[:-1].tolist()) == " the rollout\n"
    assert by_id[int(ids[-1])] in (r"\xc3", "é")


def test_a_tokenizer_is_a_file_or_a_folder(tmp_path: Path) -> None:
    words = viewing.tokenizer()
    words.save(str(tmp_path / "tokenizer.json"))
    ids = np.arange(50, dtype=np.int32)
    assert texts_of(ids, tmp_path) == texts_of(ids, str(tmp_path / "tokenizer.json")) == texts_of(ids, words)
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        texts_of(ids, tmp_path / "absent.json")
    with pytest.raises(TypeError, match="decode"):
        texts_of(ids, 5)


# --- places ---


@pytest.fixture(scope="module")
def answered() -> tito.Completion:
    with simulator.running(backend="vllm") as engine, tito.TitoClient(engine.url, model=None) as client:
        return client.generate([5, 6, 7], sampling_params={"max_tokens": 8})


def said(page: Page, number: int = 0) -> dict[str, Any]:
    manifest = re.search(r'id="manifest">(.*)</script>', page.html)
    assert manifest
    found: dict[str, Any] = json.loads(manifest[1])["sections"][number]
    return found


def test_the_prompt_is_placed_by_the_rows(answered: tito.Completion) -> None:
    assert said(tito.view(answered))["turns"][0][:3] == [0, 3, 11]
    with pytest.raises(ValueError, match="a prompt of 3 tokens, not of 4"):
        tito.view(answered, prompt_len=4)
    with pytest.raises(ValueError, match="prompt_len is 4"):
        tito.view(answered, prompt_len=4, prompt_token_ids=[5, 6, 7])
    assert answered.routed_experts is not None
    part = dataclasses.replace(answered.routed_experts, array=answered.routed_experts.array[:6], complete=False)
    cut = dataclasses.replace(answered, routed_experts=part)
    with pytest.raises(ValueError, match="pass prompt_len"):
        tito.view(cut)
    assert said(tito.view(cut, prompt_len=3))["turns"][0][:3] == [0, 3, 11]


def test_other_data_is_refused() -> None:
    for data in (5, "text", {"a": 1}):
        with pytest.raises(TypeError, match="view takes"):
            tito.view(data)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"not builtins\.int"):
        tito.view([5])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="nothing to view"):
        tito.view([])
    with pytest.raises(ValueError, match="2 names for 1"):
        tito.view(viewing.made().sample, names=["a", "b"])


def test_a_scoring_of_other_tokens_is_compared_up_to_there() -> None:
    sample = viewing.made().sample
    ids = sample.token_ids.copy()
    ids[1500] += 1
    rows = sample.routed_experts
    assert rows is not None
    other = TrainingSample(ids, sample.mask, sample.logprobs - 0.25, Rows([rows]), sample.turns)
    found = said(tito.view(sample, against=other))
    assert found["notes"] == [f"The other has token {ids[1500]} at position 1500: compared up to there."]
    assert found["compared"]["count"] == int(sample.mask[:1500].sum())
    assert found["columns"]["experts2"]["shape"][0] == 1500
    ids[0] += 1
    with pytest.raises(ValueError, match="begin with other tokens"):
        tito.view(sample, against=TrainingSample(ids, sample.mask, sample.logprobs, None))


def test_scorings_are_records_or_arrays() -> None:
    made = viewing.made()
    sample = made.sample
    expected = tito.divergence(sample.logprobs, made.scored, sample.mask)
    for against in (made.scored, made.scored[sample.mask], made.other):
        found = said(tito.view(sample, against=against))["compared"]
        assert (found["count"], found["k3"]) == (expected.count, expected.k3)
    with pytest.raises(ValueError, match="one log-probability for each of"):
        tito.view(sample, against=made.scored[:7])
    with pytest.raises(ValueError, match="2 scorings for 1"):
        tito.view([sample], against=[made.scored, made.scored])


def test_a_completion_without_a_prompt_lines_up_with_one_that_has_it(answered: tito.Completion) -> None:
    bare = dataclasses.replace(answered, routed_experts=None)
    found = said(tito.view(answered, against=bare, prompt_token_ids=None))
    assert found["compared"] == {"count": 8, "k3": 0.0}


def test_routing_of_another_shape_is_said() -> None:
    sample = viewing.made().sample
    rows = sample.routed_experts
    assert rows is not None
    other = TrainingSample(sample.token_ids, sample.mask, sample.logprobs, Rows([rows[:, :3].copy()]), sample.turns)
    found = said(tito.view(sample, against=other))
    assert found["notes"] == ["Routing is not compared: 24 x 4 and 3 x 4 (layers x experts a token)."]


class Forgetful(ChatRenderer):
    """Its template says something else about the past than it did when it was the present."""

    def bridge_to_next_turn(self, *_: Any, **__: Any) -> None:
        return None


def test_a_rollout_is_its_branches_and_their_drifts() -> None:
    rollout = Rollout(Forgetful(), on_drift="branch")
    for text in ("a", "b"):
        rollout.prompt_ids([{"role": "user", "content": text}])
        rollout.append(made_completion([600, 700, 31_997], finish_reason="stop"))
    one, two = rollout.samples()
    page = tito.view(rollout)
    assert [said(page, number)["length"] for number in (0, 1)] == [len(one), len(two)]
    (drift,) = rollout.drifts
    assert said(page)["drifts"] == [f"Drift (prefix) at token {drift.token}, message {drift.message}: branch."]
    assert said(page, 1)["shared"] == two.shared > 0


def test_versions_without_positions_are_labels(answered: tito.Completion) -> None:
    measured = [{"version": "a", "start": 0, "end": 3}, {"version": "b", "start": 3, "end": 8}]
    for versions, names in ((measured, ["a", "b"]), ([{"version": "a"}], ["a (label of the answer)"])):
        assert said(tito.view(dataclasses.replace(answered, weight_versions=versions)))["versions"] == names


def test_prompt_logprobs_are_those_of_the_prompt(answered: tito.Completion) -> None:
    top = tito.TopLogprobs(np.empty(0, np.int32), np.empty(0), np.zeros(5, np.int64))
    scored = tito.PromptLogprobs(np.full(4, -1.0), top)
    with pytest.raises(ValueError, match="of 4 tokens, the prompt has 3"):
        tito.view(dataclasses.replace(answered, prompt_logprobs=scored))


def test_scorings_as_far_apart_as_floats_go() -> None:
    sample = viewing.made().sample
    far = np.where(sample.mask, sample.logprobs, 0.0)
    far[300] = -5000.0
    assert said(tito.view(sample, against=far))["compared"]["count"] == sample.mask.sum()
    assert said(tito.view(sample, against=sample.logprobs - 5000))["compared"]["count"] == sample.mask.sum()


def test_a_title_that_is_no_text() -> None:
    assert "<title>a?b</title>" in tito.view(viewing.made().sample[:5], title="a\udc80b").html


# --- the command ---


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    file = CAPTURES / "captures" / "generate_basic.json"
    done = CliRunner().invoke(app, ["view", str(file), "-o", str(out)])
    assert (done.exit_code, done.stdout.strip()) == (0, str(out)), done.output
    ((name, completion),) = load(file)
    assert name == "generate_basic.json"
    assert out.read_text() == tito.view([completion], names=[name]).html


def test_the_command_compares_samples_and_names_experts(tmp_path: Path) -> None:
    made = viewing.made()
    made.sample.save(tmp_path / "one.safetensors")
    made.other.save(tmp_path / "two.safetensors")
    viewing.tokenizer().save(str(tmp_path / "tokenizer.json"))
    arguments = ["view", str(tmp_path / "one.safetensors"), "--against", str(tmp_path / "two.safetensors")]
    arguments += ["--tokenizer", str(tmp_path), "--num-experts", "64", "--dense-layer", "0", "-o", str(tmp_path / "o")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    page = tito.view(
        [made.sample],
        against=[made.other],
        tokenizer=viewing.tokenizer(),
        names=["one.safetensors"],
        num_experts=64,
        dense_layers=(0,),
    )
    assert (tmp_path / "o").read_text() == page.html
    assert said(page)["findings"] == [
        "50 equal rows from row 400 on: a capture buffer that was not written for these tokens"
    ]


def test_streams_are_read() -> None:
    found = load(CAPTURES / "captures" / "chat_stream_completion_token_ids.sse")
    assert len(found) == 1
    assert len(found[0][1].token_ids) > 0


@pytest.mark.parametrize("name", ["absent.json", "error_404_path.json"])
def test_the_command_refuses_in_one_line(tmp_path: Path, name: str) -> None:
    done = CliRunner().invoke(app, ["view", str(CAPTURES / "captures" / name), "-o", str(tmp_path / "out.html")])
    assert done.exit_code == 1
    assert name in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out.html").exists()
