"""What a response costs and how much a model takes, and a guess at the tokens of a response that never said."""

from streamfold.catalog.estimate import estimate_usage
from streamfold.catalog.model_catalog import ModelCatalog
from streamfold.catalog.rates import Limits, ModelPrices, Rate

__all__ = ["Limits", "ModelCatalog", "ModelPrices", "Rate", "estimate_usage"]
