"""What is measured: each case runs commands as children and returns its figures."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Measurement, measure, stored_bytes
from benchmarks.results import Goal, Result, Row
from geozarr_runner.events import Reporter
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.kinds.sentinel2 import Sentinel2
from geozarr_runner.planning.estimate import needed
from geozarr_runner.planning.preflight import preflight
from geozarr_runner.spec.request import Request
from geozarr_runner.staging.view import make_view

if TYPE_CHECKING:
    from geozarr_nb.samples.products import SampleKind

HERE = Path(__file__).parent
GROUP = "/measurements/reflectance/r20m"
GROUPS = ("/measurements/reflectance/r10m", GROUP)
# Without these flags the converter recognises the product and ignores --groups; with them it copies every other group.
GENERIC = ("--no-s2-optimized", "--no-s3-olci-optimized")
SAMPLE = 1080
LATENCY = 0.03
BANDWIDTH = 25e6
TIMEOUT = 3600.0
STORED = "downloaded, to what is stored"
FULL: Mapping[SampleKind, int] = {"s2-l2a": 10980, "s1-grd": 26064, "s3-olci": 4865}  # pixels of a real product
METADATA = (".zmetadata", "zarr.json")  # read before anything is estimated
MEGABYTE = 1e6


class CommandFailedError(RuntimeError):
    """A measured command ended with an error; its figures would mean nothing."""

    def __init__(self, done: Measurement) -> None:
        tail = "\n".join((done.stderr or done.stdout).splitlines()[-15:])
        command = " ".join(done.command)
        super().__init__(f"{command}\nended with exit code {done.exit_code}; its last lines:\n{tail}\nRun it by hand.")


@dataclass(frozen=True)
class Bench:
    """Where and how much to measure.

    Attributes
    ----------
    data
        Folder for inputs, which are kept, and outputs, which are not.
    size
        Pixels along the 10 m band of the large input.
    repeat
        Runs of each command.
    """

    data: Path
    size: int
    repeat: int

    def product(self, size: int | None = None, kind: SampleKind = "s2-l2a") -> Path:
        """Return a sample product of `size`, made at the first call and kept; remove `data` to have it made again."""
        size = size or self.size
        path = self.data / f"{kind}-{size}.zarr"
        if not path.exists():
            from geozarr_nb.samples.products import sample_product

            self.data.mkdir(parents=True, exist_ok=True)
            sample_product(path, size=size, kind=kind)
        return path

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Make a folder beside the inputs, on the same disk, and remove it with what is in it."""
        self.data.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="out-", dir=self.data) as folder:
            yield Path(folder)


type Command = Callable[[str, Path], list[str]]  # input, output -> arguments


def ours(groups: Sequence[str] = (), *options: str) -> Command:
    """Return our command line."""
    chosen = ["--groups", *groups, *options] if groups else list(options)
    return lambda source, output: [_program("geozarr-runner"), "convert", source, str(output), *chosen, "--json"]


def bare(groups: Sequence[str] = ()) -> Command:
    """Return the converter's command line, as a person would type it."""
    chosen = ["--groups", *groups, *GENERIC] if groups else []
    return lambda source, output: [_program("eopf-geozarr"), "convert", source, str(output), *chosen]


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def run(command: Sequence[str], output: Path | None = None) -> Measurement:
    """Measure one command that has to succeed."""
    os.sync()  # what the last one left to be written would be paid for by this one
    done = measure(command, output=output, timeout=TIMEOUT)
    if done.exit_code:
        raise CommandFailedError(done)
    return done


def convert(bench: Bench, command: Command, source: str) -> Measurement:
    """Measure one conversion; its output is gone afterwards."""
    with bench.scratch() as folder:
        output = folder / "out.zarr"
        done = run(command(source, output), output)
        if not done.bytes_written:
            raise CommandFailedError(done)
        return done


def in_turns(bench: Bench, source: str, *commands: Command) -> list[list[Measurement]]:
    """Run commands one after the other (A B A B), so that a machine that changes its pace does so for all of them."""
    rounds = [[convert(bench, command, source) for command in commands] for _ in range(bench.repeat)]
    return [list(runs) for runs in zip(*rounds, strict=True)]


