"""The daemon: starts the parts in order, stops them in reverse, stops loudly when it must.

agent -> identity -> registry -> seat -> founding set -> store -> core and mesh. The API is up from
the first moment, so that an operator sees what the daemon waits for. The mesh comes last because
members prove to each other which boot they are, and the store knows that.
"""

from __future__ import annotations

import gc
import resource
import secrets
import signal
import sys
from collections.abc import Iterable
from contextlib import aclosing
from functools import partial

import structlog
import trio

from attest import (
    AgentError,
    AttestError,
    GuestAgent,
    TrustedRoot,
    address_of_key,
    checksum_address,
    obtain_identity,
)
from chain import (
    Certificates,
    ChainError,
    ContractAbi,
    EvmRegistry,
    FeePolicy,
    LocalKey,
    Membership,
    NodeRegistrar,
    RegistryMemory,
    Sighting,
    TransactionSender,
    certificates_abi,
    open_reader,
)
from chain.eip712 import domain_separator
from consensus.digests import genesis_hash
from consensus.engine import Engine
from consensus.interface import Checkpoints, Durations
from consensus.order import chain_seed, epoch_seed
from consensus.outcomes import Applied
from consensus.validators import Validator, ValidatorSet
from contracts import artifact
from node import api
from node.archivist import Archivist
from node.attestation.fence import BootFence
from node.attestation.setup import open_attestation
from node.config import Config, ConfigError, TimingConfig, check_startable
from node.driver import Driver, SafetyStop
from node.lookout import Lookout
from node.lookups import NameLookups
from node.membership import MembershipFeed
from node.network import Mesh, NetworkError, NetworkLimits
from node.seat import SeatKeeper
from node.served import StorageError
from node.service import VERSION, NodeService
from node.showing import shown_epoch
from node.signing import NodeSigner, RecoveringVerifier
from node.statelock import StateLock
from node.storage import DATABASE_FILE, Store
from node.sweeping import Sweeper
from node.turns import turn_of
from node.urls import URLS_PREFIX
from node.witness import Witness

EXIT_CLEAN = 0
EXIT_FAILED = 1
EXIT_SAFETY = 3  # a supervisor must not restart the daemon after this one
# What can go wrong without a defect of ours: one line says it. OSError: a port is taken, no space.
EXPECTED = (
    StorageError,
    AttestError,
    ChainError,
    ConfigError,
    NetworkError,
    api.ApiError,
    OSError,
)
STOP_GRACE_S = 1.0
GWEI = 10**9
GENESIS_POLL_S = 0.5
LINKS_WAIT_S = 2.0
# Nearly nothing here is in cycles, and what a block brings is many objects at once that all go
# again: with Python's own (700, 10, 10) looking at them costs a fifth of the time per commit, with
# these a fiftieth. A look at the youngest stops the loop for 3 ms, at the middle generation for
# 15 ms, at everything (all sessions, entries and history) for a tenth of a second.
GC_THRESHOLDS = (50_000, 4, 100)
# The loop lets the interpreter go with each system call, and while a thread computes (a snapshot, a
# verdict on a quote) it waits so long to have it back. With Python's own 5 ms that is all it does.
SWITCH_S = 0.0001

# All connections that our bounds permit, of clients, strangers, members and to the chain, and the
# store's files. Where there are fewer, a crowd of clients could keep the vote log from its file.
FILES_MAX = 4096

_log = structlog.get_logger("node.daemon")


async def run_daemon(config: Config) -> int:
    """Runs one node until SIGTERM or SIGINT; returns the exit status."""
    try:
        check_startable(config)
    except ConfigError as error:
        _log.error("refused_to_start", reason=str(error))
        return EXIT_FAILED
    _log.info(
        "starting",
        version=VERSION,
        contract="0x" + config.chain.contract.hex(),
        state_dir=str(config.node.state_dir),
    )
    if config.insecure.names():
        _log.warning("insecure_modes", modes=list(config.insecure.names()))
    permit_files()
    sys.setswitchinterval(SWITCH_S)
    trio.socket.set_custom_hostname_resolver(NameLookups())
    service = NodeService(config)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_signalled, service, nursery.cancel_scope)
            nursery.start_soon(Lookout(service).run)
            await nursery.start(api.serve, service, config)
            nursery.start_soon(_serve, service)
    except BaseExceptionGroup as group:
        return _exit_status(group)
    _log.info("stopped")
    return EXIT_CLEAN


