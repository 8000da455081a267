"""``dynamo-tito view``: a page that shows what was sampled."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

import dynamo_tito as tito
from dynamo_tito._types import FinalRow
from dynamo_tito.viewer import load

from ._decode import WireOrAuto
from ._report import printable

Named: TypeAlias = list[tuple[str, Any]]


def view(  # a parameter per option is how typer reads the command line
    files: Annotated[
        list[Path],
        typer.Argument(help="Saved responses, whole or streamed, and saved samples (.safetensors).", metavar="FILE"),
    ],
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the page.", metavar="FILE")] = Path(
        "view.html"
    ),
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Another scoring of the same tokens; as often as there are files.", metavar="FILE"),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="tokenizer.json, its directory, or a name on a hub. Without it: ids.", metavar="NAME"),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.", metavar="TEXT")] = None,
    wire: Annotated[
        WireOrAuto, typer.Option(help="Format of the responses; auto tells it from the keys.", metavar="NAME")
    ] = "auto",
    prompt_len: Annotated[
        int | None, typer.Option(help="Tokens of the prompt, where it is not echoed.", min=0, metavar="N")
    ] = None,
    routed_experts_prompt_start: Annotated[
        int | None, typer.Option(help="First position whose routed experts are shown.", min=0, metavar="N")
    ] = None,
    num_layers: Annotated[
        int | None, typer.Option(help="Decoder layers. SGLang's routed experts need it.", min=1, metavar="N")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Experts per token and layer. SGLang needs it, too.", min=1, metavar="N")
    ] = None,
    num_experts: Annotated[int | None, typer.Option(help="Experts of a layer.", min=1, metavar="N")] = None,
    dense_layer: Annotated[
        list[int] | None, typer.Option(help="A layer without a router; may be repeated.", min=0, metavar="N")
    ] = None,
    final_row: Annotated[
        FinalRow, typer.Option(help="Whether routed experts have a row for the last sampled token.")
    ] = "omitted",
) -> None:
    """Make a page that shows tokens, log-probabilities and routed experts.

    The page is one file that needs no network.

    Exit status 1: a file cannot be read or is refused. The reason is one line on standard error.
    """
    options: dict[str, Any] = {
        "prompt_len": prompt_len,
        "routed_experts_prompt_start": routed_experts_prompt_start,
        "num_layers": num_layers,
        "top_k": top_k,
        "final_row": final_row,
    }
    found = _loaded(files, wire, options)
    others = _loaded(against, wire, options) if against else None
    try:
        page = tito.view(
            [record for _, record in found],
            against=None if others is None else [record for _, record in others],
            tokenizer=tokenizer,
            title=title,
            names=[name for name, _ in found],
            prompt_len=prompt_len,
            final_row=final_row,
            num_experts=num_experts,
            dense_layers=dense_layer or (),
        )
        page.save(output)
    except (ModuleNotFoundError, OSError, ValueError) as error:
        _refuse(str(error))
    print(printable(str(output)))
    if open_:
        webbrowser.open(output.resolve().as_uri())


def _loaded(files: list[Path], wire: WireOrAuto, options: dict[str, Any]) -> Named:
    found: Named = []
    for file in files:
        try:
            found += load(file, wire=None if wire == "auto" else wire, **options)
        except OSError as error:
            _refuse(f"{file}: {error.strerror}")
        except tito.TitoError as error:
            _refuse(f"{file}: {type(error).__name__}: {error}")
        except ValueError as error:
            # A plain ValueError asks for an option: routed experts that do not say their own shape, for example.
            raise typer.BadParameter(f"{file}: {error}") from error
    return found


def _refuse(line: str) -> None:
    print(printable(line), file=sys.stderr)
    raise typer.Exit(1)
