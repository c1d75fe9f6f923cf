"""Training images read again once their run is finished: for the parity of its export, for the angles of its report.

Owns what happens then to those that cannot be read: as in the run, an error, or left out, counted and named.
"""

from collections.abc import Iterable, Sequence

from rich.console import Console

from facemargin.errors import DataError, ImageError
from training.config import TrainConfig
from training.crops import Crop, CropReader
from training.data.pictures import Picture


class Rereading:
    """Reads aligned crops under a run's ``data.on_bad_image``; serves as a `training.crops.Reader`.

    Attributes:
        unreadable: why each of those that were left out cannot be read.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.reader = CropReader(config.preprocessing.template)
        self.skip = config.data.on_bad_image == "skip"
        self.unreadable: list[str] = []

    def find(self, pictures: Sequence[Picture], rows: Iterable[int]) -> dict[int, Picture]:
        """The pictures in these rows of a data set, by row; its file may hold something else at their place.

        Raises:
            DataError: it does, and the run does not leave out what it cannot read.
        """
        found = {}
        for row in rows:
            try:
                found[row] = pictures[row]
            except DataError as error:
                self._leave_out(error)
        return found

    def read(self, picture: Picture) -> Crop | None:
        """The crop; None where it cannot be read and the run leaves that out.

        Raises:
            DataError, ImageError: it cannot be read, and the run does not leave that out.
        """
        try:
            return self.reader.read_aligned(picture)
        except (DataError, ImageError) as error:
            self._leave_out(error)
            return None

    def say(self, what: str, of: int, console: Console | None) -> None:
        """Warn of those that were left out.

        Args:
            what: was read, such as ``parity crops``.
            of: how many were to be read.
            console: stderr by default.
        """
        if self.unreadable:
            (console or Console(stderr=True)).print(
                f"[yellow]warning:[/] {len(self.unreadable):,} of {of:,} {what} cannot be read and were left out: "
                f"{' '.join(self.unreadable[0].split())}",
                highlight=False,
            )

    def _leave_out(self, error: DataError | ImageError) -> None:
        if not self.skip:
            raise error
        self.unreadable.append(str(error))
