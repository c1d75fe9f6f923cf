"""The demo from beginning to end, and what it prints. Owns the order of the steps, the output and the figures."""

import json
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import numpy as np
from rich.console import Console

from facemargin.bundle import Bundle
from facemargin.errors import ConfigError, FacemarginError
from training.demo.model import (
    Measured,
    calibrate_model,
    export_model,
    measure_model,
    train_model,
    untrained_eer,
    write_recipe,
)
from training.demo.people import FULL, QUICK, People, Sizes, align_people, draw_people
from training.demo.service_process import Call, ServiceProcess, call

T = TypeVar("T")

DEFAULT_OUTPUT = Path("facemargin-demo")
REPORT_NAME = "demo.json"
MADE = frozenset({REPORT_NAME, "faces", "train.toml", "run", "run-again", "bundle", "store", "service.log"})
"""Everything that a demo makes in its output folder, and so may remove from it."""

COLLECTION = "demo"
MAX_FMR = 1e-2
MAX_FPIR = 0.05
STEPS = 8


def run_demo(
    *,
    data: Path | None = None,
    output: Path | None = None,
    keep: bool = False,
    json_output: bool = False,
    detector: Path | None = None,
    quick: bool = False,
    seed: int = 0,
    port: int = 0,
) -> dict[str, Any]:
    """Draw or align faces, train, export, calibrate, measure, serve, enrol, verify and search; print every step.

    Args:
        data: folder of photographs, one folder a person; None draws synthetic people.
        output: folder for everything the demo makes, by default ``facemargin-demo``; an earlier demo in it is replaced.
        keep: leave the service running until Ctrl-C.
        json_output: print one JSON object with every figure on stdout, progress on stderr.
        detector: YuNet file, for photographs; None takes the one of ``facemargin models pull yunet``.
        quick: a tiny run of some seconds that only proves that everything works; its figures mean nothing.
        seed: of the drawn people, the split, the weights and the order.
        port: of the service; 0 takes a free one.

    Returns:
        Every figure, as ``demo.json`` in the output folder holds it.

    Raises:
        ConfigError: the output folder holds something else.
        FacemarginError: whatever a step found wrong.
    """
    console = Console(stderr=json_output, highlight=False, soft_wrap=True)
    demo = Demo(console, _prepared(output or DEFAULT_OUTPUT), QUICK if quick else FULL, seed)
    with _ending_on_signals():
        return _play(demo, data, detector, port=port, keep=keep, json_output=json_output)


def _play(
    demo: "Demo", data: Path | None, detector: Path | None, *, port: int, keep: bool, json_output: bool
) -> dict[str, Any]:
    started = time.monotonic()
    people = demo.make_people(data, detector)
    bundle, measured = demo.make_model(people)
    service = ServiceProcess(
        bundle.path, demo.output / "store", demo.output / "service.log", detector=detector if data else None, port=port
    )
    with service:
        demo.use_service(service, people, measured)
        demo.report["seconds"] = round(time.monotonic() - started, 1)
        demo.finish(json_output)
        if keep:
            demo.keep_open(service)
    if not keep:
        demo.console.print("The service is stopped; with --keep it stays open for the curl lines above.")
    return demo.report


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Leave through the context managers when asked to end, so that no service is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    # A shell starts background jobs with Ctrl-C ignored; a demo that is told to stop by it shall stop there, too.
    handlers = {signal.SIGTERM: end, signal.SIGINT: signal.default_int_handler}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _prepared(output: Path) -> Path:
    """The absolute output folder, empty: what an earlier demo made is removed, anything else is left alone."""
    output = output.resolve()
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file; choose a folder with --output")
    found = {entry.name for entry in output.iterdir()} if output.is_dir() else set()
    if found and (REPORT_NAME not in found or not found <= MADE):
        raise ConfigError(f"{output} holds more than an earlier demo made; choose another folder with --output")
    for name in found:
        path = output / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    output.mkdir(parents=True, exist_ok=True)
    (output / REPORT_NAME).write_text("{}\n", encoding="utf-8")  # marks the folder as the demo's own
    return output


