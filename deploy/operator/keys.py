"""Where an operator's key comes from. A secret is never an argument: those are in the process list.

Files that hold a secret in the clear must be closed to others. No error here quotes what it read.
"""

from __future__ import annotations

import argparse
import getpass
import os
import stat
import sys
from pathlib import Path

from chain.errors import ChainConfigError, SignerError
from chain.keys import LocalKey, PayingSigner
from deploy.operator.arguments import address
from deploy.operator.keystore import decrypt
from deploy.operator.signer import SocketSigner

KEY_FILE_BYTES_MAX = 100
PASSWORD_BYTES_MAX = 1024
KEYSTORE_BYTES_MAX = 16 * 1024


class OnlyLooking:
    """An address whose key is not here, to plan for a Safe, a timelock or a colleague."""

    def __init__(self, address: bytes) -> None:
        self.address = address

    def sign_transaction(self, unsigned: bytes) -> bytes:
        """Never."""
        raise SignerError(
            f"there is no key of 0x{self.address.hex()} here: only a plan is possible"
        )


def add_key_arguments(parser: argparse.ArgumentParser) -> None:
    """The five ways to name a key, one of which must be taken."""
    group = parser.add_argument_group("the key that pays and signs (one of)")
    one = group.add_mutually_exclusive_group(required=True)
    one.add_argument("--keystore", type=Path, metavar="FILE", help="encrypted JSON, version 3")
    one.add_argument("--key-file", type=Path, metavar="FILE", help="32 bytes in hex, mode 600")
    one.add_argument("--signer", metavar="unix:/PATH", help="a signer behind a Unix socket")
    one.add_argument(
        "--insecure-env-key", metavar="NAME", help="development: hex in that environment variable"
    )
    one.add_argument(
        "--from", dest="sender", type=address, metavar="ADDRESS",
        help="no key: plan for this address (a Safe, a timelock) and print the call data",
    )  # fmt: skip
    group.add_argument(
        "--password-file", type=Path, metavar="FILE",
        help="of the keystore, mode 600; without it you are asked",
    )  # fmt: skip


def open_key(options: argparse.Namespace) -> PayingSigner:
    """The key that the options name.

    Raises:
        ChainConfigError: a file is missing, open to others or damaged, the password is wrong, the
            variable is not set.
        SignerError: the signer does not answer.
    """
    if options.password_file is not None and options.keystore is None:
        raise ChainConfigError("--password-file belongs to --keystore")
    if options.sender is not None:
        return OnlyLooking(options.sender)
    if options.signer is not None:
        return SocketSigner(options.signer)
    if options.keystore is not None:
        raw = read_file(options.keystore, KEYSTORE_BYTES_MAX)
        return decrypt(raw, _password(options.password_file, options.keystore))
    if options.key_file is not None:
        secret = read_file(options.key_file, KEY_FILE_BYTES_MAX, private=True)
        return _from_hex(secret, str(options.key_file))
    name = options.insecure_env_key
    if name not in os.environ:
        raise ChainConfigError(f"the environment has no variable {name}")
    return _from_hex(os.environ[name].encode("utf-8", "surrogateescape"), f"the variable {name}")


def _password(file: Path | None, keystore: Path) -> bytes:
    if file is not None:
        # Editors end a file with a newline; a password does not.
        return read_file(file, PASSWORD_BYTES_MAX, private=True).rstrip(b"\r\n")
    if not sys.stdin.isatty():
        raise ChainConfigError("there is no terminal to ask for the password: use --password-file")
    return getpass.getpass(f"password of {keystore}: ").encode()


def _from_hex(text: bytes, what: str) -> LocalKey:
    try:
        return LocalKey(bytes.fromhex(text.decode("ascii").strip().removeprefix("0x")))
    except (ValueError, ChainConfigError):
        raise ChainConfigError(f"{what} holds no secret of 32 bytes in hex") from None


def read_file(path: Path, bytes_max: int, *, private: bool = False) -> bytes:
    """A whole file; ``private`` ones must be closed to others. Raises ChainConfigError."""
    try:
        with path.open("rb") as file:
            # The open file is asked, not the path: that could be another one by now.
            mode = os.fstat(file.fileno()).st_mode
            if private and mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ChainConfigError(
                    f"{path} is open to others (mode {stat.S_IMODE(mode):o}): chmod 600"
                )
            raw = file.read(bytes_max + 1)
    except OSError as error:
        raise ChainConfigError(f"{path} cannot be read: {error.strerror}") from None
    if len(raw) > bytes_max:
        raise ChainConfigError(f"{path} is longer than {bytes_max} bytes")
    return raw
