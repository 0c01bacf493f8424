"""The controller's arithmetic, against the vectors of its specification."""

import pytest

from store.session.pacing import burst_size
from store.session.tide import BACKGROUND, Tide, shrink

WIRE = 1428


@pytest.mark.parametrize(
    ("base_rtt", "rate", "target_ms"),
    [(0.1, 2.5e6, 11.554), (0.04, 625e3, 25.0), (0.001, 125e6, 1.131), (0.0002, 1.25e9, 1.013), (0.1, 12.5e6, 6.311)],
)
def test_target_is_a_few_milliseconds_and_more_for_slow_flows(base_rtt: float, rate: float, target_ms: float) -> None:
    tide = Tide(WIRE)
    tide.bandwidth = rate
    assert tide.target(base_rtt) * 1000 == pytest.approx(target_ms, abs=0.0006)


def test_background_aims_lower() -> None:
    tide = Tide(WIRE, BACKGROUND)
    tide.bandwidth = 2.5e6
    assert tide.target(0.1) * 1000 == pytest.approx(3 + 4096 / 2500, abs=0.001)


@pytest.mark.parametrize(("queue_ms", "factor"), [(25, 0.892), (300, 0.5)])
def test_one_step_lands_on_the_target(queue_ms: float, factor: float) -> None:
    assert shrink(queue_ms / 1000, 0.1, 0.011554) == pytest.approx(factor, abs=0.0005)


def test_a_burst_is_four_milliseconds_of_the_rate() -> None:
    tide = Tide(WIRE)
    tide.starting = False
    tide.window = 285_600.0
    rate = tide.rate(0.115)
    assert rate == pytest.approx(3.10e6, rel=0.002)
    assert burst_size(rate, tide.window, WIRE) // WIRE == 8


@pytest.mark.parametrize(
    ("lost", "excess"),
    [((1, 2, 1, 12, 12, 1), (0, 0, 0, 0, 0.0606, 0)), ((0, 0, 30, 0), (0, 0, 0.2187, 0))],
)
def test_only_confirmed_loss_beyond_the_path_s_own_counts(lost: tuple[int, ...], excess: tuple[float, ...]) -> None:
    tide = Tide(WIRE)
    got = [tide.excess(count * WIRE, 128 * WIRE) for count in lost]
    assert got == pytest.approx(list(excess), abs=0.0001)
