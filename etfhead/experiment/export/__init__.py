"""From a finished run to a folder that needs no etfhead: a timm model, ONNX or a torch.export program."""

from etfhead.experiment.export.choice import Choice, rank_models
from etfhead.experiment.export.formats import FORMATS
from etfhead.experiment.export.trained import TrainedModel, load_trained
from etfhead.experiment.export.write import Exported, export_run

__all__ = ["FORMATS", "Choice", "Exported", "TrainedModel", "export_run", "load_trained", "rank_models"]
