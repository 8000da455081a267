"""Write a model directory without weights that the Dynamo frontend can serve: `python tokenizer.py DIR`.

A byte-level vocabulary of 32,000: 256 bytes, words `w<id>` so that every id has a text, four special tokens at the end.
It is the vocabulary of the embedded engine (dynamo_tito/simulator/tokenizer.py).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

VOCAB_SIZE = 32_000
CONTEXT_LENGTH = 262_144
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|pad|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_pieces() -> list[str]:
    """The 256 symbols that stand for bytes in a byte-level vocabulary, by byte value."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    symbol = {byte: chr(byte) for byte in shown} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}
    pieces = [symbol[byte] for byte in range(256)]
    if set(pieces) != set(pre_tokenizers.ByteLevel.alphabet()):
        raise RuntimeError("this version of tokenizers has another byte alphabet")
    return pieces


def build(directory: Path) -> None:
    """Create `directory` with tokenizer.json, tokenizer_config.json, config.json and generation_config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    pieces = byte_pieces()
    pieces += [f"w{token}" for token in range(len(pieces), VOCAB_SIZE - len(SPECIAL))]
    tokenizer = Tokenizer(models.BPE(vocab={piece: n for n, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise RuntimeError(f"built {tokenizer.get_vocab_size()} tokens instead of {VOCAB_SIZE}")
    tokenizer.save(str(directory / "tokenizer.json"))

    start, end, document, pad = (tokenizer.token_to_id(text) for text in SPECIAL)
    special = {"special": True, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    _write(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": CONTEXT_LENGTH,
            "eos_token": "<|im_end|>",
            "pad_token": "<|pad|>",
            "clean_up_tokenization_spaces": False,
            "added_tokens_decoder": {
                str(token): {"content": text, **special}
                for token, text in zip((start, end, document, pad), SPECIAL, strict=True)
            },
            "chat_template": CHAT_TEMPLATE,
        },
    )
    _write(
        directory / "config.json",
        {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 128,
            "num_hidden_layers": 48,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "max_position_embeddings": CONTEXT_LENGTH,
            "eos_token_id": end,
            "pad_token_id": pad,
            "torch_dtype": "bfloat16",
        },
    )
    _write(directory / "generation_config.json", {"eos_token_id": [end, document], "pad_token_id": pad})


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1))


if __name__ == "__main__":
    build(Path(sys.argv[1]))
