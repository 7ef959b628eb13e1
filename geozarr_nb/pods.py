"""What a job's pod may use, where jobs run in pods: declared once, as the options of a conversion are."""

from __future__ import annotations

from typing import Annotated, TypedDict

from geozarr_runner.spec.options import Arguments, Option, declared


class PodOptions(TypedDict, total=False):
    """Options of a job's pod; None is what the settings say."""

    image: Annotated[
        str | None,
        Option(
            help="the runner's image, where jobs run in one",
            assumed="",
            label="Image",
            metavar="I",
        ),
    ]
    memory: Annotated[
        str | None,
        Option(help="memory of a job's pod, 12Gi say", assumed="", label="Memory", metavar="M"),
    ]
    cpu: Annotated[
        str | None,
        Option(help="cores that are kept for a job's pod, 2 or 500m say", assumed="", label="Cores", metavar="N"),
    ]
    time_limit: Annotated[
        float | None,
        Option(
            help="seconds that a try may take, where jobs run in pods, 28800 say",
            assumed="",
            label="Time limit",
            metavar="SECONDS",
        ),
    ]


class JobArguments(Arguments, PodOptions, total=False):
    """What a person says of a job beside product, output and backend."""


PODS = declared(PodOptions)
JOB_ARGUMENTS = declared(JobArguments)
