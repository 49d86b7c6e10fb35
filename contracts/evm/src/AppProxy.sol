// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ERC1967Proxy} from "@openzeppelin/contracts/proxy/ERC1967/ERC1967Proxy.sol";

/// @title The address of an app: OpenZeppelin's ERC-1967 proxy, under a name of ours for its artifact.
/// @dev Deploy with (implementation, abi.encodeCall(AppAuth.initialize, (owner, registry))), so that it
///      is never without an owner.
contract AppProxy is ERC1967Proxy {
    constructor(address implementation, bytes memory call) ERC1967Proxy(implementation, call) {}
}
