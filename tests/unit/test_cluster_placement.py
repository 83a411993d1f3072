"""Which host a sandbox is placed on."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ballonet.base.errors import AdmissionError, ConfigError
from ballonet.cluster.bounds import DEFAULT_BOUNDS, Bounds, check_bounds
from ballonet.cluster.offer import Expectation, HostOffer, make_offer
from ballonet.cluster.placement import Fit, Placement, Refusal, judge, place
from ballonet.cluster.refusal_message import SHOWN, no_host
from ballonet.cluster.request import Request, check_request
from ballonet.pilot.admission import ENGINE_MIB, admit
from tests.unit.cluster_inputs import fleets, offer, offers, request, requests
from tests.unit.policy_inputs import host, sandbox

pytestmark = pytest.mark.long

NOW = 100.0


def hosts(found: Placement) -> list[str]:
    return [fit.host for fit in found.fits]


def refusal(wanted: Request, made: HostOffer, at_s: float = 0.0, **bounds: float) -> Refusal:
    verdict = judge(wanted, made, at_s, Bounds(**bounds), "")  # type: ignore[arg-type]
    assert isinstance(verdict, Refusal)
    return verdict


@given(requests(), fleets)
def test_a_host_that_qualifies_keeps_every_limit(wanted: Request, made: tuple[HostOffer, ...]) -> None:
    by_name = {one.host: one for one in made}
    for fit in place(wanted, made, NOW, version="1").fits:
        before = by_name[fit.host]
        after = before.with_placed(wanted)
        usable = before.budget_mib - before.reserve_mib
        assert after.promised_mib <= usable
        assert after.available_mib + after.reclaimable_mib - after.reserve_mib >= 0
        assert (
            after.expected_mib + 3 * math.hypot(before.deviation_mib, math.sqrt(wanted.variance))
            <= usable + 1
        )
        assert after.ceilings_mib <= 8 * usable
        assert before.version == "1"
        assert before.closed is None
        assert NOW - before.at_s <= 15
        assert wanted.labels.items() <= before.labels.items()


@given(requests(), fleets, st.randoms())
def test_the_decision_does_not_depend_on_the_order_of_offers(
    wanted: Request, made: tuple[HostOffer, ...], shuffle: random.Random
) -> None:
    mixed = list(made)
    shuffle.shuffle(mixed)
    assert place(wanted, mixed, NOW) == place(wanted, made, NOW)


@given(requests(), fleets)
def test_every_host_is_explained(wanted: Request, made: tuple[HostOffer, ...]) -> None:
    found = place(wanted, made, NOW, Bounds(tries=1000))
    assert sorted([one.host for one in found.fits] + [one.host for one in found.refusals]) == [
        one.host for one in made
    ]
    for one in found.refusals:
        assert one.limit in ("closed", "label") or any(letter.isdigit() for letter in one.reason)
        assert one.missing_mib > 0 or one.limit in ("closed", "stale", "label", "version")


@settings(max_examples=40)
@given(st.lists(offers("h"), min_size=1, max_size=4), st.lists(requests(), max_size=20))
def test_floors_never_exceed_a_budget_however_many_are_placed(
    made: list[HostOffer], wanted: list[Request]
) -> None:
    current = {f"h{at}": one._replace(host=f"h{at}", promised_mib=0, at_s=NOW) for at, one in enumerate(made)}
    guaranteed = dict.fromkeys(current, 0)
    for one in wanted:
        for host_name in hosts(place(one, current.values(), NOW))[:1]:
            current[host_name] = current[host_name].with_placed(one)
            guaranteed[host_name] += one.least_mib + ENGINE_MIB
    for name, mib in guaranteed.items():
        assert mib <= max(0, current[name].budget_mib - current[name].reserve_mib)


@given(requests(), offers("a"), st.integers(0, 2000))
def test_more_memory_never_makes_a_host_unfit(wanted: Request, made: HostOffer, more: int) -> None:
    if isinstance(judge(wanted, made, NOW, DEFAULT_BOUNDS), Fit):
        larger = made._replace(budget_mib=made.budget_mib + more, available_mib=made.available_mib + more)
        assert isinstance(judge(wanted, larger, NOW, DEFAULT_BOUNDS), Fit)


@given(requests(), offers("a"), st.floats(0, 100), st.floats(0, 100))
def test_an_older_offer_never_offers_more(wanted: Request, made: HostOffer, age: float, more: float) -> None:
    if isinstance(judge(wanted, made, made.at_s + age + more, DEFAULT_BOUNDS), Fit):
        assert isinstance(judge(wanted, made, made.at_s + age, DEFAULT_BOUNDS), Fit)


def test_each_limit_refuses_with_its_numbers() -> None:
    full = offer(promised_mib=9000, sandboxes=12)
    assert refusal(request(), full) == Refusal(
        "a",
        "promise",
        "9000 of 9500 MiB are guaranteed to its 12 sandboxes, and 612 more do not fit",
        112,
    )
    busy = refusal(request(), offer(available_mib=700, reclaimable_mib=300, deviation_mib=300, at_s=-7.5))
    assert busy.limit == "start"
    assert busy.reason == (
        "a start needs 612 MiB, but only 350 are free (150 fewer because its offer is 7.5 s old): 700 are available, "
        "its sandboxes could give back 300, 500 are reserved"
    )
    dear = refusal(request(), offer(available_mib=2000))
    assert dear.reason == (
        "2000 of 10000 MiB are available, 500 are reserved: after a start that needs 612 the price of memory would be "
        "0.64, and 0.5 is the limit"
    )
    assert dear.missing_mib == 500 + 1250 + 612 - 2000
    used = refusal(request(expected_mib=1024), offer(expected_mib=6000))
    assert used.limit == "use"
    assert "expected to use 7124 MiB, and 3072 more at times; 9500 may be promised" in used.reason
    grown = refusal(request(), offer(ceilings_mib=75_000))
    assert grown.reason == "the ceilings would be 77148 MiB; 8 times what may be promised is 76000"


def test_a_host_is_left_out_whatever_its_memory() -> None:
    assert refusal(request(), offer(), at_s=15.5).limit == "stale"
    assert refusal(request(), offer(closed="it is being drained")).reason == "it is being drained"
    assert refusal(request(labels={"kvm": "yes"}), offer()).reason == (
        "kvm=yes is required, and it does not have that label"
    )
    assert "and it has kvm=no" in refusal(request(labels={"kvm": "yes"}), offer(labels={"kvm": "no"})).reason
    old = judge(request(), offer(version="0.9"), 0.0, DEFAULT_BOUNDS, "1.0")
    assert old == Refusal("a", "version", "it runs ballonet 0.9, not 1.0")


def test_spread_takes_the_emptiest_and_pack_the_fullest() -> None:
    made = [offer("a", expected_mib=1000), offer("b"), offer("c", expected_mib=3000)]
    assert hosts(place(request(), made, 0.0)) == ["b", "a", "c"]
    assert hosts(place(request(strategy="pack"), made, 0.0)) == ["c", "a", "b"]


def test_one_that_has_the_image_or_the_saved_state_is_preferred_while_it_is_comfortable() -> None:
    made = [
        offer("plain"),
        offer("image", expected_mib=3000, images=frozenset({"debian:12"})),
        offer("state", expected_mib=4000, states=frozenset({"warm"})),
        offer("full", expected_mib=6000, images=frozenset({"debian:12"})),
    ]
    found = place(request(image="debian:12", state="warm"), made, 0.0)
    assert hosts(found) == ["state", "image", "plain", "full"]
    assert "it has the saved state warm" in found.fits[0].reason


def test_near_and_apart_come_before_load() -> None:
    made = [offer("a"), offer("b", expected_mib=2000, groups={"g": 2}), offer("c", groups={"g": 1})]
    assert hosts(place(request(group="g", affinity="near"), made, 0.0)) == ["c", "b", "a"]
    assert hosts(place(request(group="g", affinity="apart"), made, 0.0)) == ["a", "c", "b"]


def test_hosts_that_are_alike_are_shared_among_sandboxes() -> None:
    made = [offer(f"h{at}") for at in range(10)]
    firsts = {hosts(place(request(f"box-{at}"), made, 0.0))[0] for at in range(100)}
    assert len(firsts) == 10


@given(st.integers(-500, 8000), st.integers(0, 1000), st.integers(0, 700))
def test_what_is_free_is_what_the_hosts_admission_compares_with(
    available: int, guest_ram: int, guest_available: int
) -> None:
    tick = host(available_mib=available)
    views = [sandbox(guest_ram_mib=guest_ram, guest_available_mib=guest_available), sandbox(name="other")]
    made = make_offer("a", tick, views, [Expectation(400, 90_000), Expectation(500, 70_000)], at_s=0.0)
    assert made.expected_mib == 900
    assert made.deviation_mib == 400
    assert made.ceilings_mib >= 2048
    wanted = request()
    answer = admit(tick, views, wanted.ceiling_mib, wanted.initial_mib, wanted.least_mib, 0)
    assert answer.needed_mib == wanted.start_mib
    assert answer.ok == (wanted.start_mib <= made.free_mib)


def test_a_host_that_does_not_report_its_memory_is_closed() -> None:
    made = make_offer("a", host(available_mib=None), [], [], at_s=0.0)
    assert refusal(request(), made).reason == "it does not report its available memory"


def test_the_error_has_the_numbers_of_every_host() -> None:
    made = [
        offer("a", promised_mib=9000),
        offer("b", closed="it is being drained"),
        offer("c", available_mib=0),
    ]
    error = no_host(request(), place(request(), made, 0.0).refusals)
    assert isinstance(error, AdmissionError)
    assert error.message.splitlines()[0] == (
        "no host can take it: sandbox 'box' asks for a ceiling of 2048 MiB, 512 guaranteed, 512 in use on average, "
        "and 100 for its engine"
    )
    assert [line.split(":")[0].strip() for line in error.message.splitlines()[1:]] == ["a", "c", "b"]
    assert error.hint


def test_the_error_counts_hosts_beyond_the_nearest() -> None:
    made = [offer(f"h{at:03d}", promised_mib=9000 + at) for at in range(200)]
    lines = no_host(request(), place(request(), made, 0.0).refusals).message.splitlines()
    assert len(lines) == SHOWN + 2
    assert lines[1].startswith("  h000: 9000 of 9500 MiB")
    assert lines[-1].strip() == "and 180 more hosts (promise 180)"


def test_a_cluster_without_hosts_and_one_without_the_label_lack_no_memory() -> None:
    assert isinstance(no_host(request(), []), ConfigError)
    wanted = request(labels={"kvm": "yes"})
    assert isinstance(no_host(wanted, place(wanted, [offer()], 0.0).refusals), ConfigError)


@pytest.mark.parametrize(
    "changes",
    [
        {"ceiling_mib": 0},
        {"least_mib": 4096},
        {"expected_mib": -1},
        {"strategy": "best"},
        {"affinity": "far", "group": "g"},
        {"affinity": "near"},
    ],
)
def test_a_request_that_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        check_request(request(**changes))


def test_bounds_out_of_range_are_refused() -> None:
    assert check_bounds(DEFAULT_BOUNDS) is DEFAULT_BOUNDS
    for wrong in (Bounds(overcommit=0.5), Bounds(deviations=-1), Bounds(stale_s=0), Bounds(tries=0)):
        with pytest.raises(ConfigError, match="must be from"):
            check_bounds(wrong)
