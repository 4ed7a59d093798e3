import math
from itertools import pairwise

import pytest

from variata.schedules import Constant, Cosine, CosineDecay, Cyclical, Linear, Progress, Sigmoid, Warmup


def at(step, total=1000, per_epoch=100):
    return Progress(step, total, per_epoch)


@pytest.mark.parametrize("ramp", [Linear, Cosine, Sigmoid])
@pytest.mark.parametrize("over", [0.2, 200, "2ep"], ids=str)
def test_ramp_meets_start_middle_and_end_in_every_unit(ramp, over):
    schedule = ramp(value=4.0, over=over, start=1.0)
    assert [schedule.at(at(s)) for s in (0, 100, 200, 900)] == pytest.approx([1.0, 2.5, 4.0, 4.0])


@pytest.mark.parametrize("ramp", [Linear, Cosine, Sigmoid])
def test_ramp_never_falls(ramp):
    values = [ramp(over=0.5).at(at(s)) for s in range(1000)]
    assert values == sorted(values)


def test_cosine_and_sigmoid_at_a_quarter():
    assert Cosine(over=1.0).at(at(250)) == pytest.approx((1 - math.cos(math.pi / 4)) / 2)
    logistic = [1 / (1 + math.exp(-(12 * t - 6))) for t in (0, 0.25, 1)]
    assert Sigmoid(over=1.0).at(at(250)) == pytest.approx((logistic[1] - logistic[0]) / (logistic[2] - logistic[0]))


def test_an_empty_span_is_over_at_once():
    assert Linear(over=0).at(at(0)) == 1.0


def test_cyclical_rises_for_half_a_cycle_and_starts_again():
    schedule = Cyclical(value=2.0, cycles=4, ramp=0.5)
    values = [schedule.at(at(s)) for s in (0, 62, 125, 249, 250, 312, 500, 999)]
    assert values == pytest.approx([0.0, 2 * 0.496, 2.0, 2.0, 0.0, 2 * 0.496, 0.0, 2.0])


def test_cyclical_follows_its_papers_formula():
    total, m, r = 1000, 4, 0.5
    for t in range(1, total + 1):  # Fu et al. 2019, eq. 6, counts from 1
        tau = (t - 1) % math.ceil(total / m) / (total / m)
        assert Cyclical(cycles=m, ramp=r).at(at(t - 1)) == pytest.approx(tau / r if tau <= r else 1.0)


def test_cosine_decay_warms_up_then_falls_to_its_end():
    schedule = CosineDecay(warmup=0.1, final=0.2)
    assert [schedule.at(at(s)) for s in (0, 50, 100, 550, 1000)] == pytest.approx([1 / 101, 51 / 101, 1.0, 0.6, 0.2])


@pytest.mark.parametrize("schedule", [Warmup(0.1), CosineDecay(warmup=0.1)], ids=["warmup", "cosine"])
def test_no_update_is_taken_with_a_learning_rate_of_zero(schedule):
    values = [schedule.at(at(s)) for s in range(101)]
    assert values[0] > 0 and values == sorted(values) and values[100] == 1.0
    steps = [after - before for before, after in pairwise(values)]
    assert steps == pytest.approx([values[0]] * 100)  # as if update -1 had taken 0


def test_constant_is_constant():
    assert {Constant(3.0).at(at(s)) for s in range(1000)} == {3.0}


@pytest.mark.parametrize("span", [-1, -0.5, 1.5, "5", "ep", "five ep", "5 ep"], ids=str)
def test_what_is_no_span_is_refused(span):
    with pytest.raises(ValueError, match="span of training"):
        Linear(over=span)


@pytest.mark.parametrize(("cycles", "ramp"), [(0, 0.5), (4, 0.0), (4, 1.5)])
def test_impossible_cycles_are_refused(cycles, ramp):
    with pytest.raises(ValueError, match="cyclical"):
        Cyclical(cycles=cycles, ramp=ramp)
