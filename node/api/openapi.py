"""The OpenAPI 3.1 description of the routes; a test holds it against the router."""

from __future__ import annotations

from typing import Any

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
    "description": "the same write under the same id is applied once, also when sent again",
    "schema": {"type": "string", "minLength": 1, "maxLength": REQUEST_ID_BYTES_MAX},
}


def _switch(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": text, "schema": {"enum": ["0", "1"]}}


def _read(text: str, **more: Any) -> dict[str, Any]:
    return {"get": {"summary": text, "responses": {"200": _reply(text), "default": _ERROR}, **more}}


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
            "the other members and whether they are connected",
            parameters=[
                _switch("self", "with this node's own row"),
                _switch("watch", "text/event-stream of the rows, at once and at each change"),
            ],
        ),
        "/v1/leader": _read("epoch, term, leader and fencing token"),
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
                "summary": "the value; X-Revision, X-Create-Revision and X-Version tell its place",
                "parameters": [_switch("stale", "answer from this node's own state at once")],
                "responses": {
                    "200": _reply("the value", "application/octet-stream", _BYTES),
                    "404": _ERROR,
                    "default": _ERROR,
                },
            },
            "put": _write(
                "write the body as the key's value",
                requestBody={"content": {"application/octet-stream": {"schema": _BYTES}}},
            ),
            "delete": _write("delete the key"),
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
