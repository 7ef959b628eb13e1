"""A run's events: read piece by piece, from the pod's log and then from the file, each exactly once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from geozarr_nb.backends.argo.attempt import Attempt
from geozarr_nb.backends.argo.run_log import RunLog
from geozarr_nb.errors import ClaimUnreadable, ClusterObjectMissing
from geozarr_runner.spec.request import Request

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
OUTPUT = "pvc://claim/out.zarr"


def event(number: int, **fields: object) -> str:
    return json.dumps({"v": 1, "time": START.isoformat(), "type": "message", "text": str(number), **fields})


def begins(pod: str, workflow: str = "u") -> str:
    return json.dumps({"v": 1, "time": START.isoformat(), "type": "run", "id": f"{workflow}/{pod}"})


class Cluster:
    """A pod's log and a file on the claim; `log` tells only from a second on, as the API server does."""

    def __init__(self) -> None:
        self.lines: list[tuple[datetime, str]] | None = []
        self.half = b""
        self.file: bytes | None = None
        self.told = 0

    def write(self, *texts: str, after: float = 0.0) -> None:
        """Have the pod write lines, `after` seconds after its start."""
        assert self.lines is not None
        for number, text in enumerate(texts):
            self.lines.append((START + timedelta(seconds=after, microseconds=number), text))

    def log(self, pod: str, *, since: str = "") -> bytes:
        if self.lines is None:
            raise ClusterObjectMissing(f'pods "{pod}" not found')
        first = datetime.fromisoformat(since) if since else START
        told = [
            f"{time:%Y-%m-%dT%H:%M:%S.%f}000Z {text}\n".encode()
            for time, text in self.lines
            if time >= first.replace(microsecond=0)
        ]
        self.told += len(told)
        return b"".join(told) + self.half

    def read(self, address: str) -> bytes | None:
        assert address == f"{OUTPUT}.log.jsonl"
        return self.file


def attempt(*pods: str, ended: bool = False) -> Attempt:
    """Return an attempt with runs; all but the last have ended."""
    request = Request(
        source="https://h/a.zarr", shown="https://h/a.zarr", product="a", output=OUTPUT, identity="0" * 64
    )
    nodes = {
        pod: {
            "id": f"job-{pod}",
            "type": "Pod",
            "name": f"job({number})",
            "templateName": "t",
            "startedAt": (START + timedelta(minutes=number)).isoformat(),
            "phase": "Succeeded" if ended or number < len(pods) - 1 else "Running",
        }
        for number, pod in enumerate(pods)
    }
    annotations = {"geozarr.io/request": json.dumps(request.to_json())}
    return Attempt({"metadata": {"name": "job", "uid": "u", "annotations": annotations}, "status": {"nodes": nodes}})


def texts(log: RunLog) -> Sequence[str]:
    return [str(event.get("text", event.type)) for event in log.events]


def test_each_line_is_taken_once() -> None:
    cluster = Cluster()
    log = RunLog(cluster, cluster.read)  # type: ignore[arg-type]
    running = attempt("1")
    cluster.write(begins("job-t-1"), event(1), event(2))
    log.refresh(running)
    assert texts(log) == ["run", "1", "2"]
    cluster.write(event(3), after=0.5)  # in the same second
    log.refresh(running)
    cluster.write(event(4), event(5), after=1.2)
    cluster.write(event(6), after=7)
    log.refresh(running)
    log.refresh(running)
    assert texts(log) == ["run", *map(str, range(1, 7))]
    told = cluster.told
    log.refresh(attempt("1", ended=True))
    assert cluster.told - told == 1, "only the last second is told again"
    log.refresh(attempt("1", ended=True))
    assert cluster.told - told == 1, "nothing is asked of a run that has ended and was read"


def test_half_a_line_waits_for_the_rest() -> None:
    cluster = Cluster()
    log = RunLog(cluster, cluster.read)  # type: ignore[arg-type]
    cluster.write(begins("job-t-1"))
    cluster.half = b'2026-01-02T03:04:06.000000000Z {"v": 1, "ti'
    log.refresh(attempt("1"))
    assert texts(log) == ["run"]
    cluster.half = b""
    cluster.write(event(1), after=1)
    log.refresh(attempt("1"))
    assert texts(log) == ["run", "1"]


def test_a_pod_that_is_deleted_takes_nothing_with_it() -> None:
    cluster = Cluster()
    log = RunLog(cluster, cluster.read)  # type: ignore[arg-type]
    cluster.write(begins("job-t-1"), event(1))
    log.refresh(attempt("1"))
    others = f"{begins('job-t-0')}\n{event(99)}\n{begins('job-t-1', workflow='deleted')}\n{event(98)}\n"
    cluster.file = f"{others}{begins('job-t-1')}\n{event(1)}\n{event(2)}\n{event(3)}\n".encode()
    cluster.lines = None
    log.refresh(attempt("1", ended=True))
    assert texts(log) == ["run", "1", "2", "3"], "those of other runs in the file are not its own"


