"""``dstack-cluster contract`` on a real chain: a registry's whole life by command, and refusals."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import coincurve
import pytest
import trio
from eth_account import Account

from attest import PUBLIC_TEST_ROOTS
from chain import (
    CallReverted,
    ContractAbi,
    Deployment,
    LocalKey,
    NodeRegistrar,
    purpose_text,
    read_deployment,
)
from chain.eip712 import domain_separator
from chain.keys import keccak256
from consensus.digests import vote_digest
from consensus.types import VoteKind
from contracts import artifact
from deploy import operator
from tests.integration.anvil_chain import (
    APP_ID,
    CHAIN_ID,
    KMS,
    OWNER,
    Chain,
    address,
    endpoint,
    identity,
    instance,
    until,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

SECRET = keccak256(b"operator")
KEY = LocalKey(SECRET)
HOLDER = LocalKey(keccak256(b"a seat's owner"))
NEW_KMS = coincurve.PrivateKey(keccak256(b"the next kms root"))
Command = Callable[..., Awaitable[Any]]


@pytest.fixture
async def command(chain: Chain, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """``await command("grant", wallet, "3", key=…, status=0)``: what --json gives."""
    await chain.fund(KEY.address)
    await chain.fund(HOLDER.address)
    (tmp_path / "key").write_text("0x" + SECRET.hex() + "\n")
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "keystore").write_text(
        json.dumps(Account.encrypt(keccak256(b"a seat's owner"), "pass", iterations=2))
    )
    (tmp_path / "password").write_text("pass\n")
    (tmp_path / "password").chmod(0o600)

    async def run(
        *words: object,
        key: tuple[object, ...] | None = ("--key-file", tmp_path / "key"),
        yes: bool = True,
        status: int = 0,
        says: str = "",
    ) -> Any:
        line = [
            *words, "--rpc", chain.url, "--single-rpc-insecure", "--json",
            "--deployment", tmp_path / "deployment.json",
        ]  # fmt: skip
        if key is not None:
            line += [*key, *(["--yes", "--final"] if yes else [])]
        found = await trio.to_thread.run_sync(operator.main, [str(word) for word in line])
        out, err = capfd.readouterr()
        assert found == status, err
        assert SECRET.hex() not in out + err and "pass\n" not in out + err
        assert says in out + err
        return json.loads(out) if out else None

    return run


def holder(tmp_path: Path) -> tuple[object, ...]:
    return ("--keystore", tmp_path / "keystore", "--password-file", tmp_path / "password")


async def deploy(command: Command, tmp_path: Path) -> Deployment:
    await command("deploy", "--chain-id", CHAIN_ID, "--kms-root", address(KMS).hex())
    return read_deployment(tmp_path / "deployment.json")


async def launch(command: Command) -> None:
    """With those whom the plan shows."""
    plan = await command("launch", yes=False)
    await command("launch", "--founders", plan["arguments"]["founders"])


async def test_a_registry_lives_by_command_from_deployment_to_the_last_seat(
    chain: Chain, command: Command, tmp_path: Path
) -> None:
    root = ("--kms-root", address(KMS).hex())
    plan = await command("deploy", "--chain-id", CHAIN_ID, *root, yes=False)
    assert plan["would"] == "work" and not plan["sent"] and plan["gas"] > 1_000_000
    assert not (tmp_path / "deployment.json").exists()
    deployment = await deploy(command, tmp_path)
    assert "0x" + deployment.contract.hex() == plan["contract"]
    assert deployment.kms_roots == (address(KMS),) and deployment.insecure == ()
    await command("deploy", "--chain-id", CHAIN_ID, *root, status=1, says="there already")
    shown = await command("show", key=None)
    assert shown["owner"] == "0x" + KEY.address.hex() and shown["seats"] == []
    assert shown["code_is_this_release"] and shown["launched"] is None
    assert all(one["code_is_this_release"] and one["as_deployed"] for one in shown["beside"])

    # Seats: granted by the contract's owner, bound by their own.
    await command("allow-app", APP_ID.hex())
    plan = await command("grant", HOLDER.address.hex(), 3, yes=False)
    assert plan["arguments"] == {"to": "0x" + HOLDER.address.hex(), "weight": 3}
    assert (await command("show", key=None))["seats"] == []
    assert (await command("grant", HOLDER.address.hex(), 3))["seat"] == 1
    assert (await command("grant", KEY.address.hex(), 1))["seat"] == 2
    await command("grant", KEY.address.hex(), 1, status=3, says="WalletHasSeat()")
    await command("bind", 1, instance("node1").hex(), status=3, says="NotSeatOwner()")
    await command("bind", 1, instance("node1").hex(), key=holder(tmp_path))
    await command("bind", 2, instance("node2").hex())
    chain_file = tmp_path / "chain.json"
    one = identity(deployment, 1, "node1")
    chain_file.write_text(
        json.dumps(
            {
                "purpose": "dstack-cluster-node-v1/" + "0" * 64,
                "public_key": one.node_key.hex(),
                "app_id": APP_ID.hex(),
                "signature_chain": [one.app_signature.hex(), one.kms_signature.hex()],
            }
        )
    )
    await command("certify", chain_file, status=1, says="none of 1 trusted roots")
    document = json.loads(chain_file.read_text())
    document["purpose"] = purpose(deployment, 1, "node1")
    chain_file.write_text(json.dumps(document))
    found = await command("certify", chain_file)
    assert found["arguments"]["appId"] == "0x" + APP_ID.hex()
    registrar = NodeRegistrar(chain.registry(deployment), chain.sender(OWNER))
    for seat in (1, 2):
        node = identity(deployment, seat, f"node{seat}")
        await registrar.register(node, seat, endpoint(seat), 1)

    # The cluster is founded, with those who were looked at and no others, and changed.
    await command("launch", status=1, says="needs --founders")
    plan = await command("launch", yes=False)
    founders = plan["arguments"]["founders"]
    assert "founds the cluster, once: seats 1 (weight 3), 2 (weight 1)" in plan["effect"][0]
    assert founders == (await command("show", key=None))["last_change"]["digest"]
    await command("weight", 2, 2)
    late = await command("launch", "--founders", founders, status=3, says="OtherFounders()")
    assert "these are not the founders" in late["warnings"][-1] and not late["sent"]
    await command("weight", 2, 1)
    await launch(command)
    plan = await command("weight", 2, 2, yes=False)
    assert "voting weight 4 -> 5, quorum 3 -> 4" in plan["effect"]
    await command("weight", 2, 2)
    plan = await command("deactivate", 1, yes=False)
    assert "BREAKS THE QUORUM" in plan["warnings"][0]
    shown = await command("show", key=None)
    assert [(s["weight"], s["status"], s["speaks"]) for s in shown["seats"]] == [
        (3, "active", True), (2, "active", True),
    ]  # fmt: skip
    assert shown["launched"]["weight"] == 4 and shown["apps"] == [
        {"app": "0x" + APP_ID.hex(), "allowed": True}
    ]

    # KMS roots; the deployment file follows.
    plan = await command("root", "rotate", address(NEW_KMS).hex(), "--grace-s", 600, yes=False)
    assert "seats of weight 5 must register" in plan["effect"][2]
    await command("root", "rotate", address(NEW_KMS).hex(), "--grace-s", 600)
    assert read_deployment(tmp_path / "deployment.json").kms_roots == (
        address(KMS), address(NEW_KMS),
    )  # fmt: skip
    await command("root", "revoke", 1)
    assert read_deployment(tmp_path / "deployment.json").kms_roots == (address(NEW_KMS),)
    shown = await command("show", key=None)
    assert [root["live"] for root in shown["roots"]] == [False, True]
    assert [seat["speaks"] for seat in shown["seats"]] == [False, False]
    await command("root", "revoke", 1, status=3, says="RootNotLive(1)")
    assert (await command("sweep"))["arguments"] == {"seats": [1, 2]}
    await command("sweep", status=1, says="nothing to sweep")

    # And it ends.
    await command("burn", 1)
    await command("burn", 1, status=3, says="NoSuchSeat()")
    assert [s["seat"] for s in (await command("show", key=None))["seats"]] == [2]


async def test_a_deployment_that_was_final_but_not_written_down_is_finished_and_not_repeated(
    chain: Chain, command: Command, tmp_path: Path
) -> None:
    words = ("deploy", "--chain-id", CHAIN_ID, "--kms-root", address(KMS).hex())
    first = await deploy(command, tmp_path)
    (tmp_path / "deployment.json").unlink()  # as if the command had been killed before
    plan = await command(*words, yes=False)
    assert plan["contract"] == "0x" + first.contract.hex() and plan["gas"] == 0
    assert not (tmp_path / "deployment.json").exists()
    assert await deploy(command, tmp_path) == first
    shown = await command("grant", HOLDER.address.hex(), 1, yes=False)
    assert shown["nonce"] == 1, "one transaction was ever sent"

    # Another registry on other terms is another deployment.
    (tmp_path / "deployment.json").unlink()
    await command(*words, "--max-seats", 7)
    assert read_deployment(tmp_path / "deployment.json").contract != first.contract


def purpose(deployment: Deployment, seat: int, name: str) -> str:
    return purpose_text(deployment.chain_id, deployment.contract, seat, instance(name))


async def test_an_owner_governs_and_hands_over_by_command(
    chain: Chain, command: Command, tmp_path: Path
) -> None:
    await deploy(command, tmp_path)
    await command("guardian", HOLDER.address.hex())
    await command("lease", 3600)
    await command("transfers", "on")
    await command("pause", key=holder(tmp_path))  # the guardian may
    shown = await command("show", key=None)
    assert (shown["guardian"], shown["lease_s"]) == ("0x" + HOLDER.address.hex(), 3600)
    assert shown["paused"] and shown["transfers_allowed"]
    await command("unpause", key=holder(tmp_path), status=3, says="OwnableUnauthorizedAccount")
    await command("unpause")
    await command("owner", "transfer", HOLDER.address.hex())
    assert (await command("show", key=None))["pending_owner"] == "0x" + HOLDER.address.hex()
    await command("owner", "accept", status=3, says="OwnableUnauthorizedAccount")
    await command("owner", "accept", key=holder(tmp_path))
    shown = await command("show", key=None)
    assert shown["owner"] == "0x" + HOLDER.address.hex() and shown["pending_owner"] is None
    await command("lease", 7200, status=3, says="OwnableUnauthorizedAccount")


async def test_policy_and_boot_rules_are_set_by_command(
    chain: Chain, command: Command, tmp_path: Path
) -> None:
    await deploy(command, tmp_path)
    assert (await command("policy", "show", key=None))["version"] == 0
    file = tmp_path / "policy.json"
    file.write_text("{}")
    await command("policy", "set", file, status=1, says="policy.json: ")
    one, two = "aa" * 32, "bb" * 32
    document = example_policy(one, two)
    file.write_text(json.dumps(document))
    await command("policy", "set", file)
    shown = await command("policy", "show", key=None)
    assert shown["version"] == 1 and shown["policy"] == document
    await command("policy", "remove-compose-hash", "cc" * 32, status=1, says="does not have")
    await command("policy", "remove-compose-hash", one)
    shown = await command("policy", "show", key=None)
    assert shown["version"] == 2 and shown["policy"]["compose_hashes"] == [two]
    assert (await command("show", key=None))["policy"]["version"] == 2

    await command("boot", "add", "compose-hash", one)
    await command("boot", "add", "os-image", two)
    await command("boot", "require", "--device", "off", "--up-to-date", "on", "--seat", "on")
    await command("boot", "remove", "os-image", two)
    boot = (await command("show", key=None))["boot"]
    assert boot["compose_hashes"] == ["0x" + one] and boot["os_images"] == []
    assert (boot["require_device"], boot["require_seat"]) == (False, True)


def example_policy(*compose_hashes: str) -> dict[str, Any]:
    return {
        "version": 1,
        "measurements": {
            "registers": [{name: "11" * 48 for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2")}]
        },
        "os_images": None,
        "compose_hashes": list(compose_hashes),
        "devices": None,
        "key_providers": [{"name": "kms", "id_sha256": None}],
        "tcb": {"statuses": {"UpToDate": None}, "advisories": []},
        "platform": {
            "allow_dynamic_platform": False, "allow_cached_keys": False, "allow_smt": True,
        },
        "limits": {
            "collateral_age_s_max": 86400, "quote_age_s_max": 7200, "renewal_s": 3600,
        },
    }  # fmt: skip


async def test_what_follows_from_certificates_is_set_and_a_liar_is_shown_by_command(
    chain: Chain, command: Command, tmp_path: Path
) -> None:
    deployment = await deploy(command, tmp_path)
    await command("allow-app", APP_ID.hex())
    for key in (KEY, HOLDER, LocalKey(keccak256(b"third"))):
        await command("grant", key.address.hex(), 1)
    await command("bind", 1, instance("node1").hex())
    registrar = NodeRegistrar(chain.registry(deployment), chain.sender(OWNER))
    node = identity(deployment, 1, "node1")
    await registrar.register(node, 1, endpoint(1), 1)
    await launch(command)
    plan = await command(
        "certificates", "policy", "--deposal", "mark", "--deposal-s", 60,
        "--conflict", "suspend", "--conflict-s", "for-good", "--min-seats", 1,
    )  # fmt: skip
    assert plan["contract"] == "Certificates" and "suspended for good" in plan["effect"][1]
    shown = (await command("show", key=None))["certificates"]
    assert (shown["conflict_suspends"], shown["deposal_s"], shown["leader"]) == (True, 60, None)
    await command("certificates", "open-founding")

    cluster = domain_separator(deployment.chain_id, deployment.contract)

    def vote(block: bytes) -> dict[str, Any]:
        digest = vote_digest(cluster, VoteKind.NOTARIZE, 0, 1, 0, block, 0)
        signature = node.secret.sign_recoverable(digest)
        return {
            "kind": "notarize", "view": "1.0", "block": block.hex(), "reason": 0,
            "signature": (signature[:64] + bytes([27 + signature[64]])).hex(),
        }  # fmt: skip

    file = tmp_path / "evidence.json"
    votes = [vote(b"\x01" * 32), vote(b"\x01" * 32)]
    file.write_text(json.dumps({"evidence": [{"seat": 1, "epoch": 0, "votes": votes}]}))
    await command("certificates", "conflict", 1, file, status=3, says="NoConflict()")
    votes[1] = vote(b"\x02" * 32)
    file.write_text(json.dumps({"evidence": [{"seat": 1, "epoch": 0, "votes": votes}]}))
    await command("certificates", "conflict", 1, file)
    await command("certificates", "conflict", 1, file, status=3, says="AlreadyMarked()")


async def test_seats_are_sold_and_the_money_is_withdrawn_by_command(
    chain: Chain, command: Command, tmp_path: Path
) -> None:
    deployment = await deploy(command, tmp_path)
    terms = ("--price-gwei", 10**9, "--cap", 2, "--weight", 1)
    await command("mint", "open", *terms, status=1, says="names no contract PublicMint")
    plan = await command("mint", "deploy", yes=False)
    assert plan["would"] == "work" and not plan["sent"]
    mint = (await command("mint", "deploy"))["contract"]
    assert mint == plan["contract"]
    # Said again it is the same one, unless another is wanted.
    plan = await command("mint", "deploy")
    assert plan["contract"] == mint and not plan["sent"] and "gas" not in plan
    other = await command("mint", "deploy", "--again")
    assert other["contract"] != mint and other["sent"] and other["nonce"] == plan["nonce"]
    await command("mint", "minter", mint, 1)
    plan = await command("mint", "open", *terms)
    assert "1.000000000 ETH, 2 in all" in plan["effect"][0] and plan["warnings"]
    shown = await command("show", key=None)
    assert shown["minter"] == {"address": mint, "weight_max": 1}

    buyer = chain.sender(await chain.funded_key("a buyer"))
    data = ContractAbi(artifact("PublicMint").abi).function("mintNodeAccess").encode()
    await buyer.send("buy", bytes.fromhex(mint[2:]), data, value=10**18)
    assert [s["weight"] for s in (await command("show", key=None))["seats"]] == [1]
    await command("mint", "withdraw", HOLDER.address.hex(), key=holder(tmp_path),
                  status=3, says="NotOwner()")  # fmt: skip
    to = LocalKey(keccak256(b"a till"))
    await command("mint", "withdraw", to.address.hex())
    assert await chain.sender(to).balance() == 10**18
    await command("mint", "close")
    with pytest.raises(CallReverted, match=r"Closed\(\)|unknown"):
        await chain.sender(await chain.funded_key("late")).send(
            "buy", bytes.fromhex(mint[2:]), data, value=10**18
        )
    assert deployment.other("PublicMint") is None


async def test_an_app_contract_lives_by_command_and_is_locked_in_the_end(
    chain: Chain, command: Command, tmp_path: Path
) -> None:
    registry = (await deploy(command, tmp_path)).contract
    # Killed after the first of two transactions, it goes on with the second when it is said again.
    planned = await command("app", "deploy", yes=False)
    chain.mining = False
    await chain.rpc.call("evm_setAutomine", [False])
    line = [
        sys.executable, "-m", "deploy.operator.cli", "app", "deploy", "--yes", "--rpc", chain.url,
        "--single-rpc-insecure", "--deployment", str(tmp_path / "deployment.json"),
        "--key-file", str(tmp_path / "key"),
    ]  # fmt: skip
    killed = await trio.lowlevel.open_process(line, cwd=Path(__file__).parents[2])
    await until(partial(chain.pending, 1))
    killed.kill()
    await killed.wait()
    await chain.rpc.call("evm_setAutomine", [True])
    chain.mining = True
    done = await command("app", "deploy")
    app = done["contract"]
    assert app == planned["contract"] and done["sent"]
    assert (await command("app", "deploy"))["nonce"] == planned["nonce"] + 2
    await command("allow-app", app)
    await command("app", "lock", status=1, says="names no contract AppAuth")
    await command("boot", "app-contract", app)
    # Its owner keeps the lists of what boots, as dstack's tools would.
    await command("app", "add", "compose-hash", "aa" * 32)
    await command("app", "add", "device", "bb" * 32)
    await command("app", "remove", "device", "bb" * 32)
    boot = (await command("show", key=None))["boot"]
    assert (boot["compose_hashes"], boot["devices"]) == (["0x" + "aa" * 32], [])

    # Another registry, and back.
    plan = await command("app", "registry", app, yes=False)
    assert "not this release's registry" in plan["warnings"][0]
    plan = await command("app", "registry", registry.hex())
    assert not plan["warnings"]

    # Other code at the same address, as long as it is not locked.
    nobody = LocalKey(keccak256(b"nobody")).address.hex()
    await command("app", "upgrade", nobody, status=1, says="there is no contract at")
    plan = await command("app", "upgrade", registry.hex(), yes=False, status=3)
    assert "OTHER CODE" in plan["warnings"][0]
    code = (await command("app", "deploy-code", "--again"))["contract"]
    plan = await command("app", "upgrade", code)
    assert not plan["warnings"] and plan["to"] == app

    # It is handed over, and locked by its new owner.
    await command("app", "owner", "transfer", HOLDER.address.hex())
    await command("app", "owner", "accept", key=holder(tmp_path))
    await command("app", "lock", status=3, says="OwnableUnauthorizedAccount")
    await command("app", "lock", key=holder(tmp_path))
    await command("app", "upgrade", code, key=holder(tmp_path), status=3, says="UpgradesDisabled")
    shown = await command("show", key=None)
    assert shown["boot"]["app_contract"] == app
    assert shown["app"] == {
        "owner": "0x" + HOLDER.address.hex(), "pending_owner": None,
        "registry": "0x" + registry.hex(), "is_locked": True,
    }  # fmt: skip
    assert shown["apps"] == [{"app": app, "allowed": True}]


async def test_a_recovery_is_voted_and_vetoed_by_command(
    chain: Chain, command: Command, tmp_path: Path
) -> None:
    deployment = await deploy(command, tmp_path)
    await command("allow-app", APP_ID.hex())
    await command("grant", KEY.address.hex(), 1)
    await command("bind", 1, instance("node1").hex())
    registrar = NodeRegistrar(chain.registry(deployment), chain.sender(OWNER))
    await registrar.register(identity(deployment, 1, "node1"), 1, endpoint(1), 1)
    await launch(command)
    where = (1, 77, "ab" * 32)
    await command("recovery-vote", 1, *where)
    await command("recovery-advance", *where, 1)
    pending = (await command("show", key=None))["recovery_pending"]
    assert (pending["epoch"], pending["height"]) == (1, 77)
    await command("recovery-advance", *where, 1, status=3, says="TooEarly(")
    await command("recovery-veto")
    assert (await command("show", key=None))["recovery_pending"] is None


async def test_a_deployment_with_a_public_root_or_a_careless_key_is_refused(
    chain: Chain, command: Command, tmp_path: Path
) -> None:
    chain_id = ("--chain-id", CHAIN_ID)
    root = next(iter(PUBLIC_TEST_ROOTS))
    await command("deploy", *chain_id, "--kms-root", root.hex(), status=1, says="is public")
    assert not (tmp_path / "deployment.json").exists()
    (tmp_path / "key").chmod(0o644)
    good = ("--kms-root", address(KMS).hex())
    await command("deploy", *chain_id, *good, status=1, says="open to others (mode 644)")
    (tmp_path / "password").write_text("wrong")
    await command("deploy", *chain_id, *good, key=holder(tmp_path), status=1, says="does not open")
    (tmp_path / "key").chmod(0o600)
    await command("deploy", *chain_id, "--kms-root", root.hex(), "--insecure-simulator")
    assert read_deployment(tmp_path / "deployment.json").insecure == ("simulator",)


async def test_a_plan_for_a_safe_needs_no_key_and_an_empty_wallet_is_told(
    chain: Chain, command: Command, tmp_path: Path
) -> None:
    await deploy(command, tmp_path)
    safe = LocalKey(keccak256(b"a safe without money"))
    await command("owner", "transfer", safe.address.hex())
    looking = ("--from", "0x" + safe.address.hex())
    plan = await command("owner", "accept", key=looking, yes=False)
    assert plan["would"] == "work" and plan["data"] == "0x79ba5097"
    await command("owner", "accept", key=looking, status=1, says="only plans")
    (tmp_path / "poor").write_text(keccak256(b"a safe without money").hex())
    (tmp_path / "poor").chmod(0o600)
    poor = ("--key-file", tmp_path / "poor")
    await command("owner", "accept", key=poor, status=3, says="insufficient funds")


async def test_a_command_that_was_killed_is_finished_by_the_next(
    chain: Chain, command: Command, tmp_path: Path
) -> None:
    """The grant is on its way when its command dies; saying it again grants nothing twice."""
    await deploy(command, tmp_path)
    chain.mining = False
    await chain.rpc.call("evm_setAutomine", [False])
    words = ["grant", "0x" + HOLDER.address.hex(), "3", "--rpc", chain.url, "--yes",
             "--single-rpc-insecure", "--deployment", str(tmp_path / "deployment.json"),
             "--key-file", str(tmp_path / "key")]  # fmt: skip
    options = operator.cli._parser().parse_args(words)
    with trio.move_on_after(3) as killed:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(options.verb, options)
            while not await chain.pending(1):
                await trio.sleep(0.02)
            nursery.cancel_scope.cancel()
    assert not killed.cancelled_caught
    plan = await command("lease", 7200, yes=False)
    assert len(plan["unfinished"]) == 1 and plan["unfinished"][0].startswith("grantSeat")
    chain.mining = True
    await chain.rpc.call("evm_setAutomine", [True])
    await command("grant", HOLDER.address.hex(), 3, status=3, says="WalletHasSeat()")
    assert len((await command("show", key=None))["seats"]) == 1
