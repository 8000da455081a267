"""``dynamo-tito decode``: what a saved response holds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

import typer

import dynamo_tito as tito
from dynamo_tito._detect import is_stream
from dynamo_tito._types import ExpertsMode, FinalRow, LogprobsDtype, MissingLogprob, Wire

from ._report import as_json, as_table, printable

_STDIN = Path("-")

_REFUSED = b'{"format": "dynamo-tito refused'
"""How a record of ``save_refused`` begins."""

WireOrAuto: TypeAlias = Literal["auto", Wire]


def decode(  # noqa: PLR0917 - a parameter per option is how typer reads the command line
    files: Annotated[
        list[Path],
        typer.Argument(help="Saved response bodies or streams of events; - reads standard input.", metavar="FILE"),
    ],
    wire: Annotated[
        WireOrAuto,
        typer.Option(
            help=f"Format of the response: {', '.join(get_args(Wire))}; auto tells it from the keys.", metavar="NAME"
        ),
    ] = "auto",
    prompt_len: Annotated[
        int | None,
        typer.Option(help="Tokens of the prompt. With it, the rows of routed experts are counted.", min=0, metavar="N"),
    ] = None,
    routed_experts_prompt_start: Annotated[
        int | None, typer.Option(help="First position whose routed experts are returned.", min=0, metavar="N")
    ] = None,
    num_layers: Annotated[
        int | None,
        typer.Option(help="Decoder layers. SGLang's routed experts have no shape and need it.", min=1, metavar="N"),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(help="Experts per token and layer. SGLang needs it, too.", min=1, metavar="N"),
    ] = None,
    num_indexer_layers: Annotated[
        int | None,
        typer.Option(help="Layers with an indexer, which SGLang's indexer_topk needs.", min=1, metavar="N"),
    ] = None,
    index_topk: Annotated[
        int | None,
        typer.Option(help="Positions per token and indexer. SGLang needs it, too.", min=1, metavar="N"),
    ] = None,
    experts: Annotated[
        ExpertsMode, typer.Option(help="Routed experts as int32, in the width of the response, or not at all.")
    ] = "int32",
    missing_logprob: Annotated[
        MissingLogprob, typer.Option(help="Refuse a token without a log-probability, or show NaN.")
    ] = "raise",
    logprobs_dtype: Annotated[LogprobsDtype, typer.Option(help="The type of log-probabilities.")] = "float64",
    final_row: Annotated[
        FinalRow, typer.Option(help="Whether routed experts have a row for the last sampled token.")
    ] = "omitted",
    require_logprobs: Annotated[bool, typer.Option(help="Refuse a response without log-probabilities.")] = True,
    require_routed_experts: Annotated[bool, typer.Option(help="Refuse a response without routed experts.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per choice, one per line.")] = False,
) -> None:
    """Decode saved responses, streamed ones too, and show what they contain.

    Shows counts, dtypes, shapes, sources, first and last values. A .json file that save_refused wrote is decoded as the
    client did, whatever the options.

    Exit status 1: a response cannot be read or is refused. The reason is one line on standard error.
    """
    options: dict[str, Any] = {
        "prompt_len": prompt_len,
        "routed_experts_prompt_start": routed_experts_prompt_start,
        "num_layers": num_layers,
        "top_k": top_k,
        "num_indexer_layers": num_indexer_layers,
        "index_topk": index_topk,
        "experts": experts,
        "missing_logprob": missing_logprob,
        "logprobs_dtype": logprobs_dtype,
        "final_row": final_row,
        "require_logprobs": require_logprobs,
        "require_routed_experts": require_routed_experts,
    }
    show = as_json if json else as_table
    failed = False
    for file in files:
        name = "stdin" if file == _STDIN else str(file)
        try:
            body = sys.stdin.buffer.read() if file == _STDIN else file.read_bytes()
            if body.startswith(_REFUSED):
                _complain(f"{name}: an answer that was refused, decoded as the client did")
                _complain(f"{name}: it is read now: {tito.replay(file)}")
                continue
            found = wire
            if found == "auto":
                found, why = tito.detect_wire(body)
                _complain(f"{name}: wire {found}: {why}")
            completions = _decoded(body, found, options)
        except OSError as error:
            _complain(f"{name}: {error.strerror}")
            failed = True
        except tito.TitoError as error:
            _complain(f"{name}: {type(error).__name__}: {error}")
            failed = True
        except ValueError as error:
            # A plain ValueError asks for an option: routed experts that do not say their own shape, for example.
            raise typer.BadParameter(f"{name}: {error}") from error
        else:
            show(name, found, len(body), completions)
    if failed:
        raise typer.Exit(1)


def _decoded(body: bytes, wire: Wire, options: dict[str, Any]) -> list[tito.Completion]:
    """Every choice of a body, or of a recorded stream of events."""
    if not is_stream(body):
        return tito.decode_choices(body, wire=wire, **options)
    decoder = tito.StreamDecoder(wire=wire, deltas=False, **options)
    decoder.feed_choices(body)
    return decoder.finish_choices()


def _complain(line: str) -> None:
    print(printable(line), file=sys.stderr)
