"""`export` and `verify`: from a member of a front to files, and the proof that these score what the front said."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpsearch.cli.common import console, find_run, print_json, say, set_aside
from mpsearch.cli.picking import PICK_HELP, WHERE_HELP, picked
from mpsearch.core.errors import BadInput, NotReproduced, nearest

FORMATS = ("packed", "json", "torchao", "modelopt")
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or the start of a name in runs/.")]
PickOption = Annotated[str, typer.Option(help=PICK_HELP)]
WhereOption = Annotated[list[str] | None, typer.Option(help=WHERE_HELP)]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def export(
    run: RunArgument,
    pick: PickOption,
    to: Annotated[Path, typer.Option(metavar="DIR", help="Where to write; made if missing.")],
    format_: Annotated[str, typer.Option("--format", help=", ".join(FORMATS) + ".")] = "packed",
    where: WhereOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a member of a front as a file: packed weights with their graph, or its formats for other tools."""
    if format_ not in FORMATS:
        raise BadInput(f"--format {format_!r} is not known.{nearest(format_, FORMATS)}")
    from mpsearch.deploy import packed_file
    from mpsearch.engine import export as engine
    from mpsearch.engine.load import load_result

    result = load_result(find_run(run))
    member = picked(result, where or [], pick)
    if format_ != "packed":
        path = engine.export_text(result, member, to, format_)
        print_json({"path": str(path), "key": member.key}) if as_json else print(path)
        return
    if (to / packed_file.FILE).exists():  # before the model is built
        raise BadInput(f"{to / packed_file.FILE} exists and is kept; name another folder.")
    with set_aside():
        sizes = engine.export_packed(result, member, to)
    path = to / packed_file.FILE
    if as_json:
        told = {"tensor_bytes": sizes.tensor_bytes, "header_bytes": sizes.header_bytes}
        print_json({"path": str(path), "key": member.key, **told})
        return
    print(f"{path}   tensors {sizes.tensor_bytes} bytes (memory_bytes), header with graph {sizes.header_bytes} bytes")
    say(f"mpsearch: check it: mpsearch verify {run} --pick key:{member.key[:8]} --packed {to}")


def verify(
    run: RunArgument,
    pick: PickOption,
    where: WhereOption = None,
    packed: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The packed file, or its folder. Default: pack the member now.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score the packed file of a member again, and compare with what the front says."""
    from rich.table import Table

    from mpsearch.engine import export as engine
    from mpsearch.engine.load import load_result

    result = load_result(find_run(run))
    member = picked(result, where or [], pick)
    with set_aside():
        claims = engine.verify(result, member, packed)
    missed = [claim for claim in claims if not claim.holds]
    if as_json:
        rows = [{**vars(claim), "holds": claim.holds} for claim in claims]
        print_json({"key": member.key, "holds": not missed, "claims": rows})
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for i, head in enumerate(("measure", "split", "front says", "packed gives", "")):
            table.add_column(head, justify="right" if i in (2, 3) else "left")
        for claim in claims:
            numbers = (f"{claim.claimed:.10g}", f"{claim.found:.10g}")
            told = "equal" if claim.holds else f"differs by {claim.found - claim.claimed:.3g}"
            table.add_row(claim.measure, claim.split or "", *numbers, told)
        console().print(table)
    if missed:
        names = ", ".join(f"{claim.measure} {claim.split or ''}".strip() for claim in missed)
        raise NotReproduced(f"member {member.key[:8]} does not score what the front says: {names}.")