def permit_files() -> None:
    """Raises this process's limit of open files to what it may need, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < FILES_MAX:
        _log.warning("few_open_files", permitted=most, needed=FILES_MAX)


def _exit_status(group: BaseExceptionGroup[BaseException]) -> int:
    """Names what ended the daemon; anything unexpected is shown whole."""
    status = EXIT_FAILED
    for error in _leaves(group):
        if isinstance(error, SafetyStop):
            _log.critical("safety_stop", reason=str(error))
            status = EXIT_SAFETY
        elif isinstance(error, EXPECTED):
            _log.critical("failed", kind=type(error).__name__, reason=str(error))
        elif not isinstance(error, trio.Cancelled):
            _log.critical("crashed", exc_info=error)
    return status


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterable[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _until_signalled(service: NodeService, scope: trio.CancelScope) -> None:
    """A clean stop: hand over leadership first, so that the others need not find out."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            _log.info("stopping", signal=signal.Signals(number).name)
            driver = service.driver
            if driver is not None and service.leader()["self"]:
                driver.step_down()
                with trio.move_on_after(STOP_GRACE_S):
                    while service.leader()["self"]:  # noqa: ASYNC110 - a short, bounded wait
                        await trio.sleep(0.02)
            if service.mesh is not None:
                await service.mesh.drain(STOP_GRACE_S)
            scope.cancel()
            return


async def _serve(service: NodeService) -> None:
    """The node proper, alone in its directory."""
    with StateLock(service.config.node.state_dir) as lock:
        await _serve_alone(service, lock)


async def _serve_alone(service: NodeService, lock: StateLock) -> None:
    """Part by part."""
    config = service.config
    seat, chain = config.node.seat, config.chain
    service.phase = "waiting for the guest agent"
    agent = GuestAgent(str(config.agent.socket) if config.agent.socket else None)
    await agent.wait_ready(on_attempt=_note_agent)
    service.identity = identity = await obtain_identity(
        agent,
        chain_id=chain.chain_id,
        contract=chain.contract,
        seat=seat,
        roots=[TrustedRoot(root, number) for number, root in enumerate(chain.kms_roots, 1)],
        app_id=chain.app_id,
        scheme=config.agent.scheme,
        insecure_simulator=config.insecure.simulator,
    )
    _log.info(
        "identity",
        node_key=identity.node_key.hex(),
        account=checksum_address(address_of_key(identity.node_key)),
        instance=identity.instance_id.hex(),
    )

    abi = ContractAbi(artifact("Registry").abi)
    reader = open_reader(
        chain.rpc,
        chain.rpc_quorum,
        chain_id=chain.chain_id,
        contract=chain.contract,
        code_hash=chain.code_hash or b"",
        watermark_path=config.node.state_dir / "chain-watermark.json",
        single_rpc_insecure=config.insecure.single_rpc,
    )
    service.registry = registry = EvmRegistry(
        reader,
        abi,
        deploy_block=chain.deploy_block,
        poll_interval_s=chain.poll_interval_ms / 1000,
        require_proofs=chain.require_proofs,
    )
    service.sender = sender = TransactionSender(
        reader,
        LocalKey(identity.secret.reveal()),
        journal_path=config.node.state_dir / "transactions.json",
        abi=certificates_abi(),
        policy=FeePolicy(fee_ceiling=chain.max_fee_gwei * GWEI),
    )
    cluster_id = domain_separator(chain.chain_id, chain.contract)
    limits = NetworkLimits()
    if not config.insecure.no_attestation:
        service.attestation = await open_attestation(
            config,
            agent,
            identity,
            cluster_id=cluster_id,
            row_of=service.row_of,
            limits=limits,
            offer=registry.policies.offer,
            on_change=service.changed,
        )
    service.mesh = mesh = Mesh(
        secret=identity.secret.reveal(),
        cluster_id=cluster_id,
        seat=seat,
        listen=config.node.listen,
        limits=limits,
        attestor=service.attestation,
    )
    await mesh.check_listen()
    memory = RegistryMemory(
        config.node.state_dir / "registry.json", chain_id=chain.chain_id, contract=chain.contract
    )
    service.feed = feed = MembershipFeed(cluster_id, seat, mesh, service.changed)
    if memory.newest is not None:
        feed.remember(memory.newest)
        registry.history.remember(memory.newest)
    if memory.policy is not None:
        registry.policies.offer(memory.policy.text)
    async with aclosing(reader), trio.open_nursery() as nursery:

        def on_sighting(seen: Sighting) -> None:
            feed.saw(seen)
            if service.attestation is not None:
                nursery.start_soon(service.attestation.policies.saw, seen.policy)
            if seen.changed or seen.recoveries:
                kept = partial(memory.keep, newest=seen.membership, policy=seen.policy)
                nursery.start_soon(partial(kept, recovery=feed.newest_recovery))

        service.keeper = keeper = SeatKeeper(
            registry,
            NodeRegistrar(registry, sender),
            identity,
            seat,
            config.node.endpoint,
            on_sighting,
        )
        nursery.start_soon(keeper.run)
        nursery.start_soon(sender.tend)
        service.phase = "registering the seat"
        if not (config.node.state_dir / DATABASE_FILE).exists():
            await keeper.wait_registered()
        # Else it was a member, and may still be one whose vote is needed to let it leave.
        genesis = memory.genesis
        if genesis is None:
            genesis = await _wait_for_genesis(service, registry)
            await memory.keep(genesis=genesis)
        else:
            nursery.start_soon(_check_genesis, registry, genesis)
        validators = founding_set(genesis, cluster_id)
        await _run_core(service, validators, cluster_id, genesis, lock, memory.recovery)


