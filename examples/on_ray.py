"""Ray: rollout workers and teacher scores on a cluster of two nodes.

python examples/on_ray.py [--address ADDRESS --url URL --rl-url URL --model NAME] [--tasks 64]

Without --address two nodes' worth of processes run on this machine, and without --url an embedded engine answers.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import ExitStack

import numpy as np
import pyarrow as pa
import ray
from ray.cluster_utils import Cluster

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.integrations.ray import FleetView, RolloutWorkers, TeacherScores, discover


def two_nodes(stack: ExitStack) -> str:
    """A cluster on this machine, with a bounded object store."""
    cluster = Cluster()
    stack.callback(cluster.shutdown)
    for _ in range(2):
        cluster.add_node(num_cpus=2, object_store_memory=256 << 20)
    return str(cluster.address)


def rolled(view: FleetView, tasks: int) -> list[tuple[list[int], tito.Completion]]:
    """Sample on both nodes; the arrays are views of the object store, nothing is copied."""

    async def roll(client: tito.AsyncTitoClient, prompt: list[int]) -> tito.Completion:
        return await client.generate(prompt, sampling_params={"max_tokens": 32})

    prompts = [[1_000 + number, 2, 3] for number in range(tasks)]
    with RolloutWorkers(view, count=2, num_cpus=1, scheduling_strategy="SPREAD") as workers:
        results = dict(workers.map(roll, prompts, in_flight=256))
    refused = [result for result in results.values() if isinstance(result, tito.TitoError)]
    print(f"{len(results)} tasks, {len(refused)} refused")
    return [(prompts[n], result) for n, result in results.items() if isinstance(result, tito.Completion)]


def scored(view: FleetView, samples: list[tuple[list[int], tito.Completion]]) -> None:
    """Score a data set with the same servers as teacher."""
    table = pa.table(
        {
            "token_ids": pa.array(
                [np.concatenate([prompt, done.token_ids]).astype(np.int32) for prompt, done in samples]
            ),
            "prompt_len": [len(prompt) for prompt, _ in samples],
        }
    )
    dataset = ray.data.from_arrow(table).map_batches(
        TeacherScores,
        fn_constructor_kwargs={"view": view, "start": "prompt_len"},
        batch_format="pyarrow",
        batch_size=32,
        compute=ray.data.ActorPoolStrategy(size=2),
    )
    rows = dataset.take_all()
    print(f"{len(rows)} sequences, {sum(row['teacher_logprobs'] is not None for row in rows)} scored")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="of a cluster")
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
        ray.init(address=address, log_to_driver=False)
        stack.callback(ray.shutdown)
        view = asyncio.run(discover(url, backend="dynamo", model=arguments.model, rl_base_url=rl_url))
        nodes = sum(node["Alive"] for node in ray.nodes())
        print(f"{nodes} nodes, {len(view.workers)} engine workers")
        scored(view, rolled(view, arguments.tasks))


if __name__ == "__main__":
    main()
