// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IRegistry} from "./IRegistry.sol";
import {TrustAnchors} from "./TrustAnchors.sol";

/// @title What the contract of certificates asks: whose votes count, and which seat answers for a key.
/// @notice A key answers on its seat, and for a while after it lost its vote there: or a liar would leave
///         before the evidence comes. When it lost it stands in the history of weights, for the key in a
///         row, and is written down when that key makes way for another.
abstract contract Electorate is TrustAnchors {
    /// Evidence is found, passed on and shown in that time, whatever is out or away: decision 17.
    uint40 private constant EVIDENCE_WINDOW = 14 days;

    /// @inheritdoc IRegistry
    function electorate(bytes calldata list, uint256 stride, uint64 version_)
        external
        view
        returns (uint256[] memory rows, uint32, uint16, uint16)
    {
        uint256 count = list.length / stride;
        rows = new uint256[](count);
        // most nodes share app and root with the one before: asked once, kept
        uint256 known = type(uint256).max;
        bool live = false;
        unchecked {
            for (uint256 i = 0; i < count; ++i) {
                uint256 seat;
                // below list.length: no check of bounds is needed
                assembly ("memory-safe") {
                    seat := shr(224, calldataload(add(list.offset, mul(i, stride))))
                }
                uint256 word = _firstWord(seat);
                if (word >> 248 != ACTIVE || uint32(word >> 192) > version_) continue;
                uint256 anchors = uint24(word >> 224);
                if (known != anchors) {
                    live = _anchorsLive(uint8(anchors >> 16), uint16(anchors));
                    known = anchors;
                }
                if (live) rows[i] = uint192(word);
            }
        }
        return (rows, _activeWeight, _activeSeats, _recoveryCount);
    }

    /// @inheritdoc IRegistry
    function answers(address key)
        external
        view
        returns (uint32 seat, uint32 weight, bool holds, uint32 active, uint16 seatsActive)
    {
        Sitting memory s = _sittings[key];
        Node storage n = _nodes[s.seat];
        holds = n.signer == key && n.status == ACTIVE;
        if (n.signer == key) {
            (s.until, s.rootEpoch, s.appIndex) = (_answersUntil(n), n.rootEpoch, n.appIndex);
        }
        if (block.timestamp < s.until && _anchorsLive(s.appIndex, s.rootEpoch)) seat = s.seat;
        return (seat, _votes(n), holds, _activeWeight, _activeSeats);
    }

    /// @inheritdoc IRegistry
    function evidenceWindow() external pure returns (uint40) {
        return EVIDENCE_WINDOW;
    }

    /// @dev The key of a row that makes way, or was stopped before, answers for a while.
    function _leave(Node storage n) internal {
        uint40 until =
            n.status == ACTIVE ? uint40(block.timestamp) + EVIDENCE_WINDOW : _answersUntil(n);
        Sitting storage s = _sittings[n.signer];
        (s.until, s.rootEpoch, s.appIndex) = (until, n.rootEpoch, n.appIndex);
    }

    /// @dev How long the key in a row answers, and with it all that left the seat before. A seat that never
    ///      had a node counts from the beginning of time: it answers for nothing.
    function _answersUntil(Node storage n) internal view returns (uint40) {
        if (n.status == ACTIVE) return type(uint40).max;
        return _past[n.since].time + EVIDENCE_WINDOW;
    }
}
