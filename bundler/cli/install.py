"""`bundle install`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundler.cli.access import token_command
from bundler.cli.options import (
    ca_file_option,
    duration,
    jobs_option,
    output_option,
    parts_option,
    progress_option,
    showing,
    site_option,
    trust_option,
)
from bundler.cli.render import show_document, visible
from bundler.domain.events import counted
from bundler.errors import PlanHasChangesError, UsageError

if TYPE_CHECKING:
    from bundler.cli.progress import Progress
    from bundler.domain.plan import Plan
    from bundler.domain.report import Report
    from bundler.workflows.install import InstallOutcome


@click.command()
@click.argument("archive")
@site_option
@click.option("--plan", "plan_only", is_flag=True, help="Show what would be written, and write nothing.")
@click.option("--exit-code", is_flag=True, help="With --plan: end with 10 when something would be written.")
@click.option("--yes", is_flag=True, help="Do not ask before writing.")
@click.option(
    "--timeout",
    callback=duration,
    default="15m",
    metavar="TIME",
    show_default=True,
    help="How long to wait for nodes, and for health: 90s, 15m, 2h.",
)
@click.option("--break-lock", metavar="ID", help="Take over the expired lock with this id.")
@parts_option
@trust_option
@ca_file_option
@jobs_option
@progress_option
@output_option
def install(
    archive: str,
    site_file: Path,
    plan_only: bool,
    exit_code: bool,
    yes: bool,
    timeout: float,
    break_lock: str | None,
    parts: tuple[str, ...],
    trust_folder: Path | None,
    ca_file: Path | None,
    jobs: int,
    progress: str,
    output: str,
) -> None:
    """Install an archive into a closed VPC.

    ARCHIVE is a file, or s3://bucket/key, which is read by ranges without a local copy, or STEM.parts.json of one in
    parts, which are not joined. Phases: verify, preflight,
    infrastructure, push, restore, identity, core, nodes, check-nodes, add-ons, check. The plan is shown (on stderr)
    before anything is written; run the same command again after an interruption and it goes on; a finished install
    writes nothing.
    """
    from bundler import trust as store
    from bundler import wiring
    from bundler.workflows.install import install as run

    if exit_code and not plan_only:
        raise UsageError("--exit-code", "asks about a plan, and --plan was not given", hint="Give --plan as well.")
    trusted = store.load_accepted_trust(store.trust_folder(trust_folder, environ=os.environ))
    site = wiring.read_site(site_file)
    options = wiring.InstallOptions(
        token_command=tuple(token_command(site_file)), deadline_s=timeout, break_lock=break_lock
    )
    with showing(progress) as emit:
        surroundings = wiring.Surroundings(ca_file=ca_file, jobs=jobs, emit=emit, parts=parts)
        with wiring.archive_source(archive, surroundings, site) as source:
            outcome = run(
                source,
                trust=trusted,
                enter=lambda opened: wiring.closed(opened, site, surroundings, options),
                confirm=lambda plan: not plan_only and confirm(plan, yes=yes, emit=emit),
                pace=surroundings.pace,
            )
    _show(outcome, output, plan_only=plan_only)
    if plan_only and exit_code and not outcome.plan.empty:
        raise PlanHasChangesError("the site", f"is not as bundle and site file say: {_changes(outcome.plan)}")


def confirm(plan: Plan, *, yes: bool, emit: Progress) -> bool:
    """Show a plan on stderr, whatever stands on stdout, and return whether to do it.

    Raises:
        UsageError: nobody is there to be asked.
    """
    if not yes and not sys.stdin.isatty():
        raise UsageError("install", "would write, and there is no terminal to ask", hint="Give --yes, or --plan first.")
    emit.tell(_plan_lines(plan))
    return yes or click.confirm("Go on?", err=True)


def _show(outcome: InstallOutcome, output: str, *, plan_only: bool) -> None:
    if output != "text":
        document: dict[str, object] = {
            "done": outcome.is_done,
            "actions": [
                {"phase": a.phase, "verb": a.verb, "target": a.target, "detail": a.detail} for a in outcome.plan
            ],
            "unchanged": list(outcome.plan.unchanged),
        }
        if outcome.report is not None:
            document["report"] = described(outcome.report)
        show_document(document, output)
        return
    if outcome.plan.empty:
        click.echo("Nothing to do: the site is as the bundle and the site file say.")
    elif plan_only:
        click.echo("\n".join(_plan_lines(outcome.plan)))
    elif outcome.is_done:
        click.echo(f"Done: {_changes(outcome.plan)}. See: bundle status")
    else:
        click.echo("Nothing was written.")


def _plan_lines(plan: Plan) -> Iterator[str]:
    phase = ""
    for action in plan:
        if action.phase != phase:
            phase = action.phase
            yield click.style(phase, bold=True)
        yield f"  {visible(str(action))}"
    right = "1 object is" if len(plan.unchanged) == 1 else f"{len(plan.unchanged)} objects are"
    yield f"{_changes(plan)}; {right} right already."


def _changes(plan: Plan) -> str:
    return counted(len(plan.actions), "change")


def described(report: Report) -> dict[str, object]:
    """Return a report for machines."""
    return {
        "healthy": report.is_healthy,
        "standIns": report.stand_ins,
        "nodes": [{"name": node.name, "ready": node.ready, "providerId": node.provider_id} for node in report.nodes],
        "workloads": [
            {
                "workload": str(state.ref),
                "owner": state.owner,
                "ready": state.ready,
                "desired": state.desired,
                "images": list(state.images),
                "problem": state.problem,
            }
            for state in report.workloads
        ],
        "problems": list(report.problems),
    }
