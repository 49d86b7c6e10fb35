"""Who leads: proportional to weight, everybody once before anybody twice, the same everywhere."""

from __future__ import annotations

from collections import Counter
from math import sqrt

from clusters import Cluster
from hypothesis import given
from hypothesis import strategies as st

from consensus.keccak import keccak256
from consensus.order import chain_seed, epoch_seed, leader_order

WEIGHTS = (10, 1, 1, 1, 1, 1, 1)
GOLDEN_SEED = "fb2c00b65473e2b803e32f147e2f237d216cc5a7cf226ce9acf602b276cdde35"
GOLDEN_ORDER = (1, 2, 6, 3, 7, 5, 4)
GOLDEN_EQUAL_ORDER = (3, 1, 2, 4)


def test_the_order_of_a_known_seed_is_pinned() -> None:
    seed = epoch_seed(chain_seed(b"\x01" * 32, b"\x02" * 32, b"\x03" * 32), 4)
    assert seed.hex() == GOLDEN_SEED
    assert leader_order(Cluster(WEIGHTS, seed).validators) == GOLDEN_ORDER
    assert leader_order(Cluster((1, 1, 1, 1), seed).validators) == GOLDEN_EQUAL_ORDER


def test_the_first_place_follows_the_weight_over_two_thousand_epochs() -> None:
    epochs = 2_000
    total = sum(WEIGHTS)
    first: Counter[int] = Counter()
    for epoch in range(epochs):
        seed = epoch_seed(chain_seed(b"\x07" * 32, keccak256(b"%d" % epoch), bytes(32)), epoch)
        first[leader_order(Cluster(WEIGHTS, seed).validators)[0]] += 1
    for seat, weight in enumerate(WEIGHTS, start=1):
        share = weight / total
        expected, sigma = epochs * share, sqrt(epochs * share * (1 - share))
        assert abs(first[seat] - expected) < 4 * sigma, (seat, first[seat], expected)
    chi_square = sum(
        (first[seat] - epochs * w / total) ** 2 / (epochs * w / total)
        for seat, w in enumerate(WEIGHTS, start=1)
    )
    assert chi_square < 22.46  # 6 degrees of freedom, p = 0.001


def test_the_second_place_follows_the_weight_of_those_who_remain() -> None:
    epochs, weights = 2_000, (2, 1, 1)
    second: Counter[tuple[int, int]] = Counter()
    for epoch in range(epochs):
        order = leader_order(Cluster(weights, keccak256(b"second %d" % epoch)).validators)
        second[order[0], order[1]] += 1
    for (one, two), share in {(1, 2): 1 / 4, (2, 1): 1 / 6, (2, 3): 1 / 12}.items():
        sigma = sqrt(epochs * share * (1 - share))
        assert abs(second[one, two] - epochs * share) < 4 * sigma


@given(
    st.lists(st.integers(1, 2**32 - 1), min_size=1, max_size=30),
    st.binary(min_size=32, max_size=32),
)
def test_everybody_leads_once_before_anybody_leads_twice(weights: list[int], seed: bytes) -> None:
    cluster = Cluster(tuple(weights), seed)
    order = leader_order(cluster.validators)
    assert sorted(order) == list(cluster.validators.seats)
    engine = cluster.engine(1)
    n = len(weights)
    assert tuple(engine.leader(term) for term in range(1, n + 1)) == order
    assert engine.leader(n + 1) == engine.leader(1)


def test_seeds_differ_by_cluster_block_randomness_and_epoch() -> None:
    base = [b"\1" * 32, b"\2" * 32, b"\3" * 32]
    seeds = {epoch_seed(chain_seed(*base), 4), epoch_seed(chain_seed(*base), 5)}
    for i, other in enumerate((b"\x08" * 32, b"\x09" * 32, b"\x0a" * 32)):
        changed = [*base]
        changed[i] = other
        seeds.add(epoch_seed(chain_seed(*changed), 4))
    assert len(seeds) == 5
