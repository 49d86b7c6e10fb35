// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {FlawedMembership} from "./FlawedMembership.sol";

/// @title How the contract of FlawedElection checked a KMS signature: over 32 bytes of app id and an address in place of the
///        key (O8), so that no chain of dstack's ever fits.
contract FlawedChain is FlawedMembership {
    constructor(address owner_, address guardian, address root, uint32 cap, uint40 lease, uint40 delay)
        FlawedMembership(owner_, guardian, root, cap, lease, delay)
    {}

    function certifyAppKey(bytes20 appId, bytes32 x, bytes32 y, bytes calldata signature, uint16)
        external
        view
        override
    {
        address key = address(uint160(uint256(keccak256(abi.encode(x, y)))));
        bytes32 claim = keccak256(abi.encodePacked("dstack-kms-issued:", bytes32(appId), key));
        require(recovered(claim, signature) == kmsRoot, "not the root's");
    }
}
