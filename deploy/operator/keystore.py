"""Encrypted keystore files, version 3, as geth, foundry and eth-account write them.

Source: the Web3 Secret Storage Definition (ethereum.org, developers/docs/data-structures-and-
encoding/web3-secret-storage). eth-account reads them too, but brings a dozen packages with it;
in the tests it writes the files that are read here.
"""

from __future__ import annotations

import hmac
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from attest.bounded_json import parse_json
from chain.errors import ChainConfigError
from chain.keys import LocalKey, keccak256

KEY_BYTES = 32
# A file decides how much work its password is; these are sixteen times the usual settings.
SCRYPT_MEMORY_BYTES_MAX = 1 << 30
SCRYPT_WORK_MAX = 1 << 27  # n * r * p
PBKDF2_ROUNDS_MAX = 16_000_000
SALT_BYTES_MAX = 64


class WrongPassword(ChainConfigError):
    """The password does not open the keystore (or the file was altered: both look alike)."""


def decrypt(raw: bytes, password: bytes) -> LocalKey:
    """The key in a keystore.

    Raises:
        WrongPassword: see there.
        ChainConfigError: not a keystore of version 3, or one of unreasonable cost.
    """
    try:
        document = parse_json(raw)
        if not isinstance(document, dict) or document["version"] != 3:
            raise ValueError("expected a keystore of version 3")
        crypto = document["crypto"]
        if crypto["cipher"] != "aes-128-ctr":
            raise ValueError("expected the cipher aes-128-ctr")
        iv = _hex(crypto["cipherparams"]["iv"], 16, 16)
        sealed = _hex(crypto["ciphertext"], KEY_BYTES, KEY_BYTES)
        mac = _hex(crypto["mac"], 32, 32)
        derived = _derive(crypto["kdf"], crypto["kdfparams"], password)
        address = document.get("address")
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise ChainConfigError(f"the keystore is not usable: {reason:.100}") from None
    if not hmac.compare_digest(keccak256(derived[16:32] + sealed), mac):
        raise WrongPassword("the password does not open this keystore")
    cipher = Cipher(algorithms.AES(derived[:16]), modes.CTR(iv)).decryptor()
    key = LocalKey(cipher.update(sealed) + cipher.finalize())
    if isinstance(address, str) and address.removeprefix("0x").lower() != key.address.hex():
        raise ChainConfigError("the keystore names another address than its key has")
    return key


def _derive(kdf: Any, params: Any, password: bytes) -> bytes:
    salt = _hex(params["salt"], 1, SALT_BYTES_MAX)
    if params["dklen"] != 32:
        raise ValueError("expected a dklen of 32")
    if kdf == "scrypt":
        n, r, p = (_positive(params[name]) for name in ("n", "r", "p"))
        if n < 2 or n & (n - 1):
            raise ValueError("expected a power of two as scrypt's n")
        if 128 * n * r > SCRYPT_MEMORY_BYTES_MAX or n * r * p > SCRYPT_WORK_MAX:
            raise ValueError("scrypt would take more memory or time than is reasonable")
        return Scrypt(salt=salt, length=32, n=n, r=r, p=p).derive(password)
    if kdf == "pbkdf2":
        rounds = _positive(params["c"])
        if params["prf"] != "hmac-sha256" or rounds > PBKDF2_ROUNDS_MAX:
            raise ValueError("expected pbkdf2 of hmac-sha256 with a reasonable count")
        return PBKDF2HMAC(hashes.SHA256(), 32, salt, rounds).derive(password)
    raise ValueError("expected the kdf scrypt or pbkdf2")


def _positive(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError("expected a positive whole number in kdfparams")
    return value


def _hex(value: Any, low: int, high: int) -> bytes:
    if not isinstance(value, str) or len(value) > 2 * high + 2:
        raise ValueError("expected hex of bounded length")
    try:
        raw = bytes.fromhex(value.removeprefix("0x"))
    except ValueError:
        raise ValueError("expected hex") from None  # the text may be what is secret
    if not low <= len(raw) <= high:
        raise ValueError(f"expected hex of {low} to {high} bytes")
    return raw