class Demo:
    """One run: the console, the output folder and the figures so far."""

    def __init__(self, console: Console, output: Path, sizes: Sizes, seed: int) -> None:
        self.console, self.output, self.sizes, self.seed = console, output, sizes, seed
        self.report: dict[str, Any] = {"output": str(output), "seed": seed, "quick": sizes is QUICK}
        self._step = 0

    def make_people(self, data: Path | None, detector: Path | None) -> People:
        """Step 1: the faces."""
        crops = self.output / "faces"
        if data is None:
            self._begin("Draw synthetic faces (no photographs, no real people)")
            people = self._timed("draw", lambda: draw_people(crops, self.sizes, self.seed, self.console))
        else:
            self._begin(f"Detect and align the faces of {data}")
            people = self._timed(
                "align", lambda: align_people(data.resolve(), crops, detector, self.seed, self.console)
            )
        for name, (persons, images) in people.count.items():
            self._say(f"{name:<11}{persons:>6,} people {images:>8,} pictures")
        if people.alignment is not None:
            report = people.alignment
            self._say(
                f"{report.aligned:,} of {report.images:,} photographs aligned; {len(report.not_detected):,} without a "
                f"face, {len(report.unreadable):,} unreadable ({crops / 'align-report.json'})"
            )
        self._say("nobody is in two of the sets")
        self.report |= {
            "synthetic": people.synthetic,
            "source": people.source,
            "sets": {name: {"people": n, "images": images} for name, (n, images) in people.count.items()},
        }
        return people

    def make_model(self, people: People) -> tuple[Bundle, Measured]:
        """Steps 2 to 5: train, export, calibrate, measure."""
        self._begin("Train AM-Softmax")
        recipe = self.output / "train.toml"
        config = write_recipe(recipe, people, self.sizes, self.seed)
        result = self._timed("train", lambda: train_model(config, self.console))
        rate = result.history.images / max(result.history.seconds, 1e-9)
        self._say(f"{result.step:,} steps, {result.history.seconds:.0f} s, {rate:.0f} images/s, loss {result.loss:.3f}")
        self._repeat("facemargin", "train", "--config", recipe, "--output", self.output / "run-again")
        self.report["train"] = {
            "steps": result.step,
            "images_per_second": round(rate, 1),
            "loss": result.loss,
            "hardware": result.hardware,
            "precision": result.precision,
            "validation": result.history.validation,
        }

        self._begin("Export to ONNX, checked against PyTorch")
        bundle = self._timed("export", lambda: export_model(config, result, people, self.output / "bundle"))
        self._say(f"bundle {bundle.path}, model {bundle.model_id}, {bundle.model_path.stat().st_size / 1e6:.1f} MB")
        self.report["bundle"] = {"path": str(bundle.path), "model": bundle.model_id}

        self._begin("Calibrate on the validation people")
        bundle = self._timed("calibrate", lambda: calibrate_model(bundle, people, self.console))
        self._calibration(bundle)
        self._repeat(
            "facemargin", "calibrate", "--bundle", bundle.path, "--images", people.crops / "validation", "--aligned"
        )

        self._begin("Measure the exported model on the test people")
        bundle, measured = self._timed("measure", lambda: measure_model(bundle, people, self.console))
        measured.figures["untrained_eer"] = untrained_eer(config, people)
        self._measured(measured)
        return bundle, measured

    def use_service(self, service: ServiceProcess, people: People, measured: Measured) -> None:
        """Steps 6 to 8 over HTTP: enrol, verify, search."""
        self._begin("Serve the bundle and enrol people")
        self._say(f"{service.url} (this machine only; no API key was made)")
        self._repeat(*service.command[:1], *service.command[1:])
        visitor = Visitor(service.url, people, measured, self.sizes.enrolled)
        enrolled = self._timed("enrol", visitor.enrol)
        self._say(
            f"{len(visitor.enrolled)} people enrolled with one picture each, {enrolled[-1].milliseconds:.0f} ms each"
        )
        self._curl(enrolled[-1])

        self._begin(f"Verify two pairs at a false match rate of {MAX_FMR:g}")
        self.report["service"] = {"url": service.url, "enrolled": len(visitor.enrolled)}
        self.report["verify"] = {}
        for kind in ("same", "different"):
            self._verified(kind, visitor.verify(kind))

        self._begin(f"Search pictures among the {len(visitor.enrolled)} at a false positive rate of {MAX_FPIR:g}")
        self._searched(visitor)

    def finish(self, json_output: bool) -> None:
        """Write ``demo.json`` and print it or where it is."""
        text = json.dumps(self.report, indent=2)
        (self.output / REPORT_NAME).write_text(text + "\n", encoding="utf-8")
        if json_output:
            print(text, flush=True)
        self.console.print(f"\nDone in {self.report['seconds']:.0f} s. Every figure: {self.output / REPORT_NAME}")
        if self.report["synthetic"]:
            self.console.print("These faces are drawn. The figures say that the path works, nothing about real faces.")

    def keep_open(self, service: ServiceProcess) -> None:
        """Leave the service running until Ctrl-C.

        Raises:
            FacemarginError: the service ended by itself.
        """
        self.console.print(
            f"\nThe service stays open at {service.url} until Ctrl-C; {service.url}/openapi.json describes it."
        )
        with suppress(KeyboardInterrupt):
            service.wait()
            raise FacemarginError(f"the service ended by itself; see {service.log}")

    def _calibration(self, bundle: Bundle) -> None:
        calibration = bundle.manifest.calibration
        if calibration is None:
            raise FacemarginError(f"{bundle.path} has no calibration")
        pairs = f"{calibration.genuine_pairs:,} genuine and {calibration.impostor_pairs:,} impostor pairs"
        self._say(f"{pairs}, {calibration.people} people")
        for row in calibration.rows:
            if row.supported:
                self._say(f"FMR {row.fmr:<7g} cosine >= {row.threshold:.3f}  ({row.errors:,} impostor errors)")
        self.report["calibration"] = calibration.model_dump(mode="json", exclude={"curve", "tail"})

    def _measured(self, measured: Measured) -> None:
        figures = measured.figures
        self._say(
            f"EER {figures['eer']:.2%} (untrained network {figures['untrained_eer']:.2%}), AUC {figures['auc']:.4f}"
        )
        for row in figures["tar"]:
            tar, note = row["tar"], "" if row["supported"] else ", fewer than 30 impostor errors"
            low_high = f"{tar['low']:.3f} - {tar['high']:.3f}"
            self._say(f"TAR {tar['value']:.3f} at FMR {row['far']:g} (95 % interval over people {low_high}{note})")
        if "balanced_accuracy" in figures:
            at = f"at the validation people's threshold {figures['threshold']:.3f}"
            self._say(f"accuracy {figures['balanced_accuracy']:.2%} {at}, same and different pairs weighing the same")
        pairs = f"{figures['genuine_pairs']:,} genuine and {figures['impostor_pairs']:,} impostor pairs"
        self._say(f"all {pairs} of {figures['people']} people who were neither in training nor in calibration")
        self.report["test"] = figures

    def _verified(self, kind: str, done: Call) -> None:
        reply = done.reply
        decision = "match" if reply["match"] else "no match"
        self._say(
            f"{kind:<10}similarity {reply['similarity']:+.3f}, threshold {reply['threshold']:.3f}: {decision} "
            f"(P(same) {reply['probability']:.4f}, FMR {reply['fmr']:.2g}, {done.milliseconds:.0f} ms)"
        )
        self._curl(done)
        keys = ("match", "similarity", "threshold", "probability", "fmr", "extrapolated")
        self.report["verify"][kind] = {key: reply[key] for key in keys} | _repeatable(done)

    def _searched(self, visitor: "Visitor") -> None:
        right, wrong, none, shown = visitor.search_enrolled()
        strangers, passed = visitor.search_strangers()
        counts = f"{right} found, {wrong} taken for another, {none} missed"
        self._say(f"new pictures of the {right + wrong + none} enrolled: {counts}")
        self._say(f"pictures of {strangers} strangers: {passed} with a candidate")
        best = shown.reply["candidates"][:1]
        found = f"{best[0]['person']['name']}, similarity {best[0]['similarity']:.3f}" if best else "nobody"
        self._say(f"for example: {found} ({shown.milliseconds:.0f} ms)")
        self._curl(shown)
        self.report["search"] = {
            "right": right,
            "wrong": wrong,
            "missed": none,
            "strangers": strangers,
            "strangers_with_candidate": passed,
            "max_fpir": MAX_FPIR,
            **_repeatable(shown),
        }

    def _begin(self, title: str) -> None:
        self._step += 1
        self.console.print(f"\n[bold]{self._step}/{STEPS}  {title}[/]")

    def _say(self, line: str) -> None:
        self.console.print(f"     {line}", markup=False)

    def _repeat(self, *words: object) -> None:
        self.console.print(f"     $ {shlex.join(map(str, words))}", markup=False, style="dim")

    def _curl(self, done: Call) -> None:
        self.console.print(f"     $ {done.curl}", markup=False, style="dim")

    def _timed(self, name: str, work: Callable[[], T]) -> T:
        started = time.monotonic()
        result = work()
        self.report.setdefault("step_seconds", {})[name] = round(time.monotonic() - started, 2)
        return result


