"""The server's watch over runs of deployments: one whose process or machine died is marked as crashed.

Such a run can't say so itself and would be shown as running for ever, and no automation would hear of it. What tells it
from a busy one is that its heartbeats end: Prefect's flows send one every `PREFECT_FLOWS_HEARTBEAT_FREQUENCY` seconds.
Source: Prefect's documentation, "How to detect and respond to zombie flows". `prefect deploy` runs it (prefect.yaml).

    python -m flows.watch                # ten minutes without a sign: three heartbeats of Prefect's default
    python -m flows.watch --after 90     # changed
"""

from __future__ import annotations

from datetime import timedelta

import click

from flows.command import one_line_errors

NAME = "histopipe: runs that fell silent"
SILENCE = timedelta(minutes=10)
TAG = "histopipe"  # that every deployment of prefect.yaml gives its runs
SIGN = "prefect.flow-run.heartbeat"
# after these a run is expected to be silent
ENDS = ("Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended", "AwaitingRetry")


def watch(after: timedelta) -> None:
    """Have the server mark a run as crashed once it gave no sign for so long; what was said before is changed.

    Raises:
        httpx.HTTPError: the server can't be reached, or refuses.
    """
    from prefect.automations import Automation, ChangeFlowRunState, EventTrigger, Posture
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType

    automation = Automation(
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
        actions=[
            ChangeFlowRunState(
                name="Crashed",
                state=StateType.CRASHED,
                message=f"No sign of life for {after}: run it again",
                force=False,
            )
        ],
    )
    with get_client(sync_client=True) as client:
        known = client.read_automations_by_name(NAME)
    if known:
        automation.id = known[0].id
        automation.update()
    else:
        automation.create()


@click.command()
@click.option(
    "--after",
    default=int(SILENCE.total_seconds()),
    show_default=True,
    type=click.IntRange(60),
    help="Seconds without a sign.",
)
def main(after: int) -> None:
    """Have the server mark runs of deployments whose process is gone as crashed."""
    with one_line_errors():
        watch(timedelta(seconds=after))
    click.echo(f"runs without a sign of life for {after} s are marked as crashed")


if __name__ == "__main__":
    main()
