"""A policy document to begin with: it takes exactly the machines whose evidence is given.

What evidence says is believed here, so the evidence has to be verified first, or be one's own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from .errors import PolicyError
from .event_log import parse_event_log, runtime_facts
from .evidence import Evidence
from .policy import parse_policy
from .quotes import parse_quote

COLLATERAL_AGE_S = 30 * 86400
QUOTE_AGE_S = 2 * 3600
RENEWAL_S = 3600


def draft_policy(evidence: Sequence[Evidence]) -> bytes:
    """The document's text: these measurements, applications and key providers, UpToDate only.

    Raises QuoteError, EventLogError, PolicyError.
    """
    registers, providers = [], []
    composes, images = [], []
    for item in evidence:
        quote, facts = parse_quote(item.quote), runtime_facts(parse_event_log(item.event_log))
        values = (quote.mr_td, *quote.rtmrs[:3])
        names = ("mrtd", "rtmr0", "rtmr1", "rtmr2")
        registers.append({n: value.hex() for n, value in zip(names, values, strict=True)})
        composes.append(facts.compose_hash.hex())
        images.append(facts.os_image_hash.hex())
        if facts.key_provider is None:
            raise PolicyError("a machine without key provider cannot be listed")
        provider = facts.key_provider
        id_sha256 = hashlib.sha256(provider.id).hexdigest()
        providers.append({"name": provider.name, "id_sha256": id_sha256})
    document = {
        "version": 1,
        "measurements": {"registers": _distinct(registers)},
        "os_images": _distinct(images) if all(images) else None,
        "compose_hashes": _distinct(composes),
        "devices": None,
        "key_providers": _distinct(providers),
        "tcb": {"statuses": {"UpToDate": None}, "advisories": []},
        "platform": {
            "allow_dynamic_platform": False,
            "allow_cached_keys": False,
            "allow_smt": False,
        },
        "limits": {
            "collateral_age_s_max": COLLATERAL_AGE_S,
            "quote_age_s_max": QUOTE_AGE_S,
            "renewal_s": RENEWAL_S,
        },
    }
    text = json.dumps(document, indent=2).encode()
    parse_policy(text)
    return text


def _distinct(items: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found
