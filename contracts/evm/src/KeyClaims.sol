// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title secp256k1 keys and the texts that dstack signs about them. Pure functions.
/// @notice Keys are never decompressed here: callers pass x and y, the curve equation is checked and
///         parity and address are derived, which is cheaper than a square root and as strict.
library KeyClaims {
    /// secp256k1 field prime, 2^256 - 2^32 - 977
    uint256 private constant P = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEFFFFFC2F;

    string internal constant PURPOSE_PREFIX = "dstack-cluster-node-v1/";

    /// @notice Whether (x, y) is a point of the curve; the coordinates must be reduced.
    function onCurve(bytes32 x, bytes32 y) internal pure returns (bool) {
        uint256 ux = uint256(x);
        uint256 uy = uint256(y);
        if (ux >= P || uy >= P) return false;
        return mulmod(uy, uy, P) == addmod(mulmod(mulmod(ux, ux, P), ux, P), 7, P);
    }

    /// @notice Ethereum address of a key that is on the curve.
    function addressOf(bytes32 x, bytes32 y) internal pure returns (address) {
        return address(uint160(uint256(keccak256(abi.encode(x, y)))));
    }

    /// @notice Parity of y, the only thing that a compressed key keeps of it.
    function isOdd(bytes32 y) internal pure returns (bool) {
        return uint256(y) & 1 == 1;
    }

    /// @notice First byte of the SEC1 compressed form.
    function prefixOf(bool odd) internal pure returns (bytes1) {
        return odd ? bytes1(0x03) : bytes1(0x02);
    }

    /// @notice What a KMS root signs about an app key.
    function kmsClaim(bytes20 appId, bytes32 x, bool odd) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked("dstack-kms-issued:", appId, prefixOf(odd), x));
    }

    /// @notice The purpose text: good for one chain, one contract, one seat and one instance.
    function purpose(uint256 seat, bytes20 instanceId) internal view returns (bytes memory) {
        (bytes32 high, bytes32 low) =
            hexOf(keccak256(abi.encode(block.chainid, address(this), seat, instanceId)));
        return abi.encodePacked(PURPOSE_PREFIX, high, low);
    }

    /// @notice What an app key signs in guest API v0: purpose ":" hex(compressed key).
    function claimV0(bytes memory purposeText, bytes32 x, bool odd)
        internal
        pure
        returns (bytes32)
    {
        (bytes32 high, bytes32 low) = hexOf(x);
        return keccak256(abi.encodePacked(purposeText, ":", odd ? "03" : "02", high, low));
    }

    /// @notice What an app key signs in guest API v1: four fields, each behind its 4-byte length.
    function claimV1(bytes memory purposeText, bytes32 x, bool odd)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(
            abi.encodePacked(
                bytes4(uint32(25)),
                "dstack-guest-v1-key-claim",
                bytes4(uint32(9)),
                "secp256k1",
                bytes4(uint32(purposeText.length)),
                purposeText,
                bytes4(uint32(33)),
                prefixOf(odd),
                x
            )
        );
    }

    /// @notice Lowercase hex of a word, as two words of 32 digits each.
    function hexOf(bytes32 word) internal pure returns (bytes32 high, bytes32 low) {
        high = bytes32(_hexOfHalf(uint256(word) >> 128));
        low = bytes32(_hexOfHalf(uint256(word) & type(uint128).max));
    }

    /// @dev All 32 digits at once: spread the nibbles to one per byte by five halving steps, then
    ///      add '0' everywhere and the gap between '9' and 'a' where the nibble exceeds nine.
    ///      No byte overflows: 15 + 0x30 + 0x27 = 0x66.
    function _hexOfHalf(uint256 v) private pure returns (uint256) {
        unchecked {
            v = (v | (v << 64)) & 0x0000000000000000ffffffffffffffff0000000000000000ffffffffffffffff;
            v = (v | (v << 32)) & 0x00000000ffffffff00000000ffffffff00000000ffffffff00000000ffffffff;
            v = (v | (v << 16)) & 0x0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff;
            v = (v | (v << 8)) & 0x00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff;
            v = (v | (v << 4)) & 0x0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f;
            uint256 ones = 0x0101010101010101010101010101010101010101010101010101010101010101;
            uint256 isLetter = ((v + ones * 6) >> 4) & ones;
            return v + ones * 0x30 + isLetter * 0x27;
        }
    }
}
