"""Stands in for dstack's guest agent and KMS where there is no TDX machine: testnets and tests.

A KMS root secret, an app id and instance seeds come in; keys, signature chains and TDX quotes that
verify like real ones go out over Unix sockets, the collateral for them over a loopback port. Not
for production: the one secret of which all of this grows is a file here, and whoever trusts it must
have been told so. Machines can be given faults while they run.
Read: ``kms`` (derivations), ``tdx_pki``, ``tdx_collateral``, ``tdx_quote`` (an authority in the
place of Intel's), ``machine``, ``container`` (evidence), ``faults``, ``attester``, ``methods`` (the
API), ``pccs``, ``http_server``, ``server``, ``__main__`` (the process).
Run: ``python -m deploy.simulator --kms-secret-file F --app-id HEX --node SOCKET:SEED ...``
"""

from .faults import FaultPlan, Faults
from .kms import instance_id, new_kms_root, read_kms_root, root_address, write_kms_root
from .server import Node, Serving, SimulatorConfig, serve
from .tdx_collateral import collateral
from .tdx_pki import TdxPki

__all__ = [
    "FaultPlan",
    "Faults",
    "Node",
    "Serving",
    "SimulatorConfig",
    "TdxPki",
    "collateral",
    "instance_id",
    "new_kms_root",
    "read_kms_root",
    "root_address",
    "serve",
    "write_kms_root",
]
