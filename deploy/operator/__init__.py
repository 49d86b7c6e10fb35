"""``dstack-cluster contract``: the registry, for those who own it or a seat in it.

Enters: what the command line says, the deployment file, a key. Every verb is one transaction or one
look; a transaction is only planned unless ``--yes`` is given. Nodes act on what is final, so watch
a change arrive with ``dstack-cluster status``. Read ``cli``, ``verbs`` (how a verb becomes a
command), ``plan`` and ``effects`` (the dry run), ``session``, ``endpoints``, ``keys`` with
``keystore`` and ``signer``, ``companions`` (contracts beside the registry), then the verbs:
``deploying`` with ``audit`` and ``audit_view``, ``seats``, ``trust``, ``rules``, ``certificates``,
``mint`` and ``app`` with ``creating``, ``governance``, ``recovery``. What they send is in
``deploy.calls``, and ``deploy.contract`` sends it.
"""

from deploy.operator.cli import main

__all__ = ["main"]
