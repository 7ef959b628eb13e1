"""Options of a job's pod, for backends that run jobs in pods; declared once, like the options of a conversion."""

from __future__ import annotations

from typing import Annotated, TypedDict

from geozarr_runner.spec.options import Arguments, Option, declared


class PodOptions(TypedDict, total=False):
    """Options of a job's pod; None takes the setting. A job on this machine has no pod and refuses them."""

    image: Annotated[
        str | None,
        Option(
            help="image of the runner that a job's pod runs",
            assumed="",
            label="Image",
            metavar="I",
        ),
    ]
    memory: Annotated[
        str | None,
        Option(help="memory of a job's pod, for example 12Gi", assumed="", label="Memory", metavar="M"),
    ]
    cpu: Annotated[
        str | None,
        Option(
            help="cores that are reserved for a job's pod, for example 2 or 500m",
            assumed="",
            label="Cores",
            metavar="N",
        ),
    ]
    time_limit: Annotated[
        float | None,
        Option(
            help="seconds that one run of a job may take in its pod, for example 28800",
            assumed="",
            label="Time limit",
            metavar="SECONDS",
        ),
    ]


class JobArguments(Arguments, PodOptions, total=False):
    """All arguments of a job except product, output and backend."""


PODS = declared(PodOptions)
JOB_ARGUMENTS = declared(JobArguments)
