"""What saved files hold: answers of a server, whole or streamed, and training samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynamo_tito._detect import detect_wire
from dynamo_tito._native import StreamDecoder, decode_choices
from dynamo_tito.rollout.sample import TrainingSample

if TYPE_CHECKING:
    from pathlib import Path

    from dynamo_tito._types import Wire

    from .track import Viewable

_SAMPLE = ".safetensors"
_STREAM = (b"data:", b"event:", b"id:", b":")


def load(path: Path, *, wire: Wire | None = None, **options: Any) -> list[tuple[str, Viewable]]:
    """The completions of a saved answer, or a saved sample (``.safetensors``), each with a name.

    Args:
        path: of the file.
        wire: of the answer; None tells it from the keys.
        options: of ``decode``. Unless they say otherwise, a token without a log-probability is NaN, and
            log-probabilities may be absent: a page shows what is missing.

    Raises:
        OSError: the file cannot be read.
        TitoError: the answer is refused.
        ValueError: another file, or an answer that needs an option.
    """
    if path.suffix == _SAMPLE:
        return [(path.name, TrainingSample.load(path))]
    body = path.read_bytes()
    given: dict[str, Any] = {"missing_logprob": "nan", "require_logprobs": False, "experts": "native"} | options
    found = wire or detect_wire(body)[0]
    if body.lstrip().startswith(_STREAM):
        decoder = StreamDecoder(wire=found, deltas=False, **given)
        decoder.feed_choices(body)
        completions = decoder.finish_choices()
    else:
        completions = decode_choices(body, wire=found, **given)
    if len(completions) == 1:
        return [(path.name, completions[0])]
    return [(f"{path.name} choice {completion.index}", completion) for completion in completions]
