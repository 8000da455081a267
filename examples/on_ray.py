"""Ray: rollout workers and teacher scores on a cluster of two nodes.

python -m examples.on_ray [--address ADDRESS --url URL --rl-url URL --model NAME] [--tasks 64]

Without --address two nodes' worth of processes run on this machine, and without --url an embedded Dynamo answers.
Needs ``pip install 'dynamo-tito[ray]'``.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from contextlib import ExitStack

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.cluster_utils import Cluster

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.integrations.ray import FleetView, RolloutWorkers, TeacherScores, discover


def two_nodes(stack: ExitStack) -> str:
    """A cluster on this machine, with a bounded object store; its address."""
    cluster = Cluster()
    stack.callback(cluster.shutdown)
    for _ in range(2):
        cluster.add_node(num_cpus=2, object_store_memory=256 << 20)
    return str(cluster.address)


async def roll(client: tito.AsyncTitoClient, prompt: list[int]) -> tuple[str, tito.Completion]:
    """One task: the node that did it, and what was sampled."""
    completion = await client.generate(prompt, sampling_params={"max_tokens": 32})
    return ray.get_runtime_context().get_node_id(), completion


def rolled(view: FleetView, tasks: int) -> list[tuple[list[int], tito.Completion]]:
    """Sample on every node; the arrays are views of the object store, nothing is copied."""
    prompts = [[1_000 + number, 2, 3] for number in range(tasks)]
    samples, nodes, refused = [], set(), 0
    with RolloutWorkers(view, count=2, num_cpus=1, scheduling_strategy="SPREAD") as workers:
        for number, result in workers.map(roll, prompts, in_flight=256):
            if isinstance(result, tito.TitoError):
                refused += 1
                continue
            node, completion = result
            nodes.add(node)
            samples.append((prompts[number], completion))
    tokens = sum(len(completion.token_ids) for _, completion in samples)
    print(f"{len(samples)} completions of {tokens} tokens, sampled on {len(nodes)} nodes; {refused} refused")
    return samples


def scored(view: FleetView, samples: list[tuple[list[int], tito.Completion]]) -> None:
    """Score a data set of them, with the same servers as teacher."""
    ids = [np.concatenate([prompt, completion.token_ids]).astype(np.int32) for prompt, completion in samples]
    table = pa.table(
        {
            "token_ids": pa.array(ids),
            "prompt_len": [len(prompt) for prompt, _ in samples],
            "logprobs": pa.array([completion.logprobs for _, completion in samples]),
        }
    )
    # One block for each process; files are read as blocks of 128 MB.
    blocks = [table.slice(0, len(table) // 2), table.slice(len(table) // 2)]
    dataset = ray.data.from_arrow(blocks).map_batches(
        TeacherScores,
        fn_constructor_kwargs={"view": view, "start": "prompt_len"},
        batch_format="pyarrow",
        batch_size=32,
        compute=ray.data.ActorPoolStrategy(size=2),
    )
    rows = [row for row in dataset.take_all() if row["teacher_logprobs"] is not None]
    own = np.concatenate([row["logprobs"] for row in rows])
    other = np.concatenate([row["teacher_logprobs"][row["prompt_len"] :] for row in rows])
    apart = tito.divergence(own, other, np.ones(len(own), np.bool_))
    print(f"{len(rows)} sequences scored, {len(samples) - len(rows)} failed, k3 {apart.k3:.3f} nats")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="of a cluster whose nodes have this package")
    parser.add_argument("--url", help="Dynamo's frontend")
    parser.add_argument("--rl-url", help="its discovery")
    parser.add_argument("--model", default="tito-model")
    parser.add_argument("--tasks", type=int, default=64)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        url, rl_url = arguments.url, arguments.rl_url
        if url is None:
            engine = stack.enter_context(simulator.running(backend="dynamo"))
            url, rl_url = engine.url, engine.rl_url
        address = arguments.address or two_nodes(stack)
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        stack.callback(ray.shutdown)
        view = asyncio.run(discover(url, backend="dynamo", model=arguments.model, rl_base_url=rl_url))
        nodes = sum(node["Alive"] for node in ray.nodes())
        print(f"nodes: {nodes}; engine workers: {len(view.workers)}")
        scored(view, rolled(view, arguments.tasks))


if __name__ == "__main__":
    main()
