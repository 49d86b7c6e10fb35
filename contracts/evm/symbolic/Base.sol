// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

interface Symbols {
    function assume(bool condition) external pure;
    function prank(address sender) external;
    function fee(uint256 wei_) external view; // view, so that checks may be
    function deal(address account, uint256 wei_) external;
}

/// Checks that halmos runs for all values of their arguments at once. A failed `assert` is a
/// counterexample; a revert only ends a path, so what must not revert is called and asserted.
abstract contract Base {
    Symbols internal constant vm = Symbols(address(uint160(uint256(keccak256("hevm cheat code")))));

    /// The character of a nibble, without a branch: 64 of them in a row must not make 2^64 paths.
    function digit(uint256 nibble) internal pure returns (uint256 character) {
        assembly ("memory-safe") {
            character := add(add(nibble, 0x30), mul(gt(nibble, 9), 0x27)) // '0', and 'a' - 10 - '0'
        }
    }

    /// Lowercase hex of the low `count` bytes of a word, byte by byte.
    function slowHex(uint256 word, uint256 count) internal pure returns (bytes memory out) {
        out = new bytes(2 * count);
        for (uint256 i = 0; i < 2 * count; ++i) {
            out[2 * count - 1 - i] = bytes1(uint8(digit(word >> (4 * i) & 15)));
        }
    }
}
