import pytest
import torch

from etfhead.frames import (
    AssignedFrame,
    ClassMeansFrame,
    CodeFrame,
    Coherence,
    Frame,
    OrthoplexFrame,
    SimplexFrame,
    UnionFrame,
)


class Skewed(Frame):
    """A frame that gives the two required methods and nothing else."""

    name = "skewed"

    def matrix(self):
        K, d = self.num_classes, self.in_features
        return torch.arange(K * d, dtype=torch.float64).reshape(K, d).cos() * 2

    def spec(self):
        return {"name": self.name, "num_classes": self.num_classes, "in_features": self.in_features}


FRAMES = [
    Skewed(7, 5),
    SimplexFrame(10, 64),  # dense
    SimplexFrame(300, 512),  # two factors, rows in use only
    SimplexFrame(20, 5000),  # fewer rows than the right factor has
    SimplexFrame(9, 20, basis="identity"),
    SimplexFrame(9, 20, basis="haar"),
    SimplexFrame(21, 20),
    OrthoplexFrame(601, 512),
    OrthoplexFrame(30, 5000),
    OrthoplexFrame(9, 20, basis="identity"),
    OrthoplexFrame(40, 20),
    UnionFrame(40, 12),  # dense
    UnionFrame(1100, 64),
    UnionFrame(1100, 128, antipodal=True),
    UnionFrame(1000, 97, signs="random"),
    UnionFrame(700, 320),
    UnionFrame(50, 2048),
    CodeFrame(12, 5),
    AssignedFrame(1100, 64, base=UnionFrame(1100, 64), assignment=torch.arange(1100).flip(0)),
]


@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_blocks_are_the_rows_of_the_matrix_and_adjoints_their_transpose(frame):
    K, d = frame.num_classes, frame.in_features
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(2, 3, d, dtype=torch.float64, generator=generator)
    c = torch.randn(2, 3, K, dtype=torch.float64, generator=generator)
    factors = frame.factors()
    place = frame.stored_index(torch.arange(K), factors)
    stored = torch.empty(K, d, dtype=torch.float64)
    stored[place] = frame.matrix()

    for blocks in (1, 3):  # several blocks at once, the last one ragged
        step = frame.block_size * blocks
        x, total = frame.enter(h, factors), torch.zeros_like(h)
        logits = []
        for start in range(0, K, step):
            stop = min(start + step, K)
            logits.append(frame.block_logits(x, factors, start, stop))
            assert logits[-1].shape == (2, 3, stop - start)
            total = total + frame.block_adjoint(c[..., start:stop], factors, start, stop)
        every = torch.cat(logits, dim=-1)
        torch.testing.assert_close(every, h @ stored.T, rtol=0, atol=1e-11)
        torch.testing.assert_close(every[..., place], frame.apply(h, factors), rtol=0, atol=1e-11)
        torch.testing.assert_close(frame.leave(total, factors), c @ stored, rtol=0, atol=1e-11)


@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_no_class_vector_is_longer_than_max_norm(frame):
    assert frame.max_norm == pytest.approx(frame.matrix().norm(dim=1).max().item(), abs=1e-12)


def test_a_structured_matrix_that_is_too_large_says_how_large_and_what_to_use():
    with pytest.raises(ValueError, match=r"60000 x 60000 numbers are 29 GB.*logits\(\).*block_logits"):
        SimplexFrame(60_000, 60_000).matrix()
    with pytest.raises(ValueError, match="matrix: 40000000 x 64 numbers are 20 GB"):
        UnionFrame(40_000_000, 64).matrix()


def test_frames_are_equal_where_spec_and_state_are():
    assert SimplexFrame(5, 8).free_of_data
    assert SimplexFrame(5, 8) == SimplexFrame(5, 8)
    assert SimplexFrame(5, 8) != SimplexFrame(5, 8, seed=1)
    assert SimplexFrame(5, 8) != OrthoplexFrame(5, 8)
    a, b = (ClassMeansFrame(2, 2, vectors=v) for v in (torch.eye(2), -torch.eye(2)))
    assert not a.free_of_data
    assert a == ClassMeansFrame(2, 2, vectors=torch.eye(2))
    assert a != b


def test_a_measured_coherence_is_measured_once(monkeypatch):
    frame = Skewed(7, 5)
    unit = torch.nn.functional.normalize(frame.matrix(), dim=1)
    cosines = (unit @ unit.T).fill_diagonal_(-2)
    first = frame.coherence()
    assert isinstance(first, Coherence)
    assert first.max_cosine == pytest.approx(cosines.max().item())
    monkeypatch.setattr(Skewed, "matrix", None)
    assert frame.coherence() is first
