"""Importing this registers ``etf_<model>`` for every timm model, which is all that timm's ``train.py`` needs.

It imports what ``--device-modules`` names, before it creates the model::

    python train.py --data-dir DATA --device-modules etfhead.integrations.timm_plugin --model etf_resnet18

Options of the head are model options that start with ``etf_``: ``--model-kwargs etf_basis=haar etf_seed=1``.
"""

from etfhead.integrations.timm_models import register

__all__: list[str] = []

register()
