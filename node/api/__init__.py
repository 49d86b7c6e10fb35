"""The HTTP API: what clients of this node may ask, over loopback or a Unix socket.

It knows the node only through ``node.facade.NodeFacade``; nothing of consensus, chain or network
enters. Reading order: bounds (every limit), answers (JSON and errors), gate (who may come in),
reads, kv, registration, changes (the routes), express (plain writes without the general server),
server (sockets and connections), openapi.
"""

from node.api.server import ApiError, serve

__all__ = ["ApiError", "serve"]
