"""A picture of a data set that cannot be read: which one it is, and why."""

from pydantic import BaseModel, ConfigDict

from facemargin.errors import DataError
from training.data.pictures import LabelledImages


class UnreadablePicture(BaseModel):
    """One picture. Several of a person may have one name, in different folders; the row tells them apart.

    Attributes:
        row: its number in the data set, from 0.
        name: the person's name and where the picture lies, or what the data set calls it where that is unknown.
        reason: why it cannot be read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    row: int
    name: str
    reason: str

    @classmethod
    def of(cls, images: LabelledImages, row: int, reason: str) -> "UnreadablePicture":
        """The picture of this row."""
        try:
            place = str(images.pictures[row])
        except DataError:  # not even its place in the file is sound; the reason tells the file
            place = images.picture_name(row)
        return cls(row=row, name=f"{images.people[images.labels[row]]}: {place}", reason=reason)
