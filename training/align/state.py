"""What an alignment knows so far: which photographs are done, and which gave no crop and why."""

import time

from training.align.report import REPORT_NAME, AlignReport, Unreadable
from training.align.walk import Job, Walk
from training.align.workers import Outcome, Work, write_output


class State:
    """What is known so far; turns into the report."""

    def __init__(self, walk: Walk, work: Work, earlier: AlignReport | None) -> None:
        self.walk = walk
        self.work = work
        known = {job.photograph for job in walk.jobs}
        self.done = {job.photograph for job in walk.jobs if (work.target / job.crop).is_file()}
        self.aligned_before = len(self.done)
        self.not_detected: set[str] = set()
        self.unreadable: dict[str, str] = {}
        self.several: dict[str, int] = {}
        if earlier is not None:
            self.not_detected = {name for name in earlier.not_detected if name in known} - self.done
            self.several = {name: count for name, count in earlier.several_faces.items() if name in self.done}
        self.looked_at = 0
        self.started = time.monotonic()

    def pending(self) -> list[Job]:
        """Photographs still to be looked at; unreadable ones are tried again, they may have been replaced."""
        return [job for job in self.walk.jobs if job.photograph not in self.done | self.not_detected]

    def record(self, outcome: Outcome) -> None:
        """Take in what became of one photograph."""
        self.looked_at += 1
        if outcome.error is not None:
            self.unreadable[outcome.photograph] = outcome.error
        elif outcome.faces == 0:
            self.not_detected.add(outcome.photograph)
        else:
            self.done.add(outcome.photograph)
            if outcome.faces > 1:
                self.several[outcome.photograph] = outcome.faces

    def report(self) -> AlignReport:
        """The state as it is now."""
        seconds = time.monotonic() - self.started
        complete = len(self.done) + len(self.not_detected) + len(self.unreadable) == len(self.walk.jobs)
        people_done = {name.split("/")[0] for name in self.done}
        return AlignReport(
            settings=self.work.settings,
            complete=complete,
            people=len(self.walk.people),
            images=len(self.walk.jobs),
            aligned=len(self.done),
            aligned_before=self.aligned_before,
            not_detected=tuple(sorted(self.not_detected)),
            unreadable=tuple(Unreadable(file=file, error=error) for file, error in sorted(self.unreadable.items())),
            several_faces=dict(sorted(self.several.items())),
            people_without_faces=tuple(name for name in self.walk.people if name not in people_done)
            if complete
            else (),
            other_files=self.walk.other_files,
            seconds=round(seconds, 3),
            images_per_second=round(self.looked_at / seconds, 1) if seconds > 0 else 0.0,
        )

    def save(self) -> AlignReport:
        """Write the report into the target."""
        report = self.report()
        write_output(self.work.target / REPORT_NAME, report.model_dump_json(indent=2).encode() + b"\n")
        return report
