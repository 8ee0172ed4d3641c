"""Predictions of a trained model, from its run folder or an export, for images wherever they lie."""

from etfhead.experiment.predict.images import find_images
from etfhead.experiment.predict.predict import Prediction, predict
from etfhead.experiment.predict.predictor import Predictor, load_predictor

__all__ = ["Prediction", "Predictor", "find_images", "load_predictor", "predict"]
