import pytest
import torch

from etfhead.frames.orthogonal_factors import dct_matrix, hadamard_matrix, helmert_matrix, orthogonal_factor


def test_hadamard_matrices_are_hadamard_up_to_400():
    for order in range(1, 401):
        H = hadamard_matrix(order)
        if H is None:
            continue
        assert bool((H.abs() == 1).all())
        assert torch.equal(H @ H.T, order * torch.eye(order, dtype=torch.float64))


def test_every_order_real_widths_split_into_is_found():
    known = [n for n in range(1, 65) if hadamard_matrix(n) is not None]
    assert known == [1, 2, *(n for n in range(4, 65, 4) if n != 52)]


def test_no_hadamard_matrix_outside_the_conjecture():
    assert all(hadamard_matrix(n) is None for n in (0, 3, 5, 6, 10, 50, 97))


@pytest.mark.parametrize("order", [1, 2, 3, 12, 25, 52, 97])
def test_factors_are_orthonormal(order):
    eye = torch.eye(order, dtype=torch.float64)
    for matrix in (orthogonal_factor(order), dct_matrix(order)):
        torch.testing.assert_close(matrix @ matrix.T, eye, rtol=0, atol=1e-13)


@pytest.mark.parametrize("K", [2, 3, 50])
def test_helmert_spans_the_sum_zero_vectors(K):
    V = helmert_matrix(K)
    eye = torch.eye(K, dtype=torch.float64)
    torch.testing.assert_close(V @ V.T, eye - 1 / K, rtol=0, atol=1e-14)
    torch.testing.assert_close(V.T @ V, eye[1:, 1:], rtol=0, atol=1e-14)
