// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// The few commands of forge's machine that these tests use, in place of a library.
interface Vm {
    struct Wallet {
        address addr;
        uint256 publicKeyX;
        uint256 publicKeyY;
        uint256 privateKey;
    }

    struct Log {
        bytes32[] topics;
        bytes data;
        address emitter;
    }

    function addr(uint256 privateKey) external pure returns (address);
    function createWallet(uint256 privateKey) external returns (Wallet memory);
    function sign(uint256 privateKey, bytes32 hash)
        external
        pure
        returns (uint8 v, bytes32 r, bytes32 s);
    function deployCode(string calldata artifact, bytes calldata constructorArgs)
        external
        returns (address);
    function prank(address sender) external;
    function warp(uint256 timestamp) external;
    function getBlockTimestamp() external view returns (uint256);
    function roll(uint256 blockNumber) external;
    function chainId(uint256 id) external;
    function deal(address account, uint256 wei_) external;
    function expectRevert() external;
    function expectRevert(bytes4 selector) external;
    function expectRevert(bytes calldata data) external;
    function expectEmit(address emitter) external;
    function recordLogs() external;
    function getRecordedLogs() external returns (Log[] memory);
    function load(address target, bytes32 slot) external view returns (bytes32);
    function assume(bool condition) external pure;
    function snapshotGasLastCall(string calldata name) external returns (uint256 gasUsed);
}

abstract contract Cheats {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    /// forge asks a test contract whether it failed; a revert says so already
    bool public IS_TEST = true;

    error NotEqual(string what, bytes32 have, bytes32 want);

    function eq(uint256 have, uint256 want, string memory what) internal pure {
        if (have != want) revert NotEqual(what, bytes32(have), bytes32(want));
    }

    function eq(bytes32 have, bytes32 want, string memory what) internal pure {
        if (have != want) revert NotEqual(what, have, want);
    }

    function eq(address have, address want, string memory what) internal pure {
        eq(uint256(uint160(have)), uint256(uint160(want)), what);
    }

    function eqText(string memory have, string memory want, string memory what) internal pure {
        eq(keccak256(bytes(have)), keccak256(bytes(want)), what);
    }

    function yes(bool condition, string memory what) internal pure {
        require(condition, what);
    }
}
