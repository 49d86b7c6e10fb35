"""Attestation from the configuration: sources of collateral, root, policy memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attest import CollateralError, NodeIdentity, PolicyError, parse_policy
from attest.collateral import Collateral
from attest.collateral_store import BUNDLE_BYTES_MAX, CollateralStore, parse_bundle
from attest.durable import load_file
from attest.pccs import CollateralSource
from attest.qvl import Platform
from chain import Member
from chain.policy import POLICY_BYTES_MAX
from node.attestation.agent import QuoteSource
from node.attestation.policies import PolicyBook
from node.attestation.service import Attestation
from node.config import AttestationConfig, Config, ConfigError
from node.network import NetworkLimits

ROOT_BYTES_MAX = 16 * 1024
COLLATERAL_FOLDER = "collateral"
POLICY_MEMORY = "policy.json"


async def open_attestation(
    config: Config,
    agent: QuoteSource,
    identity: NodeIdentity,
    *,
    cluster_id: bytes,
    row_of: Callable[[int], Member | None],
    limits: NetworkLimits,
    offer: Callable[[bytes], None],
    on_change: Callable[[], None],
) -> Attestation:
    """What the daemon attests with; the policy seen last is remembered already.

    Args:
        offer: takes texts that may be the policy's (``EvmRegistry.policies``).

    Raises:
        ConfigError: a file of ``[attestation]`` cannot be used.
    """
    settings, folder = config.attestation, config.node.state_dir / COLLATERAL_FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    troubles: list[Callable[[str], None]] = []
    store = CollateralStore(
        [CollateralSource(url) for url in settings.pccs_urls],
        folder=folder,
        bundle=await trio.to_thread.run_sync(_bundle, settings.collateral_bundle),
        on_failure=lambda text: troubles[0](text),
    )
    policies = PolicyBook(config.node.state_dir / POLICY_MEMORY)
    if settings.policy_file is not None:
        offer(
            await trio.to_thread.run_sync(
                _read, "policy_file", settings.policy_file, POLICY_BYTES_MAX
            )
        )
    attestation = Attestation(
        agent,
        cluster_id=cluster_id,
        seat=config.node.seat,
        app_id=identity.app_id,
        collateral=store,
        policies=policies,
        row_of=row_of,
        evidence_bytes_max=limits.evidence_bytes_max,
        root_ca_der=await trio.to_thread.run_sync(root_of, settings.tdx_root_file),
        renewal_s_max=settings.renew_s_max,
        on_change=on_change,
    )
    troubles.append(attestation.note_collateral_failure)
    remembered = policies.remember()
    if remembered:
        offer(remembered)
    return attestation


def check_files(settings: AttestationConfig) -> None:
    """Reads the files of ``[attestation]`` as the daemon will. Raises ConfigError."""
    _bundle(settings.collateral_bundle)
    root_of(settings.tdx_root_file)
    if settings.policy_file is not None:
        text = _read("policy_file", settings.policy_file, POLICY_BYTES_MAX)
        try:
            parse_policy(text)
        except PolicyError as error:
            raise ConfigError(
                f"attestation.policy_file: {settings.policy_file}: expected a policy: {error}"
            ) from None


def root_of(path: Path | None) -> bytes | None:
    """The certificate in a file, PEM or DER, as DER. Raises ConfigError."""
    if path is None:
        return None
    raw = _read("tdx_root_file", path, ROOT_BYTES_MAX)
    try:
        pem = raw.lstrip().startswith(b"-----BEGIN")
        load = x509.load_pem_x509_certificate if pem else x509.load_der_x509_certificate
        return load(raw).public_bytes(Encoding.DER)
    except ValueError:
        raise ConfigError(f"attestation.tdx_root_file: {path}: expected a certificate") from None


def _bundle(path: Path | None) -> list[tuple[Platform, Collateral]]:
    if path is None:
        return []
    try:
        return parse_bundle(_read("collateral_bundle", path, BUNDLE_BYTES_MAX))
    except CollateralError as error:
        raise ConfigError(f"attestation.collateral_bundle: {path}: {error}") from None


def _read(key: str, path: Path, bytes_max: int) -> bytes:
    try:
        raw = load_file(path, bytes_max)
    except ValueError as error:
        raise ConfigError(f"attestation.{key}: {path}: {error}") from None
    except OSError as error:
        raise ConfigError(f"attestation.{key}: {path}: {error.strerror}") from None
    if raw is None:
        raise ConfigError(f"attestation.{key}: {path}: expected a file, there is none")
    return raw