async def _run_core(
    service: NodeService,
    validators: ValidatorSet,
    cluster_id: bytes,
    genesis: Membership,
    lock: StateLock,
    recovery: int,
) -> None:
    config, identity, mesh = service.config, service.identity, service.mesh
    assert identity is not None and mesh is not None and service.feed is not None
    parent = genesis_hash(cluster_id, validators.epoch, genesis.digest)
    store = Store(
        config.node.state_dir,
        cluster_id=cluster_id,
        seat=config.node.seat,
        genesis=parent,
        lock=lock,
    )
    try:
        service.phase = "reading the store"
        restored = await trio.to_thread.run_sync(store.restore)
        engine = Engine(
            cluster_id=cluster_id,
            validators=validators,
            seat=config.node.seat,
            signer=NodeSigner(identity.secret),
            verifier=RecoveringVerifier(),
            restored=restored,
            boot_id=secrets.token_bytes(32),
            durations=durations(config.timing),
            checkpoints=checkpoints(config),
        )
        await service.feed.see_again(recovery, engine.validators.epoch, partial(_waits, service))
        archivist = Archivist(
            store,
            config.node.state_dir,
            checkpoint=config.snapshots.checkpoint_blocks,
            every=config.snapshots.every_blocks,
        )

        def on_applied(applied: Applied) -> None:
            service.commits += len(applied.results)
            service.clock.saw(applied.block.header.time_ms)
            if service.witness is not None:
                service.witness.saw(applied.block)
            if any(key.startswith(URLS_PREFIX) for key in applied.changes.entries):
                service.changed()

        driver = Driver(
            engine,
            store,
            mesh,
            cluster_id=cluster_id,
            archivist=archivist,
            on_applied=on_applied,
            on_links=service.changed,
            on_epoch=service.feed.opened,
        )
        service.driver = driver
        assert service.registry is not None and service.sender is not None
        service.witness = witness = Witness(
            Certificates(service.registry, service.sender),
            config.node.seat,
            engine,
            partial(trio.to_thread.run_sync, shown_epoch, store),
            evidence=config.chain.submit_evidence,
            leaders=config.chain.record_leaders,
            deposals=config.chain.depose_leaders,
        )
        registrar = NodeRegistrar(service.registry, service.sender)
        service.sweeper = sweeper = Sweeper(
            registrar.sweep,
            registrar.is_paused,
            lambda: service.keeper.membership if service.keeper is not None else None,
            partial(turn_of, engine, config.node.seat),
            config.node.seat,
        )
        service.feed.attach(driver.tell, engine.validators, engine.previous)
        _log.info(
            "core_started",
            height=restored.tip.height,
            incarnation=engine.boot.incarnation,
            epoch=engine.validators.epoch,
            weight=engine.validators.weights.get(config.node.seat, 0),
            weight_total=engine.validators.total,
        )
        # What start-up made stays: without this, every full collection walks all of it and stops
        # the loop for a tenth of a second.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        async with trio.open_nursery() as nursery:
            if service.attestation is not None:
                service.attestation.attach(mesh, BootFence(driver, cluster_id))
                nursery.start_soon(service.attestation.run)
            nursery.start_soon(witness.run)
            if config.chain.sweep:
                nursery.start_soon(sweeper.run)
            await nursery.start(mesh.run)
            await _wait_linked(mesh, engine)
            try:
                await driver.run()
            except SafetyStop as stop:
                service.halted = str(stop)
                raise
    finally:
        store.close()


