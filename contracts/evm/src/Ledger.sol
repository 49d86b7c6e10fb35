// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Checkpoints} from "@openzeppelin/contracts/utils/structs/Checkpoints.sol";

import {IRegistry} from "./IRegistry.sol";

/// @title Seats' rows, their weights over time, and the rolling digest.
/// @notice Every change of a row ends in `_commit`, which alone touches weights, version and digest;
///         so "active weight is the sum over ACTIVE seats" and "the digest tells the whole history"
///         hold by construction.
abstract contract Ledger is IRegistry {
    using Checkpoints for Checkpoints.Trace208;

    uint8 internal constant EMPTY = 0;
    uint8 internal constant ACTIVE = 1;
    uint8 internal constant INACTIVE = 2;

    /// @dev Three words and a string. The first word holds all that a check of a vote needs.
    struct Node {
        address signer;
        uint40 expiresAt;
        uint16 rootEpoch;
        uint32 weight; // of the seat; zero means that there is no such seat
        uint8 status;
        bytes32 keyX;
        bytes20 instanceId;
        uint48 incarnation; // outlives the node: an old machine can never come back with its number
        uint32 appIndex;
        uint8 scheme;
        bool keyOdd;
        string endpoint;
    }

    struct Launch {
        uint64 blockNumber;
        uint64 version;
        uint32 weight;
        bool transfersAllowed; // lives here to fill the word; nothing to do with the launch
        bytes32 digest;
    }

    /// @dev The state right after the last commit that changed who votes, by which key or weight.
    struct Change {
        uint64 blockNumber;
        uint64 version;
        bytes32 digest;
    }

    // Slots 0 to 6 are what light clients prove against a block header: their place is part of the
    // interface (artifacts/Registry.json lists it). Keep this contract first in the inheritance.

    /// slot 0
    uint64 public override version;
    uint32 public override activeWeight;
    uint32 public override grantedWeight;
    uint32 internal _seatCount;
    uint32 internal _liveSeats;
    uint40 internal _leaseSeconds;
    uint16 public override currentRootEpoch;
    /// slot 1
    bytes32 public override digest;
    /// slots 2 and 3
    Launch internal _launch;
    /// slots 4 and 5
    Change private _lastChange;

    /// slot 6
    mapping(uint256 seat => Node) internal _nodes;
    mapping(uint256 seat => Checkpoints.Trace208) private _seatWeight;
    Checkpoints.Trace208 private _totalWeight;

    /// @inheritdoc IRegistry
    function seatCount() external view returns (uint256) {
        return _seatCount;
    }

    /// @inheritdoc IRegistry
    function weightAt(uint256 seat, uint48 blockNumber) external view returns (uint32) {
        return uint32(_seatWeight[seat].upperLookupRecent(blockNumber));
    }

    /// @inheritdoc IRegistry
    function totalWeightAt(uint48 blockNumber) external view returns (uint32) {
        return uint32(_totalWeight.upperLookupRecent(blockNumber));
    }

    /// @inheritdoc IRegistry
    function launched() external view returns (uint64, uint64, bytes32, uint32) {
        return (_launch.blockNumber, _launch.version, _launch.digest, _launch.weight);
    }

    /// @inheritdoc IRegistry
    function lastChange() external view returns (uint64, uint64, bytes32) {
        return (_lastChange.blockNumber, _lastChange.version, _lastChange.digest);
    }

    /// @dev Follows a change of the row: weights, then one digest step.
    /// @param rekeyed a node that is still ACTIVE got another key
    function _commit(uint256 seat, bool rekeyed) internal {
        Node storage n = _nodes[seat];
        uint32 weight = n.weight;
        uint8 status = n.status;
        uint32 before = uint32(_seatWeight[seat].latest());
        uint32 counts = status == ACTIVE ? weight : 0;
        if (counts != before) {
            // cannot overflow: the sum of all granted weights fits 32 bits
            uint32 total = activeWeight - before + counts;
            activeWeight = total;
            _seatWeight[seat].push(uint48(block.number), counts);
            _totalWeight.push(uint48(block.number), total);
        }
        uint64 v = version + 1;
        version = v;
        (bytes32 keyX, bool keyOdd, bytes20 instanceId) = (n.keyX, n.keyOdd, n.instanceId);
        bytes32 rolled = keccak256(
            abi.encode(digest, v, block.number, seat, keyX, keyOdd, instanceId, weight, status)
        );
        digest = rolled;
        if (rekeyed || counts != before) _lastChange = Change(uint64(block.number), v, rolled);
        emit NodeChanged(seat, v, keyX, keyOdd, instanceId, weight, status);
    }

    /// @dev Replaces a seat's weight in the sum of granted weights; 0 for none, before or after.
    function _regrant(uint32 before, uint32 afterwards) internal {
        uint256 granted = uint256(grantedWeight) - before + afterwards;
        if (granted > type(uint32).max) revert BadWeight();
        grantedWeight = uint32(granted);
    }
}