def median(runs: Sequence[Measurement], figure: Callable[[Measurement], float]) -> float:
    """Return the median of one figure."""
    return statistics.median(map(figure, runs))


def probe(*arguments: str) -> tuple[dict[str, Any], Measurement]:
    """Run `probe.py` and return what it printed last, and its own figures."""
    with tempfile.TemporaryDirectory() as state:
        # Jobs of a benchmark are nobody's jobs: they must not be joined, nor show in a person's list.
        done = measure([sys.executable, HERE / "probe.py", *arguments], env={"XDG_STATE_HOME": state}, timeout=TIMEOUT)
    if done.exit_code:
        raise CommandFailedError(done)
    return json.loads(done.stdout.splitlines()[-1]), done


class Served:
    """A folder served by `server.py` in a process of its own, for the length of a ``with`` block."""

    def __init__(self, root: Path, *, latency: float = 0.0, bandwidth: float | None = None) -> None:
        self.url = ""
        limits = ["--latency", str(latency), *(["--bandwidth", str(bandwidth)] if bandwidth else [])]
        self._command = [sys.executable, str(HERE / "server.py"), str(root), *limits]

    def counts(self) -> dict[str, Any]:
        """Return the counters since the last reset."""
        with urllib.request.urlopen(f"{self.url}/-/counts") as answer:
            counts: dict[str, Any] = json.load(answer)
        return counts

    def reset(self) -> None:
        """Set the counters to zero."""
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/-/reset", method="POST")).close()

    def __enter__(self) -> Served:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError(f"{' '.join(self._command)} did not start; run it by hand to see why.")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()


def _comparison(mine: list[Measurement], theirs: list[Measurement], **goals: Goal) -> list[Row]:
    figures: list[tuple[str, Any, Callable[[Measurement], float], Goal | None]] = [
        ("wall time", "s", lambda run: run.wall, goals.get("wall")),
        ("processor time", "s", lambda run: run.user + run.system, None),
        ("peak memory", "bytes", lambda run: run.peak_rss, goals.get("memory")),
        ("written", "bytes", lambda run: run.bytes_written, None),
    ]
    return [Row(name, unit, median(mine, of), median(theirs, of), goal) for name, unit, of, goal in figures]


def whole(bench: Bench) -> Result:
    """Convert a whole product from the local disk."""
    mine, theirs = in_turns(bench, str(bench.product()), ours(), bare())
    rows = _comparison(mine, theirs, wall=Goal("ratio", 0.80), memory=Goal("ratio", 1.25))
    title = f"a whole Sentinel-2 L2A product, 10 m band of {bench.size}, local disk, verification included"
    return Result("whole", title, ("ours", "converter"), rows, bench.repeat)


def packed(bench: Bench) -> Result:
    """Convert a whole product as integers with scale and offset, and as float32."""
    mine, theirs = in_turns(bench, str(bench.product()), ours((), "--packed"), ours())
    title = (
        f"`packed=True`: a whole Sentinel-2 L2A product, 10 m band of {bench.size}, local disk, against ours without it"
    )
    return Result("packed", title, ("packed", "ours"), _comparison(mine, theirs), bench.repeat)


def group(bench: Bench) -> Result:
    """Convert one group from the local disk; the converter alone copies all the others as well."""
    mine, theirs = in_turns(bench, str(bench.product()), ours([GROUP]), bare([GROUP]))
    title = f"`{GROUP}` alone, 10 m band of {bench.size}, local disk"
    return Result("group", title, ("ours", "converter"), _comparison(mine, theirs), bench.repeat)


def view(bench: Bench) -> Result:
    """Convert one group from the local disk; the converter is given the narrowed view by hand."""
    with bench.scratch() as folder:
        narrowed = _view(bench, folder, GROUP)
        mine, theirs = in_turns(bench, str(bench.product()), ours([GROUP]), _given(bare([GROUP]), narrowed))
    rows = _comparison(mine, theirs, wall=Goal("ratio", 0.60))
    title = f"`{GROUP}` alone, 10 m band of {bench.size}, local disk; the converter given the narrowed view by hand"
    return Result("view", title, ("ours", "converter"), rows, bench.repeat)


