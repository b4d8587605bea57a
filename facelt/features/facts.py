"""What an exported recogniser says of itself: one JSON text among the metadata of an ONNX or safetensors file."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from facelt.config import FaceltConfig, Pixel, StageName
from facelt.errors import UserError
from facelt.images.fingerprint import Fingerprint

METADATA_KEY = "facelt"


class RecogniserFacts(BaseModel):
    """Where a recogniser came from, what it takes and gives.

    outputs: the feature first. dimension: of the feature. pixel_mean, pixel_std: the network takes (x - mean) / std of
    RGB 0 … 255. normalised: whether the file does that itself, or who feeds it. resize: as in the configuration.
    classes: of the memory inside; None where there is none. temperature, threshold: of a memory of prototypes. data:
    the training set. config: as trained.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    stage: StageName
    step: int
    embedding: str
    outputs: tuple[str, ...]
    dimension: int
    image_size: int
    resize: int | None
    pixel_mean: Pixel
    pixel_std: Pixel
    normalised: Literal["inside", "outside"]
    classes: int | None
    temperature: float | None
    threshold: float | None
    data: Fingerprint | None
    config: FaceltConfig

    @property
    def fed_mean(self) -> Pixel:
        """What is taken off pixels of 0 … 255 before they are fed."""
        return (0.0, 0.0, 0.0) if self.normalised == "inside" else self.pixel_mean

    @property
    def fed_std(self) -> Pixel:
        """What they are divided by then."""
        return (1.0, 1.0, 1.0) if self.normalised == "inside" else self.pixel_std

    @classmethod
    def read(cls, text: str, where: Any) -> "RecogniserFacts":
        """From a file's metadata. Raises UserError where it is of another version; `where` names the file."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise UserError(
                f"{where}: its metadata is of another version of facelt ({place}: {first['msg'].lower()}); export again"
            ) from None
