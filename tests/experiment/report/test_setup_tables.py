"""What the table of arms shows: everything that sets two arms apart."""

from etfhead.experiment.report.setup_tables import arm_options


def test_an_option_that_one_of_two_like_arms_lacks_sets_them_apart():
    fixed = {"head": "regression", "loss": "mse", "feature_energy": 2.0, "loss_options": None}
    white = {**fixed, "loss_options": {"whiten": True}}
    header, rows, shared = arm_options({"fixed": fixed, "white": white})
    assert header == ["arm", "head", "loss_options"]
    assert rows == [["fixed", "regression", "–"], ["white", "regression", "{'whiten': True}"]]
    assert shared == ["loss: mse", "feature_energy: 2.0"]


def test_an_option_that_another_head_does_not_have_does_not():
    arms = {"linear": {"head": "linear", "loss": "mse"}, "fixed": {"head": "etf", "loss": "mse", "scale": 4}}
    header, _, shared = arm_options(arms)
    assert header == ["arm", "head"]
    assert shared == ["loss: mse", "scale: 4"]
