"""The texts of the token ids that a page shows."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dynamo_tito._types import Int32Array

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_ANCHOR = "a"


def ids_of(arrays: Iterable[Int32Array]) -> Int32Array:
    """The ids that occur, each once, in ascending order; unknown ones (-1) are left out."""
    found = [np.unique(array) for array in arrays]
    ids = np.unique(np.concatenate(found)) if found else np.empty(0, np.int32)
    return ids[ids >= 0]


def texts_of(ids: Int32Array, tokenizer: Any) -> list[str] | None:
    """The text of each id; None without a tokenizer.

    Args:
        ids: int32 [n].
        tokenizer: the path of a ``tokenizer.json`` or of its directory, a name for ``Tokenizer.from_pretrained`` of the
            package ``tokenizers``, a ``tokenizers.Tokenizer``, or an object with ``decode(ids) -> str``, such as a
            tokenizer of transformers.

    Raises:
        ModuleNotFoundError: a name or a path, and no package ``tokenizers``.
        TypeError: an object without ``decode``.
    """
    if tokenizer is None:
        return None
    if isinstance(tokenizer, (str, os.PathLike)):
        tokenizer = _opened(tokenizer)
    tokenizer = getattr(tokenizer, "backend_tokenizer", None) or tokenizer
    many = getattr(tokenizer, "decode_batch", None)
    if many is not None and hasattr(tokenizer, "id_to_token"):
        return _of_tokenizers(tokenizer, ids.tolist())
    one = getattr(tokenizer, "decode", None)
    if one is None:
        raise TypeError(f"a tokenizer is a name, a path or an object with decode, not {type(tokenizer).__name__}")
    return [one([token]) for token in ids.tolist()]


def _opened(name: str | os.PathLike[str]) -> Any:
    try:
        kind = import_module("tokenizers").Tokenizer
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "a tokenizer by name or file needs the extra: pip install 'dynamo-tito[tokenizers]'", name="tokenizers"
        ) from None
    path = Path(name)
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file():
        return kind.from_file(str(file))
    if isinstance(name, os.PathLike) or path.suffix == ".json":
        raise FileNotFoundError(f"{name}: no tokenizer.json there")
    return kind.from_pretrained(name)


def _of_tokenizers(tokenizer: Any, ids: list[int]) -> list[str]:
    """Each id decoded behind another token, because decoders drop a space in front of the first one."""
    anchor = tokenizer.encode(_ANCHOR, add_special_tokens=False).ids[:1]
    before = tokenizer.decode(anchor, skip_special_tokens=False)
    texts = tokenizer.decode_batch([[*anchor, token] for token in ids], skip_special_tokens=False)
    return [
        _text(tokenizer, token, text.removeprefix(before) if text.startswith(before) else text)
        for token, text in zip(ids, texts, strict=True)
    ]


def _text(tokenizer: Any, token: int, text: str) -> str:
    """The text; of a token that is a part of a character only, its bytes, and of an unknown one nothing."""
    if _REPLACEMENT in text or not text:
        return _raw(tokenizer.id_to_token(token))
    return text


def _raw(token: str | None) -> str:
    if token is None:
        return ""
    if all(character in _BYTES for character in token):
        return "".join(rf"\x{_BYTES[character]:02x}" for character in token)
    return token


def _byte_level() -> dict[str, int]:
    """What byte-level vocabularies write for bytes: printable characters for themselves, others from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + number): byte for number, byte in enumerate(others)}


_BYTES = _byte_level()
