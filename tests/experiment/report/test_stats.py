import itertools
import math
import random

import pytest
import scipy.stats

from etfhead.experiment.report.stats import (
    describe,
    holm,
    judge,
    median_with_misses,
    paired_difference,
    paired_ratio,
)


def _by_seed(values):
    return dict(enumerate(values))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 10])
def test_interval_and_p_value_equal_scipy_ttest_rel(n):
    rng = random.Random(n)
    ours = [rng.gauss(87, 0.4) for _ in range(n)]
    theirs = [rng.gauss(86.8, 0.4) for _ in range(n)]
    pair = paired_difference(_by_seed(ours), _by_seed(theirs))
    reference = scipy.stats.ttest_rel(ours, theirs)
    interval = reference.confidence_interval(0.95)
    assert pair.low == pytest.approx(interval.low, abs=1e-9)
    assert pair.high == pytest.approx(interval.high, abs=1e-9)
    assert pair.p_value == pytest.approx(reference.pvalue, abs=1e-12)


def test_interval_by_hand():
    # Differences 0.3, 0.5, 0.7: mean 0.5, s = 0.2, t(0.975, 2) = 4.30265.
    pair = paired_difference({0: 1.3, 1: 2.5, 2: 3.7}, {0: 1.0, 1: 2.0, 2: 3.0})
    reach = 4.30265273 * 0.2 / math.sqrt(3)
    assert (pair.mean, pair.std) == (pytest.approx(0.5), pytest.approx(0.2))
    assert (pair.low, pair.high) == (pytest.approx(0.5 - reach), pytest.approx(0.5 + reach))
    assert (pair.above, pair.below) == (3, 0)


def test_only_common_seeds_are_paired():
    pair = paired_difference({0: 5.0, 1: 7.0, 4: 100.0}, {4: 99.0, 1: 5.0, 2: 0.0})
    assert pair.values == {1: 2.0, 4: 1.0}
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    assert judge(None, None) == "no_data"


def test_one_seed_has_a_mean_but_no_interval():
    pair = paired_difference({0: 97.0}, {0: 96.0})
    assert pair.mean == 1.0
    assert (pair.std, pair.low, pair.high, pair.p_value) == (None, None, None, None)
    assert judge(pair, pair.p_value) == "too_few_seeds"


def test_two_seeds_have_an_interval_but_no_verdict():
    pair = paired_difference({0: 97.0, 1: 97.001}, {0: 87.0, 1: 87.0})
    assert pair.low > 0
    assert judge(pair, pair.p_value) == "too_few_seeds"


def test_equal_differences_claim_no_certainty():
    # 97.1 - 96.8 and 98.3 - 98.0 differ in the last bits of a float: still the same number of images.
    same = paired_difference({0: 97.1, 1: 98.3, 2: 99.2}, {0: 96.8, 1: 98.0, 2: 98.9})
    assert same.std == 0.0
    assert same.low is None
    assert judge(same, same.p_value) == "no_spread"
    zero = paired_difference({0: 97.1, 1: 98.3, 2: 99.2}, {0: 97.1, 1: 98.3, 2: 99.2})
    assert (zero.mean, zero.above, zero.below) == (0.0, 0, 0)
    assert judge(zero, zero.p_value) == "no_measurable_difference"


@pytest.mark.parametrize("sign", [1, -1])
def test_verdict_turns_exactly_where_the_interval_leaves_zero(sign):
    # Differences m-1, m, m+1 have t = m * sqrt(3); the interval touches zero at t(0.975, 2).
    edge = scipy.stats.t.ppf(0.975, 2) / math.sqrt(3)
    verdicts = []
    for m in (sign * (edge - 1e-6), sign * (edge + 1e-6)):
        pair = paired_difference({0: m - 1, 1: m, 2: m + 1}, dict.fromkeys(range(3), 0.0))
        assert (pair.low > 0 or pair.high < 0) == (abs(m) > edge)
        verdicts.append(judge(pair, pair.p_value))
    assert verdicts == ["no_measurable_difference", "helped" if sign > 0 else "hurt"]


def test_adjusted_p_value_can_take_a_verdict_back():
    pair = paired_difference({0: 0.9, 1: 1.0, 2: 1.1}, dict.fromkeys(range(3), 0.0))
    assert judge(pair, pair.p_value) == "helped"
    assert judge(pair, 0.051) == "no_measurable_difference"


def test_ratio_does_not_depend_on_the_divisor():
    ours, theirs = {0: 1020.0, 1: 1100.0, 2: 980.0}, {0: 1000.0, 1: 1010.0, 2: 1005.0}
    there, back = paired_ratio(ours, theirs), paired_ratio(theirs, ours)
    assert there.mean == pytest.approx(1 / back.mean)
    assert there.low == pytest.approx(1 / back.high)
    assert there.mean == pytest.approx(scipy.stats.gmean([ours[s] / theirs[s] for s in ours]))
    assert paired_ratio({0: 0.0}, {0: 1.0}) is None


def test_holm_equals_the_closed_bonferroni_test():
    rng = random.Random(0)
    p_values = [rng.random() ** 3 for _ in range(5)]

    def closed(i):
        sets = (s for r in range(1, 6) for s in itertools.combinations(range(5), r) if i in s)
        return max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets)

    assert holm(p_values) == pytest.approx([closed(i) for i in range(5)])
    assert holm([]) == []


def test_describe_uses_the_sample_standard_deviation():
    spread = describe([1.0, 2.0, 4.0])
    assert spread.std == pytest.approx(math.sqrt(7 / 3))
    assert describe([3.0]).std is None
    assert describe([]) is None


def test_a_miss_is_later_than_any_number():
    assert median_with_misses([5, None, 3]) == 5
    assert median_with_misses([None, None, 3]) is None
    assert median_with_misses([3, None]) is None
    assert median_with_misses([]) is None
