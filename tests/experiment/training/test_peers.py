import pytest
import torch

from etfhead.experiment.training.peers import lost_peers_told

GLOO = "[pair.cc:545 of gloo] Read error [127.0.0.1]:39619: Connection reset by peer. This is typically ..."


def test_a_broken_connection_is_told_with_what_to_do():
    with (
        pytest.raises(ConnectionError, match=r"^another of the 2 processes.*reset by peer.*--resume") as told,
        lost_peers_told(2),
    ):
        raise RuntimeError(GLOO + "\nGLHF")
    assert "pair.cc" not in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["DistBackendError", "DistNetworkError", "DistStoreError"])
def test_the_errors_of_torch(name):
    with pytest.raises(ConnectionError, match="no text of any backend"), lost_peers_told(4):
        raise getattr(torch.distributed, name)("no text of any backend")


def test_all_else_passes():
    for processes, error in (
        (1, RuntimeError(GLOO)),
        (2, RuntimeError("shapes differ")),
        (2, RuntimeError("torch.compile: the connection of two graphs failed")),
        (2, RuntimeError("ProcessGroup gloo does not support reduce_scatter of ComplexFloat")),
        (2, ValueError(GLOO)),
    ):
        with pytest.raises(type(error)) as raised, lost_peers_told(processes):
            raise error
        assert raised.value is error
    with lost_peers_told(2):
        pass
