"""The planner over places whose answer can be worked out, and laws that any plan obeys."""

import pytest

from tradewind.errors import UserError
from tradewind.hardware.goal import Budget, Demand, Wanted
from tradewind.hardware.places import MEASURED, MODELLED, Model, Place
from tradewind.hardware.planner import METERED, _beats, hit_ratio, plan, table
from tradewind.model.config import DecoderConfig
from tradewind.planning.simulation import Limits, ServiceTimes

SHAPE = DecoderConfig(512, 64, 2, 4, 2, 16, 128)
GOOD, QUICK = Model("teacher-int8", SHAPE, ()), Model("student-int8", SHAPE, ())
MODELS, F1 = {one.name: one for one in (GOOD, QUICK)}, {"teacher-int8": 0.9, "student-int8": 0.8}
SLOW, FAST = ServiceTimes(800, 0.008, 0.002), ServiceTimes(40000, 0.0005, 0.0001)
HOST = Place("host", "ort", MEASURED, 0.1, 45, 8e9, SLOW)
CARD = Place("card", "jax", MODELLED, 2.0, 300, 24e9, FAST)
PLACES = dict.fromkeys(MODELS, (HOST, CARD))
DEMAND = Demand(rate=0.5, prompt=100, answer=40)


def planned(wanted=Wanted(1000, 100), demand=DEMAND, budget=Budget(), places=PLACES, **given):  # noqa: B008
    return plan(MODELS, F1, places, wanted, demand, budget, Limits(), **given)


def test_the_cheapest_that_keeps_the_goal_is_chosen_with_the_better_of_equals():
    chosen = planned().chosen
    assert (chosen.model.name, chosen.place.device, chosen.replicas) == ("teacher-int8", "host", 1)
    assert chosen.usd_hour == 0.1 and chosen.ttft_p95_ms <= 1000


def test_a_tighter_goal_costs_no_less():
    loose, tight = planned().chosen, planned(Wanted(60, 100)).chosen
    assert tight.place.device == "card" and tight.usd_hour > loose.usd_hour and tight.ttft_p95_ms <= 60


def test_more_load_takes_replicas_and_none_of_the_front_is_beaten():
    many = planned(demand=Demand(rate=20, prompt=100, answer=40))
    alone = [one for one in many.pareto if one.place.device == "host"]
    least = 20 * (100 / 800 + 40 * (0.002 + 0.008 / 8))  # seconds of work a second, all slots taken
    assert alone and all(one.replicas >= least for one in alone)
    for tier in (MEASURED, MODELLED):  # none of another tier puts one out
        front = [one for one in many.pareto if one.place.tier == tier]
        assert front and not any(_beats(one, other) for one in front for other in front)
    assert many.chosen in many.pareto and f"**{many.chosen.name}**" in table(many, DEMAND)


def test_what_the_cache_answers_no_engine_does():
    demand = Demand(rate=20, prompt=100, answer=40, repeats=1.1, questions=200)
    assert 0.5 < hit_ratio(demand, 64 << 20, 3600, 0) <= 1
    assert hit_ratio(demand, 64 << 20, 1, 0) < hit_ratio(demand, 64 << 20, 3600, 0)
    found = planned(demand=demand).chosen
    assert found.cache == "memory" and found.hit > 0.5
    assert (
        found.replicas
        < planned(demand=Demand(rate=20, prompt=100, answer=40), places=dict.fromkeys(MODELS, (HOST,))).chosen.replicas
    )


def test_energy_is_the_meters_where_there_is_one():
    metered = Place("host", "ort", MEASURED, 0.1, 45, 8e9, SLOW, joules=0.5)
    chosen = planned(places=dict.fromkeys(MODELS, (metered,))).chosen
    assert chosen.joules == pytest.approx(0.5 * 40) and chosen.joules_tier == METERED
    spread = Demand(rate=0.5, prompt=100, answer=40, spread=0.4)
    lengthy = planned(Wanted(3000, 100), demand=spread, places=dict.fromkeys(MODELS, (metered,))).chosen
    assert lengthy.joules == pytest.approx(0.5 * 40 * 1.0833, rel=1e-3)  # the mean of a log-normal is above its median
    told = planned().chosen
    share = told.utilization + 0.3 * (1 - told.utilization)
    assert told.joules_tier == "modelled" and told.joules == pytest.approx(45 * share / 0.5)


@pytest.mark.parametrize(
    ("wanted", "budget", "words"),
    [
        (Wanted(f1=0.95), Budget(), r"F1 of 0.95: the best is teacher-int8 with 0.900"),
        (
            Wanted(1, 100),
            Budget(),
            r"nothing keeps TTFT <= 1 ms .*; nearest: \S+ on card \(jax, modelled\): TTFT 2.5 ms",
        ),
        (
            Wanted(60, 100),
            Budget(usd_hour=1),
            r"budget of 1 USD an hour is too small: the cheapest .* card .* for 2.000",
        ),
        (Wanted(), Budget(watts=10), r"within the budget.*; nearest: \S+ on host \(ort, measured\): 45 W"),
        (Wanted(), Budget(gb=1), r"nearest: \S+ on host .*: weights and caches of 8 GB"),
    ],
)
def test_what_cannot_be_had_names_what_stands_in_the_way(wanted, budget, words):
    with pytest.raises(UserError, match=words):
        planned(wanted, budget=budget)


def test_a_place_that_is_late_for_long_prompts_only_does_not_end_the_search():
    demand = Demand(rate=0.5, prompt=100, answer=40, spread=0.4)
    near = Wanted(130, 100)  # HOST takes 125 ms for the median prompt, and twice that for one in twenty
    found = planned(near, demand=demand)
    assert found.chosen.place.device == "card"
    assert any("on host" in reason for reason in found.reasons)


def test_energy_of_a_device_without_a_figure_is_not_said():
    dark = dict.fromkeys(MODELS, (Place("dark", "jax", MODELLED, 1.0, None, 8e9, FAST),))
    found = planned(places=dark)
    assert found.chosen.joules is None and "| - | - | - |" in table(found, DEMAND)
    with pytest.raises(UserError, match="nobody says how many watts"):
        planned(places=dark, budget=Budget(watts=100))
