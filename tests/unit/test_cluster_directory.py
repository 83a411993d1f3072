"""What the directory of hosts knows, and what a sandbox is expected to use."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ballonet.base.errors import AdmissionError
from ballonet.cluster.bounds import Bounds
from ballonet.cluster.directory import SAMPLE, Directory
from ballonet.cluster.offer import HostOffer
from ballonet.cluster.placement import place
from ballonet.cluster.request import Request
from ballonet.cluster.usage import PRIOR_S, expected, observed, telling
from ballonet.pilot.admission import ENGINE_MIB
from tests.unit.cluster_inputs import fleets, offer, request, requests

pytestmark = pytest.mark.long

NOW = 100.0


def filled(made: tuple[HostOffer, ...] | list[HostOffer], sample: int = SAMPLE) -> Directory:
    directory = Directory(sample=sample)
    for one in made:
        directory.update(one)
    return directory


@given(requests(), fleets)
def test_a_host_is_found_whenever_one_qualifies(wanted: Request, made: tuple[HostOffer, ...]) -> None:
    found, every = filled(made, sample=1).choose(wanted, NOW), place(wanted, made, NOW)
    assert bool(found.fits) == bool(every.fits)
    assert {fit.host for fit in found.fits} <= {
        fit.host for fit in place(wanted, made, NOW, Bounds(tries=1000)).fits
    }


def test_a_thousand_hosts_are_not_all_judged() -> None:
    made = [offer(f"h{at:04d}", promised_mib=at) for at in range(1000)]
    found = filled(made).choose(request(), 0.0)
    assert len(found.fits) + len(found.refusals) <= 2 * SAMPLE
    assert found.fits[0].load == min(fit.load for fit in place(request(), made, 0.0).fits)
    packed = filled(made).choose(request(strategy="pack"), 0.0)
    assert packed.fits[0].load == max(
        fit.load for fit in place(request(), made, 0.0, Bounds(tries=1000)).fits
    )


def test_creates_at_once_do_not_go_over_a_budget() -> None:
    directory = Directory(Bounds(price=1.0))
    directory.update(offer("a"))
    directory.update(offer("b"))
    placed = {"a": 0, "b": 0}
    for at in range(30):
        wanted = request(f"box-{at}", expected_mib=100)
        for fit in directory.choose(wanted, 0.0).fits[:1]:
            directory.reserve(wanted, fit.host)
            placed[fit.host] += 1
    # 500 for the reserve, 612 for each: 15 fit.
    assert placed == {"a": 15, "b": 15}
    with pytest.raises(AdmissionError, match=r"9180 of 9500 MiB are guaranteed to its 15 sandboxes"):
        raise directory.explain(request(), 0.0, {})


def test_what_was_placed_counts_until_an_offer_includes_it() -> None:
    directory = filled([offer("a")])
    directory.reserve(request("x"), "a")
    directory.reserve(request("y"), "a")
    assert directory.offers["a"].promised_mib == 1224
    directory.settle("x", "a", 3.0, created=True)
    directory.update(offer("a", at_s=2.0))
    assert directory.offers["a"].promised_mib == 1224, "made before x was created"
    directory.update(offer("a", at_s=4.0, promised_mib=552))
    assert directory.offers["a"].promised_mib == 552 + 612, "x is included, y not yet created"
    directory.settle("y", "a", 5.0, created=False)
    assert directory.offers["a"].promised_mib == 552


def test_a_host_that_left_is_forgotten() -> None:
    directory = filled([offer("a", images=frozenset({"debian:12"})), offer("b", expected_mib=100)])
    directory.forget("a")
    directory.forget("never")
    found = directory.choose(request(image="debian:12"), 0.0)
    assert [fit.host for fit in found.fits] == ["b"]
    directory.settle("box", "a", 0.0, created=True)


@settings(max_examples=30)
@given(fleets, st.data())
def test_the_directory_can_be_rebuilt_from_offers(made: tuple[HostOffer, ...], data: st.DataObject) -> None:
    directory = filled(made)
    for at in range(8):
        wanted = data.draw(requests(f"box-{at}"))
        for fit in directory.choose(wanted, NOW).fits[:1]:
            directory.reserve(wanted, fit.host)
            directory.settle(wanted.name, fit.host, NOW, created=True)
    later = [one._replace(at_s=NOW + 1) for one in directory.offers.values()]
    for one in later:
        directory.update(one)
    assert directory.offers == filled(later).offers
    wanted = data.draw(requests("next"))
    assert directory.choose(wanted, NOW) == filled(later).choose(wanted, NOW)


def test_hosts_that_refused_are_named_with_their_words() -> None:
    directory = filled([offer("a"), offer("b", promised_mib=9400)])
    error = directory.explain(request(), 0.0, {"a": "it needs 612 MiB, but only 80 MiB are free"})
    assert "a: it needs 612 MiB, but only 80 MiB are free" in error.message
    assert "b: 9400 of 9500" in error.message


def test_expected_use_goes_from_the_request_to_what_is_observed() -> None:
    usage = expected(request())
    assert usage.expectation == (512 + ENGINE_MIB, 512 * (2048 - 512))
    usage = observed(usage, 200.0, PRIOR_S)
    assert usage.expectation.mean_mib == (612 + 200) / 2
    for _ in range(3600):
        usage = observed(usage, 200.0, 1.0)
    assert usage.expectation.mean_mib == pytest.approx(225, abs=5)
    assert usage.expectation.variance < 65_000


@given(requests(), st.lists(st.tuples(st.floats(0, 8192), st.floats(0.1, 60)), max_size=40))
def test_expected_use_stays_between_what_was_said_and_seen(
    wanted: Request, seen: list[tuple[float, float]]
) -> None:
    usage = expected(wanted)
    for mib, seconds in seen:
        usage = observed(usage, mib, seconds)
    values = [wanted.use_mib, *(mib for mib, _ in seen)]
    assert min(values) - 1e-6 <= usage.expectation.mean_mib <= max(values) + 1e-6
    assert usage.expectation.variance >= 0


def test_the_average_of_both_is_exact() -> None:
    usage = observed(expected(request(expected_mib=0)), 100.0, 40.0)
    usage = observed(usage, 300.0, 40.0)
    mean = (120 * ENGINE_MIB + 40 * 100 + 40 * 300) / 200
    spread = (120 * (ENGINE_MIB - mean) ** 2 + 40 * (100 - mean) ** 2 + 40 * (300 - mean) ** 2) / 200
    assert usage.expectation.mean_mib == pytest.approx(mean)
    assert usage.expectation.variance == pytest.approx(spread)


def test_others_of_its_image_say_what_a_sandbox_will_use() -> None:
    usages = [observed(expected(request()), mib, 600.0) for mib in (300.0, 300.0, 500.0, 500.0, 400.0, 400.0)]
    young = observed(expected(request()), 2000.0, 1.0)
    held = telling([*usages, young])
    assert held.sandboxes == 6
    directory = filled([offer("a", held={"debian:12": held})])
    wanted = directory.informed(request(image="debian:12"))
    assert (wanted.use_mib, wanted.deviation_mib) == (400, 82)
    assert directory.informed(request(image="other")) == request(image="other")
    stated = request(image="debian:12", expected_mib=700)
    assert directory.informed(stated) == stated
    directory.update(offer("a", at_s=1.0))
    assert directory.informed(request(image="debian:12")) == request(image="debian:12"), "they are gone"