def groups(bench: Bench) -> Result:
    """Convert two groups at once, and one after the other as the converter would."""
    with bench.scratch() as folder:
        singles = [_given(bare([group]), _view(bench, folder, group)) for group in GROUPS]
        mine, *theirs = in_turns(bench, str(bench.product()), ours(GROUPS), *singles)
    rows = [
        Row(
            "wall time",
            "s",
            median(mine, lambda run: run.wall),
            _sum(theirs, lambda run: run.wall),
            Goal("ratio", 0.75),
        ),
        Row(
            "processor time",
            "s",
            median(mine, lambda run: run.user + run.system),
            _sum(theirs, lambda run: run.user + run.system),
        ),
        Row(
            "peak memory",
            "bytes",
            median(mine, lambda run: run.peak_rss),
            max(median(runs, lambda run: run.peak_rss) for runs in theirs),
        ),
        Row(
            "written", "bytes", median(mine, lambda run: run.bytes_written), _sum(theirs, lambda run: run.bytes_written)
        ),
    ]
    title = f"`r10m` and `r20m`, 10 m band of {bench.size}, local disk; against the converter, one view after the other"
    return Result("groups", title, ("ours", "converter"), rows, bench.repeat)


def _view(bench: Bench, folder: Path, group: str) -> Path:
    """Make the view that a person would make to have nothing but a group converted."""
    product, narrowed = bench.product(), folder / f"{group.rpartition('/')[2]}.zarr"
    plan = preflight(Request.of(product, folder / "none.zarr", groups=[group]), Reporter(io.StringIO()))
    make_view(plan, needed(plan.product, plan.groups), product, narrowed)
    return narrowed


def _given(command: Command, source: Path) -> Command:
    return lambda _, output: command(str(source), output)


def _sum(rounds: Sequence[Sequence[Measurement]], figure: Callable[[Measurement], float]) -> float:
    return sum(median(runs, figure) for runs in rounds)


def staging(bench: Bench) -> Result:
    """Stage a whole product from a server without limits; another client fetches the same files."""
    product = bench.product()
    client = next(name for name in ("aria2c", "curl") if shutil.which(name))
    seconds, peaks, theirs = [], [], []
    with Served(product.parent) as server:
        url = f"{server.url}/{product.name}"
        wanted = [key for array in needed(open_product(product), ()) for key in array.object_keys()]
        keys = [key for key in wanted if (product / key).is_file()]
        for _ in range(bench.repeat):
            with bench.scratch() as folder:
                answer, done = probe("stage", url, str(folder / "out.zarr"))
                seconds.append(answer["seconds"])
                peaks.append(done.own_peak_rss)
            with bench.scratch() as folder:
                theirs.append(run(_download(client, url, keys, folder)).wall)
    rows = [
        Row("seconds", "s", statistics.median(seconds), statistics.median(theirs), Goal("ratio", 1 / 0.7)),
        Row("peak memory", "bytes", statistics.median(peaks), goal=Goal("value", 300 * MEGABYTE)),
        Row("downloaded", "bytes", sum((product / key).stat().st_size for key in keys)),
        Row("objects", "count", len(keys)),
    ]
    title = f"staging alone, a whole product, 10 m band of {bench.size}, no latency; `{client}` fetches the same files"
    return Result("staging", title, ("ours", client), rows, bench.repeat)


def _download(client: str, url: str, keys: Sequence[str], folder: Path) -> list[str]:
    """Return the command that fetches files, 16 at once."""
    listing = folder / "list"
    if client == "aria2c":
        listing.write_text("".join(f"{url}/{key}\n  out={key}\n" for key in keys))
        return ["aria2c", "--quiet", "--max-concurrent-downloads=16", f"--dir={folder}", f"--input-file={listing}"]
    listing.write_text("".join(f'url="{url}/{key}"\noutput="{folder}/{key}"\n' for key in keys))
    return ["curl", "--silent", "--parallel", "--parallel-max", "16", "--create-dirs", "--config", str(listing)]