def _repeatable(done: Call) -> dict[str, Any]:
    return {"milliseconds": round(done.milliseconds, 1), "curl": done.curl}


class Visitor:
    """What a client does with the service: some test people are enrolled, others are strangers.

    Args:
        url: of the service.
        people: the demo's people.
        measured: embeddings of the test pictures, to name typical pairs.
        enrolled: how many people to enrol; at most half of the test people.
    """

    def __init__(self, url: str, people: People, measured: Measured, enrolled: int) -> None:
        self.url, self.people = url, people
        self.images = people.images("test")
        names = [name for name, images in self.images.items() if len(images) > 1]
        self.enrolled = names[: max(1, min(enrolled, len(names) // 2))]
        self.strangers = names[len(self.enrolled) : 2 * len(self.enrolled)]
        self.measured = measured
        self.fields = {"aligned": "true"} if people.synthetic else {"face": "largest"}
        self.ids: dict[str, str] = {}

    def enrol(self) -> list[Call]:
        """Make the collection and enrol the first picture of each person; returns the enrolments."""
        gallery = f"{self.url}/v1/collections/{COLLECTION}"
        call("PUT", gallery)
        calls = []
        for name in self.enrolled:
            self.ids[name] = call("POST", f"{gallery}/people", body={"name": name}).reply["id"]
            picture = self.people.sent(self.images[name][0])
            url = f"{gallery}/people/{self.ids[name]}/faces"
            calls.append(call("POST", url, files={"image": picture}, fields=self.fields))
        return calls

    def verify(self, kind: str) -> Call:
        """Verify a typical pair of a kind: the one whose similarity is the median of its kind in the test set."""
        first, second = self._typical(kind == "same")
        files = {"image_a": self.people.sent(first), "image_b": self.people.sent(second)}
        return call("POST", f"{self.url}/v1/verify", files=files, fields={**self.fields, "max_fmr": f"{MAX_FMR:g}"})

    def _typical(self, same: bool) -> tuple[Path, Path]:
        paths = [path for images in self.images.values() for path in images]
        names = np.array([path.parent.name for path in paths])
        if names.tolist() != self.measured.people:
            raise FacemarginError("the embeddings are not in the order of the test pictures")
        first, second = np.triu_indices(len(paths), k=1)
        kept = (names[first] == names[second]) == same
        first, second = first[kept], second[kept]
        similarity = np.einsum("nd,nd->n", self.measured.vectors[first], self.measured.vectors[second])
        middle = np.argsort(similarity)[len(similarity) // 2]
        return paths[first[middle]], paths[second[middle]]

    def search_enrolled(self) -> tuple[int, int, int, Call]:
        """Search the second picture of everybody enrolled: how many were found, mistaken, missed; and one search."""
        right = wrong = 0
        shown: Call | None = None
        for name in self.enrolled:
            done = self._search(name, 1)
            candidates = done.reply["candidates"]
            hit = bool(candidates) and candidates[0]["person"]["id"] == self.ids[name]
            right, wrong = right + hit, wrong + (bool(candidates) and not hit)
            shown = done if shown is None or (hit and not shown.reply["candidates"]) else shown
        if shown is None:
            raise FacemarginError("nobody is enrolled")
        return right, wrong, len(self.enrolled) - right - wrong, shown

    def search_strangers(self) -> tuple[int, int]:
        """Search the first picture of people who are not enrolled: how many, and how many got a candidate."""
        return len(self.strangers), sum(bool(self._search(name, 0).reply["candidates"]) for name in self.strangers)

    def _search(self, name: str, picture: int) -> Call:
        url = f"{self.url}/v1/collections/{COLLECTION}/search"
        files = {"image": self.people.sent(self.images[name][picture])}
        return call("POST", url, files=files, fields={**self.fields, "max_fpir": f"{MAX_FPIR:g}"})
