"""Stands in for dstack's guest agent and KMS where there is no TDX machine: testnets and tests.

A KMS root secret, an app id and instance seeds come in; keys and signature chains that verify like
real ones go out over Unix sockets, quotes never. Not for production: the root is a file here.
Read: ``kms`` (derivations), ``methods`` (the API), ``server`` (HTTP), ``__main__`` (the process).
Run: ``python -m deploy.simulator --kms-secret-file F --app-id HEX --node SOCKET:SEED ...``
"""

from .kms import instance_id, new_kms_root, read_kms_root, root_address, write_kms_root
from .server import Node, Serving, SimulatorConfig, serve

__all__ = [
    "Node",
    "Serving",
    "SimulatorConfig",
    "instance_id",
    "new_kms_root",
    "read_kms_root",
    "root_address",
    "serve",
    "write_kms_root",
]