def http_group(bench: Bench) -> Result:
    """Convert one group over HTTP."""
    goals = {"wall time": Goal("ratio", 1 / 8), "written": Goal("ratio", 0.42), STORED: Goal("ratio", 1.02)}
    return _http(bench, "http", f"`{GROUP}`", [GROUP], goals)


def http_whole(bench: Bench) -> Result:
    """Convert a whole product over HTTP."""
    goals = {"wall time": Goal("ratio", 1 / 3.3), STORED: Goal("ratio", 1.01)}
    return _http(bench, "http-whole", "a whole Sentinel-2 L2A product", [], goals)


def _http(bench: Bench, name: str, what: str, groups: Sequence[str], goals: Mapping[str, Goal]) -> Result:
    product = bench.product()
    commands = (ours(groups), bare(groups))
    runs: list[list[Measurement]] = [[] for _ in commands]
    counts: list[list[dict[str, Any]]] = [[] for _ in commands]
    with Served(product.parent, latency=LATENCY, bandwidth=BANDWIDTH) as server:
        for _ in range(bench.repeat):
            for which, command in enumerate(commands):
                server.reset()
                runs[which].append(convert(bench, command, f"{server.url}/{product.name}"))
                counts[which].append(server.counts())

    def row(label: str, unit: Any, figure: Callable[[Measurement], float]) -> Row:
        return Row(label, unit, *(median(of, figure) for of in runs), goal=goals.get(label))

    def count(label: str, unit: Any, key: str) -> Row:
        return Row(label, unit, *(statistics.median(one[key] for one in of) for of in counts))

    downloaded = count("downloaded", "bytes", "bytes")
    # The second column is what is stored of the wanted groups, quick-looks left out: the converter copies none.
    stored = sum(stored_bytes(product / part.strip("/")) for part in _parts(product, groups))
    rows = [
        row("wall time", "s", lambda run: run.wall),
        row("peak memory", "bytes", lambda run: run.peak_rss),
        row("written", "bytes", lambda run: run.bytes_written),
        downloaded,
        Row(STORED, "bytes", downloaded.value, stored, goals.get(STORED), "second column: what is stored of it"),
        count("requests", "count", "requests"),
        count("requests of data", "count", "data"),
        count("most at once", "count", "peak"),
    ]
    title = f"{what} over HTTP: {LATENCY * 1000:.0f} ms, {BANDWIDTH / 1e6:.0f} MB/s a connection, {bench.size} pixels"
    return Result(name, title, ("ours", "converter"), rows, bench.repeat)


def cost(kind: SampleKind, bench: Bench) -> Result:
    """Convert a product of a kind in its full size: what a job takes."""
    rows: list[Row] = []
    product = bench.product(FULL[kind], kind)
    for groups in ([GROUP], []) if kind == "s2-l2a" else ([],):
        with Served(product.parent, latency=LATENCY, bandwidth=BANDWIDTH) as server:
            runs, downloaded = [], []
            for _ in range(bench.repeat):
                server.reset()
                runs.append(convert(bench, ours(groups), f"{server.url}/{product.name}"))
                downloaded.append(server.counts()["bytes"])
        what = f"`{GROUP}`" if groups else "whole"
        rows += [
            Row(f"{what}: wall time", "s", median(runs, lambda run: run.wall)),
            Row(f"{what}: processor time", "s", median(runs, lambda run: run.user + run.system)),
            Row(f"{what}: peak memory", "bytes", median(runs, lambda run: run.peak_rss)),
            Row(f"{what}: downloaded", "bytes", statistics.median(downloaded)),
            Row(f"{what}: written", "bytes", median(runs, lambda run: run.bytes_written)),
        ]
    conditions = f"{LATENCY * 1000:.0f} ms, {BANDWIDTH / 1e6:.0f} MB/s a connection"
    title = f"what a job takes: {kind}, {FULL[kind]} pixels, over HTTP: {conditions}"
    return Result(f"cost-{kind}", title, ("ours", ""), rows, bench.repeat)


def _parts(product: Path, groups: Sequence[str]) -> list[str]:
    """Return the groups that the converter copies, as paths below the product."""
    if groups:
        return list(groups)
    inside = [f"{top.name}/{group.name}" for top in product.iterdir() if top.is_dir() for group in top.iterdir()]
    return [path for path in inside if not f"/{path}".startswith(Sentinel2.not_copied)]


