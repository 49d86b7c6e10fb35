"""What members must prove of their machines before they may talk, and again while they do.

Quotes of this machine go out to peers that ask; evidence of theirs comes in, is judged under the
policy that the registry names, and decides who has a link. The mesh carries it
(``node.network.attesting``), ``attest`` knows what a quote proves; here is who is judged by what
and when. What it decides is this node's alone: it never changes who votes, only whom this node
talks to.
Read: codes, policies, quorum (when a new policy is not enforced), agent, judging, records,
service, setup.
"""

from node.attestation.policies import PolicyBook, PolicyInForce
from node.attestation.service import Attestation

__all__ = ["Attestation", "PolicyBook", "PolicyInForce"]
