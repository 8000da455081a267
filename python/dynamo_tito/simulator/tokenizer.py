"""A toy tokenizer: bytes, words named after their ids, and four special tokens at the end of the vocabulary.

Text is encoded to bytes and special tokens only, so encoding the text of sampled words never gives their ids back: a
client that re-encodes what the engine sampled is found out at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from .model import NUM_BYTES, NUM_SPECIAL

__all__ = ["Tokenizer"]

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|pad|>")
_SPLIT = re.compile("(" + "|".join(re.escape(text) for text in SPECIAL) + ")")


class Tokenizer:
    """The vocabulary of `vocab_size` ids, and the chat template of the ChatML family."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.special = dict(zip(SPECIAL, range(vocab_size - NUM_SPECIAL, vocab_size), strict=True))
        self._special_text = {token: text for text, token in self.special.items()}
        self.piece = lru_cache(maxsize=1 << 16)(self._piece)

    def encode(self, text: str) -> list[int]:
        """The ids of a text: its UTF-8 bytes, and one id for each special token spelled out in it."""
        ids: list[int] = []
        for part in _SPLIT.split(text):
            token = self.special.get(part)
            ids.extend(part.encode() if token is None else (token,))
        return ids

    def token_bytes(self, token: int) -> bytes:
        """What one id stands for. An id beyond the vocabulary stands for nothing."""
        if token < NUM_BYTES:
            return bytes((token,))
        if token in self._special_text:
            return self._special_text[token].encode()
        return b"w%d" % token if token < self.vocab_size else b""

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """The text of the ids; bytes that are no UTF-8 become U+FFFD."""
        skipped = self._special_text if skip_special else {}
        return b"".join(self.token_bytes(token) for token in ids if token not in skipped).decode(errors="replace")

    @staticmethod
    @lru_cache(maxsize=1 << 16)
    def placeholder(token: int) -> tuple[str, str]:
        """`piece` of the text `token_id:N`, which stands for a token where a server has no text."""
        name = f"token_id:{token}"
        return f'"{name}"', json.dumps(list(name.encode()), separators=(",", ":"))

    def _piece(self, token: int) -> tuple[str, str]:
        """(JSON string of the token's text, JSON array of its bytes)."""
        data = self.token_bytes(token)
        return json.dumps(data.decode(errors="replace"), ensure_ascii=False), json.dumps(
            list(data), separators=(",", ":")
        )

    def whole_piece(self, token: int) -> tuple[str, str]:
        """`piece`, with nothing for a byte that is no text by itself: vLLM waits for the rest of the character."""
        return ('""', "[]") if 128 <= token < NUM_BYTES else self.piece(token)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> list[int]:
        """The ids of a conversation. Tool calls are appended to the content as JSON."""
        parts: list[str] = []
        for number, message in enumerate(messages):
            content = message.get("content") or ""
            if not isinstance(content, str):
                content = "".join(part.get("text", "") for part in content)
            for call in message.get("tool_calls") or ():
                content += f"<tool_call>{json.dumps(call.get('function', call), sort_keys=True)}</tool_call>"
            last = continue_final_message and number == len(messages) - 1
            parts.append(f"<|im_start|>{message['role']}\n{content}" + ("" if last else "<|im_end|>\n"))
        if add_generation_prompt and not continue_final_message:
            parts.append("<|im_start|>assistant\n")
        return self.encode("".join(parts))
