"""A byte-level BPE tokenizer with Qwen's special tokens, built here, as renderers take it."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

VOCAB_SIZE = 1_200
#: What the embedded engine samples to end a message.
END = VOCAB_SIZE - 3
_FIRST = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
_LAST = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|pad|>")


def make_tokenizer(vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Marks first, where the engine never samples; then bytes and merges of two and four; the engine's own last."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {text: number for number, text in enumerate((*_FIRST, *alphabet))}
    letters = [*"abcdefghijklmnopqrstuvwxyz", "Ġ"]
    merges = [(one, other) for one in letters for other in letters]
    merges += [(one + other, other + one) for one, other in merges]
    for left, right in merges:
        if len(vocab) == vocab_size - len(_LAST):
            break
        vocab.setdefault(left + right, len(vocab))
    merges = [pair for pair in dict.fromkeys(merges) if all(text in vocab for text in (*pair, "".join(pair)))]
    vocab |= {text: vocab_size - len(_LAST) + number for number, text in enumerate(_LAST)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*_FIRST, *_LAST])
    return tokenizer


class QwenTokenizer:
    """The few methods that renderers call; texts that are encoded are remembered."""

    name_or_path = "built-here"
    unk_token_id = None

    def __init__(self, vocab_size: int = VOCAB_SIZE) -> None:
        self.eos_token_id = vocab_size - 3
        self.tokenizer = make_tokenizer(vocab_size)
        self.encoded: list[str] = []

    def encode(self, text: str, *_: Any, **__: Any) -> list[int]:
        self.encoded.append(text)
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, token_ids: Any, *_: Any, **__: Any) -> str:
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        return self.tokenizer.token_to_id(tokens)
