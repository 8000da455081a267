"""``dynamo-tito serve``: the embedded engine on a port."""

from __future__ import annotations

import asyncio
import json as _json
import signal
from typing import Annotated, Any, get_args

import typer

from dynamo_tito.simulator import Backend, DynamoVersion, EngineConfig, Fault, FaultKind, PromptStart, VllmVersion
from dynamo_tito.simulator import serve as start_engine

# Kinds whose default position is the middle.
_FAULTS: dict[FaultKind, Fault] = {kind: Fault(kind=kind) for kind in get_args(FaultKind)} | {
    "reset": Fault(kind="reset", at=0.5),
    "truncate": Fault(kind="truncate", at=0.5),
    "stall": Fault(kind="stall", at=0.5),
    "abort": Fault(kind="abort", at=0.5),
    "trickle": Fault(kind="trickle", chunk=1_024, seconds=0.01),
    "delay": Fault(kind="delay", seconds=1.0),
    # Behind the first chunk with tokens.
    "error_event": Fault(kind="error_event", at=2),
    "duplicate": Fault(kind="duplicate", at=1),
    "drop": Fault(kind="drop", at=1),
    "swap": Fault(kind="swap", at=1),
    "huge_event": Fault(kind="huge_event", at=1, by=1 << 20),
}


def serve(  # noqa: PLR0917 - a parameter per option is how typer reads the command line
    backend: Annotated[Backend, typer.Option(help="Server to imitate.")] = "dynamo",
    port: Annotated[
        int, typer.Option(help="Port of the main listener; 0 takes a free one.", min=0, max=65_535, metavar="N")
    ] = 0,
    host: Annotated[str, typer.Option(help="Address to listen on.", metavar="HOST")] = "127.0.0.1",
    model: Annotated[str, typer.Option(help="Name of the model.", metavar="NAME")] = "tito-model",
    seed: Annotated[
        int, typer.Option(help="The same seed gives the same answers to the same requests.", metavar="N")
    ] = 0,
    vllm_version: Annotated[VllmVersion, typer.Option(help="vLLM version to imitate.")] = "0.33",
    dynamo_version: Annotated[DynamoVersion, typer.Option(help="Dynamo version to imitate.")] = "1.6.1",
    prompt_start: Annotated[
        PromptStart, typer.Option(help="How Dynamo treats nvext.routed_experts_prompt_start.")
    ] = "refuse",
    num_layers: Annotated[int, typer.Option(help="Decoder layers.", min=1, metavar="N")] = 4,
    top_k: Annotated[int, typer.Option(help="Experts per token and layer.", min=1, metavar="N")] = 2,
    num_experts: Annotated[int, typer.Option(help="Experts per layer.", min=1, metavar="N")] = 128,
    max_model_len: Annotated[int, typer.Option(help="Context length in tokens.", min=1, metavar="N")] = 262_144,
    eos_rate: Annotated[
        float, typer.Option(help="Probability per token that a message ends.", min=0, max=1, metavar="P")
    ] = 0.0,
    latency: Annotated[float, typer.Option(help="Time before an answer.", min=0, metavar="SECONDS")] = 0.0,
    token_latency: Annotated[float, typer.Option(help="Time per sampled token.", min=0, metavar="SECONDS")] = 0.0,
    chunk_tokens: Annotated[
        int, typer.Option(help="Tokens of a choice that a chunk of a stream brings.", min=1, metavar="N")
    ] = 1,
    incremental_streaming_output: Annotated[
        bool,
        typer.Option("--incremental-streaming-output", help="Let SGLang's chunks bring the new tokens alone."),
    ] = False,
    sglang_generate: Annotated[
        bool, typer.Option("--sglang-generate", help="Let Dynamo serve SGLang's /generate; 1.6.1 as streams.")
    ] = False,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Fault to inject; may be given several times. One of {', '.join(get_args(FaultKind))}.",
            metavar="KIND",
        ),
    ] = None,
    fault_rate: Annotated[
        float, typer.Option(help="Share of requests that get one of the faults.", min=0, max=1, metavar="P")
    ] = 0.0,
    keep_records: Annotated[int, typer.Option(help="Number of requests to keep records of.", min=0, metavar="N")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the addresses as one JSON object.")] = False,
) -> None:
    """Serve the embedded engine until interrupted.

    It answers on every wire and needs no GPU. It prints its addresses when it is ready for requests.
    """
    try:
        config = EngineConfig(
            backend=backend,
            port=port,
            host=host,
            model=model,
            seed=seed,
            vllm_version=vllm_version,
            dynamo_version=dynamo_version,
            prompt_start=prompt_start,
            num_layers=num_layers,
            top_k=top_k,
            num_experts=num_experts,
            max_model_len=max_model_len,
            eos_rate=eos_rate,
            latency=latency,
            token_latency=token_latency,
            chunk_tokens=chunk_tokens,
            incremental_streaming_output=incremental_streaming_output,
            sglang_generate=sglang_generate,
            fault_rate=fault_rate,
            random_faults=tuple(map(_fault, fault or ())),
            keep_records=keep_records,
        )
        asyncio.run(_serve(config, as_json=json))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except OSError as error:
        raise typer.BadParameter(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


def _fault(name: str) -> Fault:
    for kind, fault in _FAULTS.items():
        if kind == name:
            return fault
    raise ValueError(f"fault must be one of {', '.join(_FAULTS)}, got {name!r}")


async def _serve(config: EngineConfig, *, as_json: bool) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with start_engine(config) as engine:
        addresses: dict[str, Any] = {"backend": config.backend, "model": config.model, "url": engine.url}
        if config.backend == "dynamo":
            addresses |= {"rl_url": engine.rl_url, "system_url": engine.system_url}
        if as_json:
            print(_json.dumps(addresses), flush=True)
        else:
            for name, value in addresses.items():
                print(f"{name:<11}{value}", flush=True)
            print(f"{'doctor':<11}{_doctor(config, engine.url, engine.rl_url)}", flush=True)
        await stopped.wait()


def _doctor(config: EngineConfig, url: str, rl_url: str) -> str:
    """The command that examines this engine. Its discovery listens on a port of its own, which has to be named."""
    return f"dynamo-tito doctor {url}" + (f" --rl-url {rl_url}" if config.backend == "dynamo" else "")