async def _wait_linked(mesh: Mesh, engine: Engine) -> None:
    """The core's clocks begin when there is somebody to talk to, if that is soon: a leader whose
    link is still being made, which takes a quote each way, is not to be voted out for that."""
    validators = engine.validators
    with trio.move_on_after(LINKS_WAIT_S):
        while not validators.is_quorum(validators.weight(mesh.linked() | {mesh.seat})):
            await mesh.wait_links()


def _waits(service: NodeService, reason: str) -> None:
    """What the daemon waits for before the core runs, for ``status`` and, when new, for the log."""
    if service.phase != reason:
        service.phase = reason
        _log.info("waiting", reason=reason)


async def _wait_for_genesis(service: NodeService, registry: EvmRegistry) -> Membership:
    """Waits for the ``launch()`` of the contract."""
    while True:
        try:
            genesis = await registry.genesis()
            if genesis is not None:
                return genesis
            newest = service.keeper.membership if service.keeper else None
            seats = len(newest.members) if newest else 0
            active = len(newest.active()) if newest else 0
            _waits(service, f"waiting for the launch: {active} of {seats} seats are registered")
        except ChainError as error:
            _waits(service, f"reading the founding set: {error}")
        await trio.sleep(GENESIS_POLL_S)


async def _check_genesis(registry: EvmRegistry, remembered: Membership) -> None:
    """Holds what we started with against the chain, as soon as that answers.

    Raises SafetyStop: the cluster of this disk is not the one that the registry launched.
    """
    while True:
        try:
            genesis = await registry.genesis()
        except ChainError:
            genesis = None
        if genesis is not None:
            break
        await trio.sleep(GENESIS_POLL_S)
    if genesis != remembered:
        raise SafetyStop(
            f"the founding set on disk is not the registry's: block {remembered.block_number},"
            f" digest {remembered.digest.hex()} here, {genesis.block_number},"
            f" {genesis.digest.hex()} there"
        )


def founding_set(genesis: Membership, cluster_id: bytes) -> ValidatorSet:
    """The validator set of epoch 0: all live seats at the launch, by weight."""
    return ValidatorSet(
        epoch=0,
        validators=tuple(
            Validator(member.seat, member.weight, member.node_key) for member in genesis.active()
        ),
        seed=epoch_seed(chain_seed(cluster_id, genesis.block_hash, genesis.prev_randao), 0),
    )


def checkpoints(config: Config) -> Checkpoints:
    """How the core's checkpoints lie from the configuration."""
    return Checkpoints(config.snapshots.checkpoint_blocks, config.snapshots.every_blocks)


def durations(t: TimingConfig) -> Durations:
    """The core's timers from the configuration."""
    return Durations(
        leader_ms=t.leader_timeout_ms,
        heartbeat_ms=t.heartbeat_ms,
        gather_ms=t.gather_ms,
        stall_ms=t.stall_ms,
        retry_ms=t.retry_ms,
        probe_ms=t.probe_ms,
        censor_ms=t.censor_ms,
        slow_ms=t.slow_ms,
        behind_chain_ms=t.behind_chain_ms,
        patience_ms=t.patience_ms,
        growth_max=max(1, t.leader_timeout_max_ms // t.leader_timeout_ms),
    )


def _note_agent(attempt: int, error: AgentError) -> None:
    if attempt in (1, 2, 4, 8) or attempt % 16 == 0:
        _log.warning("agent_not_ready", attempt=attempt, reason=str(error))
