"""``dynamo-tito decode``: what a saved response holds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

import dynamo_tito as tito
from dynamo_tito._types import ExpertsMode, FinalRow, MissingLogprob, Wire

from ._report import as_json, as_table, printable

_STDIN = Path("-")


def decode(  # a parameter per option is how typer reads the command line
    files: Annotated[
        list[Path],
        typer.Argument(help="Saved response bodies; - for standard input.", metavar="FILE"),
    ],
    wire: Annotated[Wire, typer.Option(help=f"Who answered: {', '.join(get_args(Wire))}.", metavar="NAME")],
    prompt_len: Annotated[
        int | None, typer.Option(help="Tokens of the prompt; with it the rows of routed experts are counted.", min=0)
    ] = None,
    routed_experts_prompt_start: Annotated[
        int | None, typer.Option(help="First position whose routed experts are wanted.", min=0)
    ] = None,
    num_layers: Annotated[
        int | None, typer.Option(help="Decoder layers; bare routed experts do not say.", min=1)
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Experts per token and layer; bare routed experts do not say.", min=1)
    ] = None,
    experts: Annotated[
        ExpertsMode, typer.Option(help="Widen routed experts, keep the wire's width, or leave them out.")
    ] = "int32",
    missing_logprob: Annotated[
        MissingLogprob, typer.Option(help="Refuse where the engine has no log-probability, or show NaN.")
    ] = "raise",
    final_row: Annotated[
        FinalRow, typer.Option(help="Whether routed experts have a row for the last sampled token.")
    ] = "omitted",
    require_logprobs: Annotated[bool, typer.Option(help="Refuse a response without log-probabilities.")] = True,
    require_routed_experts: Annotated[bool, typer.Option(help="Refuse a response without routed experts.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per choice and line.")] = False,
) -> None:
    """Show what saved responses hold: counts, dtypes, shapes, sources, first and last values.

    The status is 1 if a response cannot be read or is refused; the reason is one line on standard error.
    """
    options: dict[str, Any] = {
        "prompt_len": prompt_len,
        "routed_experts_prompt_start": routed_experts_prompt_start,
        "num_layers": num_layers,
        "top_k": top_k,
        "experts": experts,
        "missing_logprob": missing_logprob,
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
            completions = tito.decode_choices(body, wire=wire, **options)
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
            show(name, wire, len(body), completions)
    if failed:
        raise typer.Exit(1)


def _complain(line: str) -> None:
    print(printable(line), file=sys.stderr)
