// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IRegistry} from "./IRegistry.sol";
import {Ledger} from "./Ledger.sol";

/// @title The way on for a cluster that lost its quorum for good.
/// @notice Members of more than 2/3 of an epoch's weight open the next one. When more than a third is gone
///         for ever they cannot, and only the registry, whose seats have owners beside the machines,
///         can name another set. That may throw away what was final on lost machines, so it takes
///         three things: seat owners of more than half of the granted weight, a time for objections
///         that nobody can shorten, and no veto of guardian or contract owner in it.
///
///         Votes are counted when they are needed, with the weights of that moment, and never summed
///         up before: a vote that is repeated, withdrawn, or weighed anew cannot be counted twice. A
///         vote names its round; an opened or vetoed recovery ends the round, and all its votes.
abstract contract BreakGlass is Ledger {
    struct Pending {
        uint64 round;
        uint64 epoch;
        uint64 height;
        uint64 readyAt; // unix seconds; 0 while none is announced
        bytes32 blockHash;
    }

    /// @notice Time for objections, in seconds; fixed, or a stolen owner key could end it.
    uint40 public immutable recoveryDelay;

    Pending private _pending;
    Recovery[] private _recoveries;
    mapping(uint256 seat => bytes32 proposal) internal _recoveryVote;

    constructor(uint40 recoveryDelaySeconds) {
        recoveryDelay = recoveryDelaySeconds;
    }

    /// @inheritdoc IRegistry
    function pendingRecovery()
        external
        view
        returns (uint64, uint64, uint64, uint64, bytes32, uint256)
    {
        Pending memory p = _pending;
        return (p.round, p.epoch, p.height, p.readyAt, p.blockHash, _recoveries.length);
    }

    /// @inheritdoc IRegistry
    function recovery(uint256 index) external view returns (Recovery memory) {
        return _recoveries[index];
    }

    function _vote(uint256 seat, uint64 epoch, uint64 height, bytes32 blockHash) internal {
        uint64 round = _pending.round;
        if (epoch != 0) _requireNewEpoch(epoch);
        _recoveryVote[seat] = epoch == 0 ? bytes32(0) : _proposal(round, epoch, height, blockHash);
        emit RecoveryVoted(seat, round, epoch, height, blockHash);
    }

    /// @dev Announces what has a majority; opens what was announced and still has one.
    function _advance(uint64 epoch, uint64 height, bytes32 blockHash, uint256[] calldata seats)
        internal
    {
        _requireNewEpoch(epoch);
        Pending memory p = _pending;
        _requireMajority(_proposal(p.round, epoch, height, blockHash), seats);
        bool announced =
            p.readyAt != 0 && p.epoch == epoch && p.height == height && p.blockHash == blockHash;
        if (!announced) {
            // A majority that changed its mind waits anew. Nobody can delay what is announced
            // already: saying it again leads to the branch below.
            uint64 readyAt = uint64(block.timestamp) + recoveryDelay;
            _pending = Pending(p.round, epoch, height, readyAt, blockHash);
            emit RecoveryAnnounced(p.round, epoch, height, blockHash, readyAt);
            return;
        }
        if (block.timestamp < p.readyAt) revert TooEarly(p.readyAt);
        if (activeWeight == 0) revert NothingToLaunch();
        _recoveries.push(Recovery(epoch, height, uint64(block.number), version, blockHash, digest));
        _endRound();
        emit RecoveryOpened(p.round, epoch, height, blockHash, version, digest);
    }

    function _veto() internal {
        emit RecoveryVetoed(_pending.round);
        _endRound();
    }

    function _endRound() private {
        _pending = Pending(_pending.round + 1, 0, 0, 0, 0);
    }

    function _requireNewEpoch(uint64 epoch) private view {
        uint256 count = _recoveries.length;
        uint64 last = count == 0 ? 0 : _recoveries[count - 1].epoch;
        if (epoch <= last) revert StaleEpoch(last);
    }

    /// @dev Seats count by what was granted to them, whether or not their machine is lost.
    function _requireMajority(bytes32 proposal, uint256[] calldata seats) private view {
        uint256 weight = 0;
        uint256 previous = 0;
        for (uint256 i = 0; i < seats.length; ++i) {
            uint256 seat = seats[i];
            if (seat <= previous) revert NotAscending();
            previous = seat;
            if (_recoveryVote[seat] == proposal) weight += _nodes[seat].weight;
        }
        if (2 * weight <= grantedWeight) revert NoMajority(weight, grantedWeight);
    }

    function _proposal(uint64 round, uint64 epoch, uint64 height, bytes32 blockHash)
        private
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(round, epoch, height, blockHash));
    }
}
