"""The transactions that owners of a contract or a seat may send, as values.

One function for each of the contract's, in the words of an operator: what it takes is checked and
put into the order that the contract wants. Nothing here sends; ``deploy.contract`` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from chain import ShownDeposal, ShownEpoch, ShownLeader, SignedVote

REGISTRY = "Registry"
RULES = "Rules"
CERTIFICATES = "Certificates"
MINT = "PublicMint"
APP = "AppAuth"
PROXY = "AppProxy"  # what stands at the address of an AppAuth
FOR_GOOD_S = 2**40 - 1  # as long a suspension as the contract has: until the owner lifts it
# The lists of the rules, by the operator's word, and the contract's.
RULE_KINDS = {"compose-hash": "ComposeHash", "device": "Device", "os-image": "OsImage"}
APP_RULE_KINDS = ("compose-hash", "device")  # those that the app contract hands on


@dataclass(frozen=True, slots=True)
class Call:
    """A transaction to be: a function of a contract (by its artifact's name), and its arguments.

    Addresses, ids and hashes are bytes; ``value_wei`` is what it pays to the contract.
    """

    function: str
    values: tuple[Any, ...] = ()
    contract: str = REGISTRY
    value_wei: int = 0


# --- seats ------------------------------------------------------------------------------------


def grant_seat(wallet: bytes, weight: int) -> Call:
    """As the contract's owner: a new seat of this weight for a wallet."""
    return Call("grantSeat", (wallet, weight))


def set_weight(seat: int, weight: int) -> Call:
    """As the contract's owner."""
    return Call("setWeight", (seat, weight))


def burn_seat(seat: int) -> Call:
    """As the contract's owner: takes a seat away for good."""
    return Call("burnSeat", (seat,))


def bind_instance(seat: int, instance_id: bytes) -> Call:
    """As the seat's owner: lets this instance (20 bytes) register on the seat."""
    return Call("bindInstance", (seat, instance_id))


def deactivate(seat: int) -> Call:
    """As owner of seat or contract, or guardian: takes the node off the seat."""
    return Call("deactivate", (seat,))


def sweep(seats: Iterable[int]) -> Call:
    """Takes out those of these seats whose lease ended or whose root or app is gone."""
    return Call("sweep", (sorted(set(seats)),))


# --- trust ------------------------------------------------------------------------------------


def allow_app(app_id: bytes, allowed: bool = True) -> Call:
    """As the contract's owner: lets nodes of an app (20 bytes) in, or no longer."""
    return Call("allowApp", (app_id, allowed))


def certify_app_key(
    app_id: bytes, key_xy: tuple[bytes, bytes], kms_signature: bytes, root_epoch: int
) -> Call:
    """Records that a live KMS root vouches for an app key; ``kms_signature`` with v of 27 or 28."""
    return Call("certifyAppKey", (app_id, *key_xy, kms_signature, root_epoch))


def rotate_root(root: bytes, grace_until_s: int) -> Call:
    """As the contract's owner: a new KMS root; the one before lives until then (Unix seconds)."""
    return Call("rotateRoot", (root, grace_until_s))


def revoke_root(epoch: int) -> Call:
    """As guardian or owner: nodes whose app key was certified under it lose their say."""
    return Call("revokeRoot", (epoch,))


# --- the contract itself ----------------------------------------------------------------------


def launch(founders: bytes) -> Call:
    """As the contract's owner: fixes the active seats as the set of epoch 0, once.

    ``founders`` is the digest of the registry's last change of who votes (32 bytes), as it was when
    the owner looked at them: if they are others by then, the contract refuses.
    """
    return Call("launch", (founders,))


def set_guardian(guardian: bytes) -> Call:
    """As the contract's owner."""
    return Call("setGuardian", (guardian,))


def set_lease(lease_s: int) -> Call:
    """As the contract's owner: how long ``register`` and ``announce`` are good for."""
    return Call("setLease", (lease_s,))


def set_transfers_allowed(allowed: bool) -> Call:
    """As the contract's owner: whether seats may change hands."""
    return Call("setTransfersAllowed", (allowed,))


def pause() -> Call:
    """As guardian or owner: stops ``register`` and ``announce``."""
    return Call("pause")


def unpause() -> Call:
    """As the contract's owner."""
    return Call("unpause")


def transfer_ownership(owner: bytes, contract: str = REGISTRY) -> Call:
    """As the contract's owner: offers it to another address, which must accept."""
    return Call("transferOwnership", (owner,), contract)


def accept_ownership(contract: str = REGISTRY) -> Call:
    """As the one to whom the contract was offered."""
    return Call("acceptOwnership", (), contract)


# --- a lost quorum ----------------------------------------------------------------------------


def vote_recovery(seat: int, epoch: int, height: int, block_hash: bytes) -> Call:
    """As the seat's owner: votes that a cluster without a quorum goes on in ``epoch``.

    ``height`` and ``block_hash`` name the cluster's own block, what survivors show as their newest
    final one. What was final above it is lost. Epoch 0 withdraws the vote.
    """
    return Call("voteRecovery", (seat, epoch, height, block_hash))


def recover(epoch: int, height: int, block_hash: bytes, seats: Iterable[int]) -> Call:
    """Announces a recovery that these seats voted for; after its delay, opens it."""
    return Call("recover", (epoch, height, block_hash, sorted(set(seats))))


def veto_recovery() -> Call:
    """As guardian or owner: voids all votes for a recovery."""
    return Call("vetoRecovery")


# --- companions -------------------------------------------------------------------------------


def set_companions(rules: bytes, certificates: bytes) -> Call:
    """As the contract's owner: the rules and the contract of certificates in force; zero: none."""
    return Call("setCompanions", (rules, certificates))


def set_minter(minter: bytes, weight_max: int) -> Call:
    """As the contract's owner: a contract that may grant seats of at most this weight."""
    return Call("setMinter", (minter, weight_max))


def lift_suspension(seat: int) -> Call:
    """As the contract's owner: ends a seat's cool-down."""
    return Call("liftSuspension", (seat,))


# --- rules ------------------------------------------------------------------------------------


def set_policy(text: bytes) -> Call:
    """As the contract's owner: the attestation policy in force from now on, UTF-8."""
    return Call("setPolicy", (text.decode(),), RULES)


def add_to_rules(kind: str, value: bytes, contract: str = RULES) -> Call:
    """As the contract's owner: what may boot; ``kind`` is one of ``RULE_KINDS``, value 32 bytes.

    ``contract`` may be the app contract, for its owner and ``APP_RULE_KINDS``.
    """
    return Call(f"add{RULE_KINDS[kind]}", (value,), contract)


def remove_from_rules(kind: str, value: bytes, contract: str = RULES) -> Call:
    """As guardian or owner: what may boot no longer; ``contract`` as for ``add_to_rules``."""
    return Call(f"remove{RULE_KINDS[kind]}", (value,), contract)


def set_boot_rules(any_device: bool, up_to_date: bool, seat: bool) -> Call:
    """As the contract's owner: whether any device may boot, whether a boot needs the TCB status
    UpToDate, and a seat."""
    return Call("setBootRules", (any_device, up_to_date, seat), RULES)


def set_app_auth(app: bytes) -> Call:
    """As the contract's owner: the app contract (20 bytes) whose owner may change the lists."""
    return Call("setAppAuth", (app,), RULES)


# --- certificates -----------------------------------------------------------------------------


def set_certificates_policy(
    deposal_suspends: bool,
    conflict_suspends: bool,
    deposal_s: int,
    conflict_s: int,
    seats_min: int,
) -> Call:
    """As the contract's owner: whether a deposed leader's seat, and a liar's, is suspended, for how
    long, and how many active seats must be left."""
    policy = (int(deposal_suspends), int(conflict_suspends), deposal_s, conflict_s, seats_min)
    return Call("setPolicy", (policy,), CERTIFICATES)


def open_founding() -> Call:
    """Binds the epoch that the chain itself opened last to the registry's state of then."""
    return Call("openFounding", (), CERTIFICATES)


def prove_conflict(seat: int, first: SignedVote, second: SignedVote) -> Call:
    """Shows two votes of a seat that no correct member signs both."""
    return Call("proveConflict", (seat, first.fields(), second.fields()), CERTIFICATES)


def open_epoch(shown: ShownEpoch, version: int, following: int) -> Call:
    """Binds an epoch to a change of the registry; the change after it is 0 for none."""
    return Call("openEpoch", shown.values(version, following), CERTIFICATES)


def record_leader(shown: ShownLeader) -> Call:
    """Records who leads."""
    return Call("recordLeader", shown.values(), CERTIFICATES)


def depose(shown: ShownDeposal) -> Call:
    """Shows that the cluster deposed a leader."""
    return Call("depose", shown.values(), CERTIFICATES)


# --- public mint, app contract ----------------------------------------------------------------


def set_sale(price_wei: int, cap: int, weight: int, is_open: bool) -> Call:
    """As the registry's owner: terms of the public mint."""
    return Call("setClusterConfig", (price_wei, cap, weight, is_open), MINT)


def withdraw(to: bytes) -> Call:
    """As the registry's owner: takes the public mint's money out."""
    return Call("withdraw", (to,), MINT)


def disable_upgrades() -> Call:
    """As the app contract's owner: its code stays for ever."""
    return Call("disableUpgrades", (), APP)


def upgrade_app(code: bytes) -> Call:
    """As the app contract's owner: other code (20-byte address) at its address."""
    return Call("upgradeToAndCall", (code, b""), APP)


def set_app_registry(registry: bytes) -> Call:
    """As the app contract's owner: the registry whose rules it asks."""
    return Call("setRegistry", (registry,), APP)