def test_runs_of_an_attempt_follow_each_other() -> None:
    cluster = Cluster()
    log = RunLog(cluster, cluster.read)  # type: ignore[arg-type]
    cluster.write(begins("job-t-1"), event(1))
    log.refresh(attempt("1"))
    cluster.lines = None
    cluster.file = f"{begins('job-t-1')}\n{event(1)}\n{event(2)}\n{begins('job-t-2')}\n{event(3)}\n".encode()
    log.refresh(attempt("1", "2"))
    assert texts(log) == ["run", "1", "2", "run", "3"]


def test_of_a_long_log_the_beginning_is_in_the_file() -> None:
    cluster = Cluster()
    log = RunLog(cluster, cluster.read)  # type: ignore[arg-type]
    cluster.write(event(7), event(8))  # the kubelet has thrown away what came before
    cluster.file = "\n".join([begins("job-t-1"), *map(event, range(1, 9)), ""]).encode()
    log.refresh(attempt("1", ended=True))
    assert texts(log) == ["run", *map(str, range(1, 9))]


def test_without_a_file_what_was_read_stays() -> None:
    cluster = Cluster()
    log = RunLog(cluster, cluster.read)  # type: ignore[arg-type]
    cluster.write(begins("job-t-1"), event(1))
    log.refresh(attempt("1"))
    cluster.lines = None
    log.refresh(attempt("1", ended=True))
    assert texts(log) == ["run", "1"]


def made_again(uid: str, *, ended: bool = False) -> Attempt:
    """Return an attempt whose one pod has this uid; Argo makes a pod that vanished early again under its name."""
    state = {"terminated": {"exitCode": 0}} if ended else {"running": {"startedAt": START.isoformat()}}
    status = {"containerStatuses": [{"name": "main", "state": state}]}
    pod = {"metadata": {"name": "job-t-1", "uid": uid, "creationTimestamp": START.isoformat()}, "status": status}
    return Attempt(attempt("1").thing, [pod], sees_pods=True)


def test_two_pods_of_one_name_are_two_runs() -> None:
    cluster = Cluster()
    log = RunLog(cluster, cluster.read)  # type: ignore[arg-type]
    cluster.write(begins("job-t-1"), event(1), event(2), after=5)
    log.refresh(made_again("one"))
    cluster.lines = []
    cluster.write(begins("job-t-1"), event(3), after=2)  # by the clock of another node
    log.refresh(made_again("two"))
    cluster.write(event(4), after=3)
    log.refresh(made_again("two"))
    assert texts(log) == ["run", "1", "2", "run", "3", "4"]


def test_of_two_runs_of_one_name_in_the_file_the_last_one_counts() -> None:
    cluster = Cluster()
    log = RunLog(cluster, cluster.read)  # type: ignore[arg-type]
    cluster.lines = None
    cluster.file = "\n".join([begins("job-t-1"), event(1), begins("job-t-1"), event(2), ""]).encode()
    log.refresh(attempt("1", ended=True))
    assert texts(log) == ["run", "2"]


def test_a_log_without_an_end_is_read_in_the_file() -> None:
    """The kubelet had just begun another file: what it returns is nothing, or ends too soon."""
    result = event(3, type="result", path="/x", bytes_written=1, seconds=1.0, archive=None)
    whole = "\n".join([begins("job-t-1"), event(1), result, ""]).encode()
    for before in ([], [begins("job-t-1"), event(1)]):
        cluster = Cluster()
        log = RunLog(cluster, cluster.read)  # type: ignore[arg-type]
        cluster.write(*before)
        cluster.file = whole
        log.refresh(attempt("1", ended=True))
        assert [each.type for each in log.events] == ["run", "message", "result"]
    cluster = Cluster()
    log = RunLog(cluster, lambda _: (_ for _ in ()).throw(AssertionError))  # type: ignore[arg-type]
    cluster.write(begins("job-t-1"), result)
    log.refresh(attempt("1", ended=True))
    assert [each.type for each in log.events] == ["run", "result"], "nothing is missing: the file is not asked for"


def test_a_claim_that_cannot_be_read_hides_no_end() -> None:
    """A run that never began has no events in its pod's log; what its Workflow says of it is told nevertheless."""

    def no_reader(_: str) -> bytes | None:
        raise ClaimUnreadable("the reader pod ended as soon as it was started")

    cluster = Cluster()
    log = RunLog(cluster, no_reader)  # type: ignore[arg-type]
    cluster.write()
    log.refresh(attempt("1", ended=True))
    assert texts(log) == []
    assert "reader pod" in str(log.denial)
