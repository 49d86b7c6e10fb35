"""The member mesh: one authenticated, encrypted, bounded link to each other member, over libp2p.

Nothing above this room imports libp2p, nothing in it knows consensus: payloads are opaque bytes.
What enters: TCP connections of anybody (bounded; refused unless a member), payloads to ``send``.
What members show of the machines they run on, and whether it satisfies, an ``Attestor`` decides.
Reading order: limits, addresses, events, frames, proof_frames, yamux (pure), identity, channel,
handshake, attesting, proving, admission, queues, inbox, link, peer, dialler, mesh.
"""

from node.network.addresses import BadEndpoint, PeerAddress, peer_id_of
from node.network.attesting import Attestor, Statement
from node.network.errors import NetworkError, PayloadTooLarge
from node.network.events import LinkStatus, MessageFrom, NetworkEvent, PeerDown, PeerUp, Priority
from node.network.limits import NetworkLimits
from node.network.mesh import Mesh

__all__ = [
    "Attestor",
    "BadEndpoint",
    "LinkStatus",
    "Mesh",
    "MessageFrom",
    "NetworkError",
    "NetworkEvent",
    "NetworkLimits",
    "PayloadTooLarge",
    "PeerAddress",
    "PeerDown",
    "PeerUp",
    "Priority",
    "Statement",
    "peer_id_of",
]
