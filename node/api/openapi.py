"""The OpenAPI 3.1 description of the routes; a test holds it against the router."""

from __future__ import annotations

from typing import Any

from consensus.limits import (
    LEASE_TTL_MS_MAX,
    LEASE_TTL_MS_MIN,
    RANGE_KEYS_MAX,
    TXN_COMPARES_MAX,
    TXN_OPS_MAX,
)
from node.api.bounds import CONNECTION_URL_BYTES_MAX
from node.facade import KEY_BYTES_MAX, REQUEST_ID_BYTES_MAX, VALUE_BYTES_MAX


def _reply(text: str, kind: str = "application/json", schema: Any = None) -> dict[str, Any]:
    return {"description": text, "content": {kind: {"schema": schema or {"type": "object"}}}}


_ERROR = _reply("error", schema={"$ref": "#/components/schemas/Error"})
_WRITE = _reply("committed", schema={"$ref": "#/components/schemas/Write"})
_BYTES = {"type": "string", "format": "binary", "maxLength": VALUE_BYTES_MAX}
_REQUEST_ID = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "the same write under the same id is applied once, also when sent again; "
    "another write under it is done as another one",
    "schema": {"type": "string", "minLength": 1, "maxLength": REQUEST_ID_BYTES_MAX},
}


def _switch(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": text, "schema": {"enum": ["0", "1"]}}


def _number(name: str, text: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "description": text,
        "schema": {"type": "integer", "minimum": 0},
    }


def _bytes_in(name: str, text: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "description": text + ", percent-encoded",
        "schema": {"type": "string"},
    }


_SPAN = [
    _bytes_in("prefix", "all keys that begin with it"),
    _bytes_in("key", "the first key of the range, or the only one"),
    _bytes_in("end", "the first key behind the range; %00 is no end"),
]
_LEASE_IN_PATH = {
    "name": "lease",
    "in": "path",
    "required": True,
    "description": "the lease's number",
    "schema": {"type": "integer", "minimum": 1},
}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _read(text: str, **more: Any) -> dict[str, Any]:
    return {"get": {"summary": text, "responses": {"200": _reply(text), "default": _ERROR}, **more}}


def _act(text: str) -> dict[str, Any]:
    """Empty JSON in, who leads then out."""
    replies = {"200": _reply(text), "409": _ERROR, "default": _ERROR}
    body = _body({"type": "object"}) | {"required": False}
    return {"post": {"summary": text, "requestBody": body, "responses": replies}}


def _write(text: str, **more: Any) -> dict[str, Any]:
    return {
        "summary": text,
        "parameters": [_REQUEST_ID],
        "responses": {"200": _WRITE, "default": _ERROR},
        **more,
    }


DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "dstack-cluster node",
        "version": "1",
        "description": "Every error is {error: {code, message}}. A bearer token is needed when the "
        "node is configured with one, but not for health and ready.",
    },
    "paths": {
        "/v1/status": _read("everything this node says of itself"),
        "/v1/members": _read("seats of the current validator set"),
        "/v1/peers": _read(
            "the other members, whether they are connected, and what they proved",
            parameters=[
                _switch("self", "with this node's own row"),
                _switch("watch", "text/event-stream of the rows, at once and at each change"),
            ],
        ),
        "/v1/leader": _read(
            "epoch, term, leader and fencing token: epoch.term, to be compared as two integers",
            parameters=[_switch("watch", "text/event-stream of it, at once and at each change")],
        ),
        "/v1/leader/step-down": _act("the leader hands over; 409 when this node does not lead"),
        "/v1/leader/complain": _act("one complaint about the leader; 409 when this node leads"),
        "/v1/evidence": _read("pairs of votes that convict their signers"),
        "/v1/certificates": _read("epoch, leader and deposed leaders, as the chain takes them"),
        "/v1/health": _read("200 while the process works"),
        "/v1/ready": _read(
            "200 while linearizable requests are served, else 503 with the reasons",
            responses={"200": _reply("ready"), "503": _reply("not ready"), "default": _ERROR},
        ),
        "/v1/kv/{key}": {
            "parameters": [
                {
                    "name": "key",
                    "in": "path",
                    "required": True,
                    "description": f"1 to {KEY_BYTES_MAX} bytes, percent-encoded; slashes may stay",
                    "schema": {"type": "string"},
                }
            ],
            "get": {
                "summary": "the value; X-Revision, X-Create-Revision, X-Version, X-Lease with it",
                "parameters": [
                    _switch("stale", "answer from this node's own state at once"),
                    _number("revision", "the value at this revision; 410 when it is too old"),
                ],
                "responses": {
                    "200": _reply("the value", "application/octet-stream", _BYTES),
                    "404": _ERROR,
                    "default": _ERROR,
                },
            },
            "put": _write(
                "write the body as the key's value",
                parameters=[_REQUEST_ID, _number("lease", "a lease that the key goes with")],
                requestBody={"content": {"application/octet-stream": {"schema": _BYTES}}},
            ),
            "delete": _write("delete the key"),
        },
        "/v1/kv": {
            "get": {
                "summary": "the entries of a range, by key; more is true when they are not all",
                "parameters": [
                    *_SPAN,
                    _number("limit", "at most so many entries"),
                    _number("revision", "as it was at this revision; 410 when it is too old"),
                    _switch("stale", "answer from this node's own state at once"),
                    _switch("keys_only", "without the values"),
                    _switch("count_only", "without the entries"),
                ],
                "responses": {"200": _reply("range", schema=_ref("Range")), "default": _ERROR},
            },
            "delete": {
                "summary": f"delete a range of at most {RANGE_KEYS_MAX} keys in one revision",
                "parameters": [*_SPAN, _REQUEST_ID],
                "responses": {"200": _reply("deleted", schema=_ref("Deleted")), "default": _ERROR},
            },
        },
        "/v1/txn": {
            "post": {
                "summary": "if all comparisons hold then, else else; all of it in one revision",
                "parameters": [_REQUEST_ID],
                "requestBody": _body(_ref("Txn")),
                "responses": {
                    "200": _reply("committed", schema=_ref("TxnOutcome")),
                    "default": _ERROR,
                },
            }
        },
        "/v1/leases": {
            "get": _read("all leases")["get"],
            "post": {
                "summary": "begin a lease: its keys go when it is not kept alive for ttl_ms",
                "parameters": [_REQUEST_ID],
                "requestBody": _body(
                    {
                        "type": "object",
                        "required": ["ttl_ms"],
                        "additionalProperties": False,
                        "properties": {
                            "ttl_ms": {
                                "type": "integer",
                                "minimum": LEASE_TTL_MS_MIN,
                                "maximum": LEASE_TTL_MS_MAX,
                            },
                            "lease": {
                                "type": "integer",
                                "description": "its number; 0 or none: the node chooses one",
                            },
                        },
                    }
                ),
                "responses": {"200": _reply("lease and ttl_ms"), "default": _ERROR},
            },
        },
        "/v1/leases/{lease}": {
            "parameters": [_LEASE_IN_PATH],
            "get": _read("the lease, what is left of it in block time, its keys")["get"],
            "delete": {
                "summary": "end a lease; its keys go",
                "parameters": [_REQUEST_ID],
                "responses": {"200": _reply("deleted", schema=_ref("Deleted")), "default": _ERROR},
            },
        },
        "/v1/leases/{lease}/keepalive": {
            "parameters": [_LEASE_IN_PATH],
            "post": {
                "summary": "let the lease run for its whole time again",
                "responses": {"200": _reply("lease and ttl_ms"), "default": _ERROR},
            },
        },
        "/v1/watch": {
            "get": {
                "summary": "every change of a range as server-sent events, without gaps",
                "description": "Events: changes (all of one revision; the id is the revision), "
                "progress (told up to its revision), error (the last one). Last-Event-ID goes on "
                "after it; 410, or an error with the code compacted, when that is too long ago.",
                "parameters": [
                    *_SPAN,
                    _number("revision", "the first revision that is told; without it: from now on"),
                ],
                "responses": {
                    "200": _reply("events", "text/event-stream", {"type": "string"}),
                    "default": _ERROR,
                },
            }
        },
        "/v1/register": {
            "post": {
                "summary": "tell the cluster under which URL this seat's application serves",
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "required": ["connection_url"],
                                "additionalProperties": False,
                                "properties": {
                                    "connection_url": {
                                        "type": "string",
                                        "format": "uri",
                                        "maxLength": CONNECTION_URL_BYTES_MAX,
                                    }
                                },
                            }
                        }
                    },
                },
                "responses": {"200": _reply("announced"), "default": _ERROR},
            }
        },
        "/metrics": {
            "get": {
                "summary": "Prometheus metrics",
                "responses": {"200": _reply("metrics", "text/plain", {"type": "string"})},
            }
        },
        "/openapi.json": _read("this document"),
    },
    "components": {
        "schemas": {
            "Error": {
                "type": "object",
                "required": ["error"],
                "properties": {
                    "error": {
                        "type": "object",
                        "required": ["code", "message"],
                        "properties": {
                            "code": {"type": "string"},
                            "message": {"type": "string"},
                        },
                    }
                },
            },
            "Deleted": {
                "type": "object",
                "required": ["revision", "deleted"],
                "properties": {"revision": {"type": "integer"}, "deleted": {"type": "integer"}},
            },
            "Entry": {
                "type": "object",
                "description": "key or key_base64, value or value_base64: text if it is UTF-8",
                "required": ["create_revision", "mod_revision", "version", "lease"],
                "properties": {
                    **{n: {"type": "string"} for n in ("key", "key_base64")},
                    **{n: {"type": "string"} for n in ("value", "value_base64")},
                    **{
                        n: {"type": "integer"}
                        for n in ("create_revision", "mod_revision", "version", "lease")
                    },
                },
            },
            "Range": {
                "type": "object",
                "required": ["revision", "count", "more", "entries"],
                "properties": {
                    "revision": {"type": "integer"},
                    "count": {"type": "integer", "description": "of the whole range"},
                    "more": {"type": "boolean"},
                    "entries": {"type": "array", "items": _ref("Entry")},
                },
            },
            "Txn": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "compare": {
                        "type": "array",
                        "maxItems": TXN_COMPARES_MAX,
                        "items": _ref("Compare"),
                    },
                    "then": {
                        "type": "array",
                        "maxItems": TXN_OPS_MAX,
                        "items": _ref("Operation"),
                    },
                    "else": {
                        "type": "array",
                        "maxItems": TXN_OPS_MAX,
                        "items": _ref("Operation"),
                    },
                },
            },
            "Compare": {
                "type": "object",
                "description": "target of key relates to value (or value_base64), else to number; "
                "of a missing key all numbers are 0 and nothing holds for the value",
                "required": ["target"],
                "properties": {
                    "key": {"type": "string"},
                    "target": {
                        "enum": ["value", "version", "create_revision", "mod_revision", "lease"]
                    },
                    "relation": {"enum": ["=", ">", "<", "!="], "default": "="},
                    "value": {"type": "string"},
                    "number": {"type": "integer"},
                },
            },
            "Operation": {
                "type": "object",
                "description": "one of put {key, value, lease}, delete {key, end or prefix}, "
                "range {key, end or prefix, limit}; bytes also as <name>_base64",
                "minProperties": 1,
                "maxProperties": 1,
                "additionalProperties": False,
                "properties": {n: {"type": "object"} for n in ("put", "delete", "range")},
            },
            "TxnOutcome": {
                "type": "object",
                "required": ["revision", "succeeded", "responses"],
                "properties": {
                    "revision": {"type": "integer"},
                    "succeeded": {"type": "boolean", "description": "the comparisons held"},
                    "responses": {
                        "type": ["array", "null"],
                        "items": {"type": "object"},
                        "description": "one for each operation; null when the request is repeated",
                    },
                },
            },
            "Write": {
                "type": "object",
                "required": ["revision", "existed"],
                "properties": {
                    "revision": {"type": "integer"},
                    "existed": {"type": "boolean"},
                },
            },
        }
    },
}
