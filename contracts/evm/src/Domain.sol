// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title The EIP-712 domain of a registry. Its separator is the cluster's id.
library Domain {
    bytes32 private constant TYPEHASH = keccak256(
        "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
    );

    /// @notice The separator on this chain; never cached, so a fork of the chain has its own.
    function separator(address registry) internal view returns (bytes32) {
        return keccak256(
            abi.encode(
                TYPEHASH, keccak256("dstack-cluster"), keccak256("1"), block.chainid, registry
            )
        );
    }

    /// @notice What is signed for a struct in a domain.
    function digest(bytes32 domain, bytes32 structHash) internal pure returns (bytes32 result) {
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(free, hex"1901")
            mstore(add(free, 2), domain)
            mstore(add(free, 34), structHash)
            result := keccak256(free, 66)
        }
    }
}