def inspect(bench: Bench) -> Result:
    """Look into a product over HTTP."""
    product = bench.product(SAMPLE)
    seconds, counts = [], []
    with Served(product.parent, latency=LATENCY, bandwidth=BANDWIDTH) as server:
        for _ in range(bench.repeat):
            server.reset()
            seconds.append(probe("inspect", f"{server.url}/{product.name}")[0]["seconds"])
            counts.append(server.counts())
    rows = [
        Row("seconds beyond imports", "s", statistics.median(seconds), goal=Goal("value", 0.5)),
        Row("requests of data", "count", max(count["data"] for count in counts), goal=Goal("value", 1)),
        Row("requests", "count", max(count["requests"] for count in counts)),
        Row("downloaded", "bytes", max(count["bytes"] for count in counts)),
    ]
    title = f"`inspect` of a product with consolidated metadata over HTTP, {LATENCY * 1000:.0f} ms a request"
    return Result("inspect", title, ("ours", ""), rows, bench.repeat)


def import_package(bench: Bench) -> Result:
    """Import the SDK."""
    answers = [probe("import")[0] for _ in range(bench.repeat)]
    loaded = sorted({name for answer in answers for name in answer["loaded"]})
    rows = [
        Row("seconds", "s", statistics.median(answer["seconds"] for answer in answers), goal=Goal("value", 0.2)),
        Row("heavy modules loaded", "names", len(loaded), goal=Goal("value", 0), note=", ".join(loaded)),
    ]
    return Result("import", "`import geozarr_nb`", ("ours", ""), rows, bench.repeat)


def estimate(bench: Bench) -> Result:
    """Compare what `estimate` foresees with what happens over HTTP without limits."""
    rows = []
    for size in (SAMPLE, bench.size):
        product = bench.product(size)
        for groups, name in (([GROUP], "r20m"), ([], "whole")):
            with Served(product.parent) as server:
                url = f"{server.url}/{product.name}"
                plan, _ = probe("estimate", url, *groups)
                server.reset()
                done = convert(bench, ours(groups), url)
                downloaded = sum(
                    seen["bytes"] for path, seen in server.counts()["paths"].items() if not path.endswith(METADATA)
                )
            label, foreseen = f"{size} {name}", plan["download_bytes"]
            note = "the store tells no sizes" if foreseen is None else ""
            rows += [
                Row(f"{label}: download", "bytes", foreseen or 0, downloaded, Goal("ratio", 1.02, 0.98), note),
                Row(f"{label}: output", "bytes", plan["output_bytes"], done.bytes_written, Goal("ratio", 1.30, 0.70)),
            ]
    return Result(
        "estimate",
        "`estimate` and what happened (the metadata, 0.4 MB here, is read before and not counted)",
        ("estimated", "happened"),
        rows,
        1,
    )


def memory(bench: Bench) -> Result:
    """Convert through the SDK and look at the memory of the process that called it."""
    product, peaks = bench.product(), []
    for _ in range(bench.repeat):
        with bench.scratch() as folder:
            peaks.append(probe("convert", str(product), str(folder / "out.zarr"), GROUP)[1].own_peak_rss)
    rows = [Row("peak memory", "bytes", statistics.median(peaks), goal=Goal("value", 200 * MEGABYTE))]
    return Result("memory", "the calling process alone during `gz.convert`", ("ours", ""), rows, bench.repeat)


@dataclass(frozen=True)
class Case:
    """A case under its name; the slow ones run only when asked for."""

    measure: Callable[[Bench], Result]
    slow: bool = False


CASES = {
    "import": Case(import_package),
    "inspect": Case(inspect),
    "whole": Case(whole),
    "packed": Case(packed),
    "group": Case(group),
    "view": Case(view),
    "groups": Case(groups),
    "staging": Case(staging),
    "memory": Case(memory),
    "estimate": Case(estimate),
    "http": Case(http_group, slow=True),
    "http-whole": Case(http_whole, slow=True),
    **{f"cost-{kind}": Case(partial(cost, kind), slow=True) for kind in FULL},
}
