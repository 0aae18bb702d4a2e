"""The server's watch over runs of deployments: a run whose process or machine died is marked as crashed.

Such a run can't report it and would be shown as running for ever, unknown to any automation. It differs from a busy run
in that its heartbeats end: Prefect's flows send one every `PREFECT_FLOWS_HEARTBEAT_FREQUENCY` seconds.
Source: Prefect's documentation, "How to detect and respond to zombie flows". `prefect deploy` runs it (prefect.yaml).

    python -m flows.watch                # ten minutes without a heartbeat, unless another time is set
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
TAG = "histopipe"  # tag of all runs of the deployments in prefect.yaml
SIGN = "prefect.flow-run.heartbeat"
MISSED = 2  # heartbeats that may get lost
# states after which a run sends no heartbeats
ENDS = ("Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended", "AwaitingRetry")


def watch(after: timedelta | None = None) -> None:
    """Let the server mark a run as crashed once it has sent no heartbeat for that long.

    Args:
        after: time without a heartbeat; by default the one that is set stays.

    Raises:
        HistopipeError: the time is so short that it would end healthy runs.
        httpx.HTTPError: the server can't be reached, or refuses.
    """
    from prefect.client.orchestration import get_client

    if after:
        _require_longer_than_heartbeats(after)
    with get_client(sync_client=True) as client:
        existing = client.read_automations_by_name(NAME)
    automation = _automation(after or SILENCE)
    if not existing:
        automation.create()
    elif after:
        automation.id = existing[0].id
        automation.update()


def _require_longer_than_heartbeats(after: timedelta) -> None:
    from prefect.settings import get_current_settings

    frequency = get_current_settings().flows.heartbeat_frequency or 0
    least = (1 + MISSED) * frequency
    if after.total_seconds() <= least:
        raise HistopipeError(
            f"runs give a sign every {frequency} s: --after wants more than {least} s, or set "
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
        description="Mark runs of deployments as crashed whose process or machine is gone.",
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
@click.option(
    "--after", type=click.IntRange(min=1), help="Seconds without a heartbeat; the time that is set stays by default."
)
def main(after: int | None) -> None:
    """Let the server mark runs of deployments whose process is gone as crashed."""
    with one_line_errors():
        watch(timedelta(seconds=after) if after else None)
    click.echo("runs of deployments that fall silent are marked as crashed")


if __name__ == "__main__":
    main()
