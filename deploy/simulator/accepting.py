"""The attestation policy that takes exactly the given simulated machines, as its JSON text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from .machine import MEASURED, Machine

# As Intel states it once a month; the mock authority's statements are a day old when handed out.
COLLATERAL_AGE_S_MAX = 30 * 86400
QUOTE_AGE_S_MAX = 3600
RENEWAL_S = 1200
UP_TO_DATE_ONLY: Mapping[str, int | None] = {"UpToDate": None}


def policy_text(
    machines: Iterable[Machine],
    *,
    tcb_statuses: Mapping[str, int | None] = UP_TO_DATE_ONLY,
    advisories: Iterable[str] = (),
    quote_age_s_max: int = QUOTE_AGE_S_MAX,
    renewal_s: int = RENEWAL_S,
) -> bytes:
    """The policy document: what these machines measure, and these TCB statuses with their grace."""
    registers, composes, images, providers = set(), set(), set(), set()
    for machine in machines:
        report = machine.report(bytes(64))
        registers.add((report.mr_td, *report.rtmrs[:3]))
        composes.add(machine.compose_hash)
        images.add(machine.os_image_hash)
        providers.add(hashlib.sha256(machine.kms_ca_spki).hexdigest())
    document = {
        "version": 1,
        "measurements": {
            "registers": [
                {name: value.hex() for name, value in zip(MEASURED, values, strict=True)}
                for values in sorted(registers)
            ]
        },
        "os_images": [value.hex() for value in sorted(images)],
        "compose_hashes": [value.hex() for value in sorted(composes)],
        "devices": None,
        "key_providers": [{"name": "kms", "id_sha256": value} for value in sorted(providers)],
        "tcb": {"statuses": dict(tcb_statuses), "advisories": sorted(advisories)},
        # As servers that run dstack are: the simulated certificates say the same.
        "platform": {
            "allow_dynamic_platform": True,
            "allow_cached_keys": True,
            "allow_smt": True,
        },
        "limits": {
            "collateral_age_s_max": COLLATERAL_AGE_S_MAX,
            "quote_age_s_max": quote_age_s_max,
            "renewal_s": renewal_s,
        },
    }
    return json.dumps(document, indent=1).encode()
