"""``holdfast doctor``."""

from collections.abc import Sequence

import click
import msgspec
from rich.markup import escape
from rich.table import Table

from engine.store_checks import Finding
from holdfast.cli import run_async, settings_from
from holdfast.commands.installation import console, print_json, require_installation
from holdfast.doctor import examine

_STYLES = {"ok": "green", "warning": "yellow", "failure": "bold red"}


class Diagnosis(msgspec.Struct, frozen=True):
    """What ``--json`` prints; ``healthy`` unless there is a failure."""

    healthy: bool
    findings: Sequence[Finding]


@click.command("doctor", short_help="Look at everything that an installation needs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
@run_async
async def command(context: click.Context, as_json: bool) -> int:
    """Look at everything an installation needs: each thing with a verdict and, where it will not do, a remedy.

    Exit code 0 when all will do (warnings included), 1 when something will not.
    """
    settings = settings_from(context)
    require_installation(settings)
    findings = await examine(settings)
    diagnosis = Diagnosis(all(finding.verdict != "failure" for finding in findings), findings)
    if as_json:
        print_json(diagnosis)
    else:
        _print(findings)
    return 0 if diagnosis.healthy else 1


def _print(findings: Sequence[Finding]) -> None:
    table = Table("verdict", "what", "found", box=None, pad_edge=False)
    for finding in findings:
        verdict = f"[{_STYLES[finding.verdict]}]{finding.verdict}[/]"
        remedy = "" if finding.verdict == "ok" or finding.remedy is None else f"\n→ {finding.remedy}"
        table.add_row(verdict, escape(finding.subject), escape(f"{finding.detail}{remedy}"))
    console().print(table)
