// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IRegistry} from "./IRegistry.sol";
import {Slots} from "./Slots.sol";

/// @title Seats' rows, their weights over time, and the rolling digest.
/// @notice Every change of a row ends in `_commit`, which alone touches weights, version and digest;
///         so "active weight is the sum over ACTIVE seats" and "the digest tells the whole history"
///         hold by construction.
abstract contract Ledger is Slots, IRegistry {
    /// @inheritdoc IRegistry
    function version() external view returns (uint64) {
        return _version;
    }

    /// @inheritdoc IRegistry
    function digest() external view returns (bytes32) {
        return _digest;
    }

    /// @inheritdoc IRegistry
    function activeWeight() external view returns (uint32) {
        return _activeWeight;
    }

    /// @inheritdoc IRegistry
    function activeSeats() external view returns (uint16) {
        return _activeSeats;
    }

    /// @inheritdoc IRegistry
    function grantedWeight() external view returns (uint32) {
        return _grantedWeight;
    }

    /// @inheritdoc IRegistry
    function rules() external view returns (address) {
        return _rules;
    }

    /// @inheritdoc IRegistry
    function certificates() external view returns (address) {
        return _certificates;
    }

    /// @inheritdoc IRegistry
    function seatCount() external view returns (uint256) {
        return _seatCount;
    }

    /// @inheritdoc IRegistry
    function launched() external view returns (uint64, uint64, bytes32, uint32) {
        return (_launch.blockNumber, _launch.version, _launch.digest, _launch.weight);
    }

    /// @inheritdoc IRegistry
    function lastChange() external view returns (uint64, uint64, bytes32) {
        return (_changeBlock, _changeVersion, _voters());
    }

    /// @dev Follows a change of the row: weights, then one digest step.
    /// @param before with which weight the seat voted until now
    /// @param rekeyed a node that is still ACTIVE got another key
    function _commit(uint256 seat, uint32 before, bool rekeyed) internal {
        Node storage n = _nodes[seat];
        (uint32 weight, uint8 status, uint32 since) = (n.weight, n.status, n.since);
        uint32 counts = status == ACTIVE ? weight : 0;
        // fields of one word are read together, and written together below
        (uint32 last, uint32 changed, uint32 total) = (_version, _changeVersion, _activeWeight);
        uint16 seats = _activeSeats;
        if (last == type(uint32).max) revert BadWeight();
        uint32 v = last + 1;
        (bytes32 keyX, bool keyOdd, bytes20 instanceId) = (n.keyX, n.form & 1 == 1, n.instanceId);
        bytes32 digest_ = _digest;
        bytes32 rolled = keccak256(
            abi.encode(digest_, v, block.number, seat, keyX, keyOdd, instanceId, weight, status)
        );
        _digest = rolled;
        if (rekeyed || counts != before) {
            // cannot overflow: the sum of all granted weights fits 32 bits
            total = total - before + counts;
            if (before == 0) ++seats;
            if (counts == 0) --seats;
            _past[v] = Past({
                blockNumber: uint48(block.number),
                time: uint40(block.timestamp),
                total: total,
                previous: changed,
                seat: uint32(seat),
                weightBefore: before,
                sinceBefore: since
            });
            n.since = v;
            (_version, _changeVersion, _changeBlock) = (v, v, uint48(block.number));
            (_activeWeight, _activeSeats) = (total, seats);
        } else {
            if (last == changed) _changeDigest = digest_;
            _version = v;
        }
        emit NodeChanged(seat, v, keyX, keyOdd, instanceId, weight, status);
    }

    /// @dev The digest right after the last change of who votes: what tells one set of voters from another.
    function _voters() internal view returns (bytes32) {
        return _changeVersion == _version ? _digest : _changeDigest;
    }

    /// @dev The weight with which a seat votes now: what `_commit` wants to know of before.
    function _votes(Node storage n) internal view returns (uint32) {
        return n.status == ACTIVE ? n.weight : 0;
    }

    /// @dev Replaces a seat's weight in the sum of granted weights; 0 for none, before or after.
    function _regrant(uint32 before, uint32 afterwards) internal {
        uint256 granted = uint256(_grantedWeight) - before + afterwards;
        if (granted > type(uint32).max) revert BadWeight();
        _grantedWeight = uint32(granted);
    }
}
