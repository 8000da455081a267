"""The weight-update loop: publish a checkpoint, give it to every worker, look at the weights, go on sampling.

python examples/weights.py [--backend NAME --url URL --model NAME] [--rl-url URL] [--directory DIR] [--steps 3]

Without --url two embedded vLLM servers answer. The trainer is a stand-in that writes one small tensor.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.control import Canary, Fleet, WeightPublisher

CANARY = list(range(1, 33))


def train(directory: Path, step: int) -> None:
    """One step of the trainer, and its checkpoint."""
    save_file({"model.weight": np.full((2, 3), step, np.float32)}, directory / "model.safetensors")


async def work(urls: list[str], arguments: argparse.Namespace) -> None:
    publisher = WeightPublisher(arguments.directory, keep_recent=2, max_off_policy_steps=2)
    # Dynamo's discovery lists the workers; of other backends the servers themselves are named.
    where = {"rl_base_url": arguments.rl_url} if arguments.backend == "dynamo" else {"admin_base_url": urls}
    async with (
        tito.connect(urls[0], backend=arguments.backend, model=arguments.model) as client,
        await Fleet.connect(urls[0], backend=arguments.backend, model=arguments.model, **where) as fleet,
    ):
        for step in range(1, arguments.steps + 1):
            with publisher.publish(step) as directory:
                train(directory, step)
            # An AdminError says which workers hold which weights; those that are in doubt stay paused.
            result = await fleet.update_weights(publisher.resolve(step, timeout=60), canary=Canary(CANARY))
            publisher.observe((await fleet.versions()).values())
            completion = await client.generate([5, 6, 7], sampling_params={"max_tokens": 8})
            for worker in result.workers:
                print(f"step {step}: {worker}, verified by {worker.verified_by}: {worker.verified}")
            print(f"step {step}: sampled by {completion.weight_versions}, kept {publisher.published()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="vllm", choices=["dynamo", "vllm", "prime", "sglang"])
    parser.add_argument("--url", action="append", help="Dynamo's frontend, or each of the servers")
    parser.add_argument("--rl-url", help="Dynamo's discovery")
    parser.add_argument("--model", default="tito-model")
    parser.add_argument("--directory", help="on a file system that the workers share")
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        if arguments.directory is None:
            arguments.directory = stack.enter_context(tempfile.TemporaryDirectory())
        urls = arguments.url or [stack.enter_context(simulator.running(backend="vllm")).url for _ in range(2)]
        asyncio.run(work(urls, arguments))


if __name__ == "__main__":
    main()
