"""The server's watch over runs of deployments: one whose process or machine died is marked as crashed.

Such a run can't say so itself and would be shown as running for ever, and no automation would hear of it. What tells it
from a busy one is that its heartbeats end: Prefect's flows send one every `PREFECT_FLOWS_HEARTBEAT_FREQUENCY` seconds.
Source: Prefect's documentation, "How to detect and respond to zombie flows". `prefect deploy` runs it (prefect.yaml).

    python -m flows.watch                # ten minutes without a sign, where nothing was set before
    python -m flows.watch --after 1800   # set or changed
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from flows.command import one_line_errors
from histopipe.core.errors import HistopipeError

if TYPE_CHECKING:
    from prefect.automations import Automation

NAME = "histopipe: runs that fell silent"
SILENCE = timedelta(minutes=10)
TAG = "histopipe"  # that every deployment of prefect.yaml gives its runs
SIGN = "prefect.flow-run.heartbeat"
MISSED = 2  # heartbeats that may get lost
# after these a run is expected to be silent
ENDS = ("Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended", "AwaitingRetry")


def watch(after: timedelta | None = None) -> None:
    """Have the server mark a run as crashed once it gave no sign for so long.

    Args:
        after: changes what was set before, which else stays.

    Raises:
        HistopipeError: so short a time would end runs that are well.
        httpx.HTTPError: the server can't be reached, or refuses.
    """
    from prefect.client.orchestration import get_client

    if after:
        _require_longer_than_heartbeats(after)
    with get_client(sync_client=True) as client:
        known = client.read_automations_by_name(NAME)
    automation = _automation(after or SILENCE)
    if not known:
        automation.create()
    elif after:
        automation.id = known[0].id
        automation.update()


def _require_longer_than_heartbeats(after: timedelta) -> None:
    from prefect.settings import get_current_settings

    every = get_current_settings().flows.heartbeat_frequency or 0
    least = (1 + MISSED) * every
    if after.total_seconds() <= least:
        raise HistopipeError(
            f"runs give a sign every {every} s: --after wants more than {least} s, or set "
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY lower, here and where flows run"
        )


def _automation(after: timedelta) -> Automation:
    from prefect.automations import Automation, ChangeFlowRunState, EventTrigger, Posture
    from prefect.client.schemas.objects import StateType

    crash = ChangeFlowRunState(
        name="Crashed",
        state=StateType.CRASHED,
        message=f"No sign of life for {after}: run it again",
        force=False,
    )
    return Automation(
        name=NAME,
        description="A run of a deployment whose process is gone, with its machine or alone, is crashed.",
        trigger=EventTrigger(
            posture=Posture.Proactive,
            match_related={"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"},
            for_each={"prefect.resource.id"},
            after={SIGN},
            expect={SIGN, *(f"prefect.flow-run.{state}" for state in ENDS)},
            within=after,
        ),
        actions=[crash],
    )


@click.command()
@click.option("--after", type=click.IntRange(min=1), help="Seconds without a sign; what was set stays by default.")
def main(after: int | None) -> None:
    """Have the server mark runs of deployments whose process is gone as crashed."""
    with one_line_errors():
        watch(timedelta(seconds=after) if after else None)
    click.echo("runs of deployments that fall silent are marked as crashed")


if __name__ == "__main__":
    main()
