"""Every limit of the API, with its reason."""

from __future__ import annotations

CONNECTIONS_MAX = 512  # open at once; a 513th is answered 503 and closed
HEADER_BYTES_MAX = 16 * 1024  # request line and headers; keys are at most 3 * 1024 when encoded
JSON_BODY_BYTES_MAX = 4 * 1024  # bodies of POST requests
TXN_BODY_BYTES_MAX = 512 * 1024  # JSON may take six characters for a byte
LARGE_BODIES_MAX = 32  # read at once, of more than a value may have; others wait for a place
READ_PIECE_BYTES = 16 * 1024  # of a socket at a time; some pieces wait for each slow request
CONNECTION_URL_BYTES_MAX = 512
WATCHERS_MAX = 64  # event streams at once
LARGE_ANSWERS_MAX = 32  # made at once, of up to 2 MB each; others wait until one of them is sent
SMALL_RANGE_KEYS_MAX = 16  # a range of so many is no large answer

IDLE_TIMEOUT_S = 60  # a kept-alive connection without a request; also for the head of a request
BODY_TIMEOUT_S = 10  # the whole body of a request
SEND_TIMEOUT_S = 10  # one piece of an answer that the client does not take
DRAIN_BYTES_MAX = 256 * 1024  # of a refused body that is read, so that the client sees the answer
DRAIN_TIMEOUT_S = 1
WATCH_KEEPALIVE_S = 15  # a comment line in an idle event stream
STOP_GRACE_S = 1  # requests under way when the service is told to stop

TOKEN_BYTES_MIN = 16
TOKEN_BYTES_MAX = 4096
LEADER_LOOK_S = 0.25  # how often a stream of who leads looks: a look costs microseconds
