"""Make the tiny models that the tests serve: `python models.py DIR`, in the venv of install.sh.

| directory | what it is |
|---|---|
| moe_a, moe_b | Qwen3-MoE, 4 layers, 16 experts, 2 a token; the same shape, other weights |
| dense_a, dense_b | Qwen3, 4 layers; the same shape, other weights |
| dense_half | dense_b without the tensors of its odd layers, and without a word about it |
| dense_cut | dense_b in two shards, the second cut short |
| adapter_1, adapter_2 | LoRA of rank 4 for dense_a |

All share one byte-level tokenizer with a chat template like Qwen's. Weights are random and large enough that the
distributions are far from uniform: a wrong position, layer or checkpoint shows in every value.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import transformers
from checkpoints import cut_short, lora_adapter, without_odd_layers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

VOCAB_SIZE = 512
TEXTS = (
    "the quick brown fox jumps over the lazy dog",
    "what is two and two? it is four.",
    "system user assistant tool",
    "naïve café, größer, 東京, 🐟",
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,  # vLLM's attention on the CPU takes multiples of 32
    "max_position_embeddings": 4096,
    "initializer_range": 0.25,
    "tie_word_embeddings": False,
}


def tokenizer() -> PreTrainedTokenizerFast:
    """All bytes, a few words of TEXTS, and three special tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(TEXTS * 20, trainer)
    made.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    special = dict(zip(("pad_token", "eos_token"), (SPECIAL[0], SPECIAL[2]), strict=True))
    fast = PreTrainedTokenizerFast(tokenizer_object=made, **special)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def save(directory: Path, *, moe: bool, seed: int) -> None:
    """A checkpoint with random weights, and its tokenizer."""
    words = tokenizer()
    special = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    torch.manual_seed(seed)
    if moe:
        routing = {"num_experts": 16, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True}
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**SHAPE, **special, **routing))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**SHAPE, **special))
    model.float().eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(0.6)
    # What a published model brings along: a truncated distribution, unless the request or the server says otherwise.
    model.generation_config.update(do_sample=True, top_k=20, top_p=0.95, temperature=0.7)
    model.save_pretrained(directory)
    words.save_pretrained(directory)


def main() -> None:
    """Everything of the table."""
    root = Path(sys.argv[1])
    transformers.utils.logging.disable_progress_bar()
    for name, seed in (("a", 1), ("b", 2)):
        save(root / f"moe_{name}", moe=True, seed=seed)
        save(root / f"dense_{name}", moe=False, seed=seed)
    without_odd_layers(root / "dense_b", root / "dense_half")
    cut_short(root / "dense_b", root / "dense_cut")
    for number in (1, 2):
        lora_adapter(root / "dense_a", root / f"adapter_{number}", seed=number)


if __name__ == "__main__":
    main()
