"""What the loaded model is and how well it was measured."""

from typing import Any

from fastapi import APIRouter
from pydantic import Field

from facemargin.metrics.calibration import Calibration
from service.deps import AnyCaller, ServiceDep
from service.models import Model
from service.openapi import EXAMPLE_MODEL, KEYED, documented
from service.schemas import MODEL_ID, Part

router = APIRouter(prefix="/v1/models", tags=["models"])


class ThresholdReply(Part):
    """A row of the calibration's impostor table."""

    fmr: float
    threshold: float
    impostor_pairs: int
    people: int
    errors: int
    supported: bool


class CalibrationReply(Part):
    """Whose data stand behind the error rates."""

    source: str
    prior: float
    genuine_pairs: int
    impostor_pairs: int
    people: int
    smallest_supported_fmr: float
    thresholds: list[ThresholdReply]


class ModelReply(Part):
    """A model and what its bundle says of it."""

    id: str
    name: str
    embedding_dim: int
    template: str
    size: tuple[int, int]
    flip_sum: bool
    licence: str
    card: str
    metrics: list[dict[str, Any]]
    calibration: CalibrationReply | None


class ModelsReply(Part):
    """The loaded models."""

    model: str = Field(description=MODEL_ID + " Here: the default one.")
    models: list[ModelReply]


_EXAMPLE = {
    "model": EXAMPLE_MODEL,
    "models": [
        {
            "id": EXAMPLE_MODEL,
            "name": "iresnet18-am-softmax",
            "embedding_dim": 512,
            "template": "arcface-112",
            "size": [112, 112],
            "flip_sum": False,
            "licence": "Apache-2.0",
            "card": "Trained on ...",
            "metrics": [{"protocol": "lfw-open", "name": "accuracy", "value": 0.88, "low": 0.87, "high": 0.89}],
            "calibration": {
                "source": "people of lfw-open fold 5",
                "prior": 0.5,
                "genuine_pairs": 1158,
                "impostor_pairs": 377013,
                "people": 422,
                "smallest_supported_fmr": 8e-05,
                "thresholds": [
                    {
                        "fmr": 0.001,
                        "threshold": 0.41,
                        "impostor_pairs": 377013,
                        "people": 422,
                        "errors": 377,
                        "supported": True,
                    }
                ],
            },
        }
    ],
}


@router.get("", summary="The loaded models", **documented(*KEYED, example=_EXAMPLE))
async def list_models(caller: AnyCaller, service: ServiceDep) -> ModelsReply:
    """The loaded models, the default one first, with their measured figures and thresholds. Any valid key may ask."""
    return ModelsReply(model=service.models.default.id, models=[_model(model) for model in service.models.values()])


def _model(model: Model) -> ModelReply:
    manifest = model.bundle.manifest
    return ModelReply(
        id=model.id,
        name=manifest.name,
        embedding_dim=manifest.embedding_dim,
        template=manifest.preprocessing.template,
        size=manifest.preprocessing.size,
        flip_sum=manifest.flip_sum,
        licence=manifest.licence,
        card=manifest.card,
        metrics=[record.model_dump() for record in manifest.metrics],
        calibration=_calibration(model.decisions.calibration),
    )


def _calibration(calibration: Calibration | None) -> CalibrationReply | None:
    if calibration is None:
        return None
    return CalibrationReply(
        source=calibration.source,
        prior=calibration.prior,
        genuine_pairs=calibration.genuine_pairs,
        impostor_pairs=calibration.impostor_pairs,
        people=calibration.people,
        smallest_supported_fmr=calibration.smallest_supported_fmr,
        thresholds=[ThresholdReply(**row.model_dump()) for row in calibration.rows],
    )
