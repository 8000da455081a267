"""What a model says of given tokens, from a transformers forward pass: `python truth.py`, in the venv of install.sh.

One request per line of standard input: {"model": directory, "adapter": directory or null, "sequences": [[id, ...],
...], "out": path}. The answer is an .npz file at `out`, and then `out` on a line of standard output. The positions of
all sequences stand one after the other:

| array | shape and type | what |
|---|---|---|
| logprobs | [N, vocabulary] float32 | log-probabilities of the token after each position |
| experts | [N, layers, top_k] int32 | the router's choice, best first; zeros in layers without a router |
| margins | [N, layers] float32 | least distance of logits between neighbours among the best top_k + 1 |

The tests' own environment needs no torch.
"""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, logging


class Forward:
    """A model in float32, with the logits of its routers recorded."""

    def __init__(self, directory: str, adapter: str | None) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        if adapter is not None:
            self._merge(Path(adapter))
        self._top_k = getattr(self._model.config, "num_experts_per_tok", 0)
        self._logits: dict[int, torch.Tensor] = {}
        for number, layer in enumerate(self._model.model.layers):
            if self._top_k and hasattr(layer.mlp, "gate"):
                layer.mlp.gate.register_forward_pre_hook(self._recorder(number))

    def _merge(self, adapter: Path) -> None:
        config = json.loads((adapter / "adapter_config.json").read_text())
        scale = config["lora_alpha"] / config["r"]
        tensors = load_file(adapter / "adapter_model.safetensors")
        for name, down in tensors.items():
            module, found, _ = name.removeprefix("base_model.model.").partition(".lora_A.")
            if found:
                up = tensors[name.replace(".lora_A.", ".lora_B.")]
                self._model.get_submodule(module).weight.data += scale * (up @ down)

    def _recorder(self, number: int) -> Any:
        def record(gate: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            weight = gate.weight
            self._logits[number] = inputs[0].reshape(-1, weight.shape[1]) @ weight.T

        return record

    @torch.no_grad()
    def __call__(self, token_ids: list[int]) -> dict[str, Any]:
        """The arrays of one sequence."""
        logits = self._model(torch.tensor([token_ids])).logits[0]
        layers = self._model.config.num_hidden_layers
        experts = np.zeros((len(token_ids), layers, self._top_k), np.int32)
        margins = np.full((len(token_ids), layers), np.inf, np.float32)
        for number, scores in self._logits.items():
            values, chosen = torch.topk(scores, self._top_k + 1, dim=-1)
            experts[:, number] = chosen[:, : self._top_k].numpy()
            margins[:, number] = (values[:, :-1] - values[:, 1:]).min(dim=-1).values.numpy()
        logprobs = torch.log_softmax(logits.double(), dim=-1).float().numpy()
        return {"logprobs": logprobs, "experts": experts, "margins": margins}


def main() -> None:
    """Answer until standard input ends."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    load = cache(Forward)
    for line in sys.stdin:
        request = json.loads(line)
        forward = load(request["model"], request.get("adapter"))
        found = [forward(token_ids) for token_ids in request["sequences"]]
        joined = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
        np.savez(request["out"], **joined)
        sys.stdout.write(request["out"] + os.linesep)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
