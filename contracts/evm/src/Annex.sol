// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IAnnex} from "./IAnnex.sol";
import {IRegistry} from "./IRegistry.sol";
import {Slots} from "./Slots.sol";

/// What the annex asks of the contract that it is a part of.
interface IOwners {
    function ownerOf(uint256 seat) external view returns (address);
    function owner() external view returns (address);
    function guardian() external view returns (address);
}

/// @title The seldom used half of the registry: the way on for a cluster that lost its quorum for good,
///        and the history of weights.
/// @notice Code may not be longer than 24,576 bytes, so these functions stand in a contract of their own,
///         which the registry makes in its constructor and runs, by delegatecall, on its own storage.
///         Called directly it acts on its own, empty storage: nothing.
///
///         Members of more than 2/3 of an epoch's weight open the next one. When more than a third is gone
///         for ever they cannot, and only the registry, whose seats have owners beside the machines,
///         can name another set. That may throw away what was final on lost machines, so it takes
///         three things: seat owners of more than half of the granted weight, a time for objections
///         that nobody can shorten, and no veto of guardian or contract owner in it.
///
///         Votes are counted when they are needed, with the weights of that moment, and never summed
///         up before: a vote that is repeated, withdrawn, or weighed anew cannot be counted twice. A
///         vote names its round; an opened or vetoed recovery ends the round, and all its votes.
contract Annex is Slots, IAnnex {
    /// @inheritdoc IAnnex
    uint40 public immutable recoveryDelay;

    constructor(uint40 recoveryDelaySeconds) {
        recoveryDelay = recoveryDelaySeconds;
    }

    /// @inheritdoc IAnnex
    function pendingRecovery()
        external
        view
        returns (uint64, uint64, uint64, uint64, bytes32, uint256)
    {
        Pending memory p = _pending;
        return (p.round, p.epoch, p.height, p.readyAt, p.blockHash, _recoveries.length);
    }

    /// @inheritdoc IAnnex
    function recovery(uint256 index) external view returns (Recovery memory) {
        Opened memory r = _recoveries[index];
        return Recovery(r.epoch, r.height, r.blockNumber, r.version, r.blockHash, r.digest);
    }

    /// @inheritdoc IAnnex
    function founding(uint256 recoveries)
        external
        view
        returns (uint64 epoch, uint64 version_, uint32 weight)
    {
        if (recoveries == 0) return (0, _launch.version, _launch.weight);
        Opened storage r = _recoveries[recoveries - 1];
        return (r.epoch, r.version, _recoveredWeight[recoveries - 1]);
    }

    /// @inheritdoc IAnnex
    function voteRecovery(uint256 seat, uint64 epoch, uint64 height, bytes32 blockHash) external {
        if (_nodes[seat].weight == 0) revert IRegistry.NoSuchSeat();
        if (_self().ownerOf(seat) != msg.sender) revert IRegistry.NotSeatOwner();
        uint64 round = _pending.round;
        if (epoch != 0) _requireNewEpoch(epoch);
        _recoveryVote[seat] = epoch == 0 ? bytes32(0) : _proposal(round, epoch, height, blockHash);
        emit RecoveryVoted(seat, round, epoch, height, blockHash);
    }

    /// @inheritdoc IAnnex
    /// @dev Announces what has a majority; opens what was announced and still has one, and a set.
    function recover(uint64 epoch, uint64 height, bytes32 blockHash, uint256[] calldata seats)
        external
    {
        if (_launch.blockNumber == 0) revert IRegistry.NothingToLaunch();
        _requireNewEpoch(epoch);
        Pending memory p = _pending;
        _requireMajority(_proposal(p.round, epoch, height, blockHash), seats);
        bool announced =
            p.readyAt != 0 && p.epoch == epoch && p.height == height && p.blockHash == blockHash;
        if (announced && block.timestamp < p.readyAt) revert TooEarly(p.readyAt);
        uint32 weight = _activeWeight;
        // Nobody could object to a set that came about in the last moment: put all out but one, and that
        // one is the cluster. Who has less than a third of what was announced is no quorum of half of it.
        if (!announced || 2 * uint256(weight) < _announcedWeight) {
            // A majority that changed its mind waits anew. Nobody else can delay what is announced
            // already: saying it again changes nothing, and weights that halve do so a few times only.
            uint64 readyAt = uint64(block.timestamp) + recoveryDelay;
            _pending = Pending(p.round, epoch, height, readyAt, blockHash);
            _announcedWeight = weight;
            emit RecoveryAnnounced(p.round, epoch, height, blockHash, readyAt);
            return;
        }
        if (weight == 0) revert IRegistry.NothingToLaunch();
        _recoveredWeight[_recoveries.length] = weight;
        ++_recoveryCount;
        _recoveries.push(Opened(epoch, height, uint64(block.number), _version, blockHash, _digest));
        _endRound();
        emit RecoveryOpened(p.round, epoch, height, blockHash, _version, _digest);
    }

    /// @inheritdoc IAnnex
    function vetoRecovery() external {
        if (msg.sender != _self().guardian() && msg.sender != _self().owner()) {
            revert IRegistry.NotGuardian();
        }
        emit RecoveryVetoed(_pending.round);
        _endRound();
    }

    // --------------------------------------------------------------- history

    /// @inheritdoc IAnnex
    function weightAt(uint256 seat, uint48 blockNumber) external view returns (uint32 weight) {
        uint256 at = _changeUpTo(blockNumber);
        Node storage n = _nodes[seat];
        weight = n.status == ACTIVE ? n.weight : 0;
        uint256 since = n.since;
        while (since > at) {
            (weight, since) = (_past[since].weightBefore, _past[since].sinceBefore);
        }
    }

    /// @inheritdoc IAnnex
    function totalWeightAt(uint48 blockNumber) external view returns (uint32) {
        return _past[_changeUpTo(blockNumber)].total;
    }

    /// @inheritdoc IAnnex
    function changeOf(uint64 version_)
        external
        view
        returns (uint64 blockNumber, uint32 total, uint64 previous)
    {
        Past memory past = _past[version_];
        return (past.blockNumber, past.total, past.previous);
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
        if (2 * weight <= _grantedWeight) revert NoMajority(weight, _grantedWeight);
    }

    function _proposal(uint64 round, uint64 epoch, uint64 height, bytes32 blockHash)
        private
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(round, epoch, height, blockHash));
    }

    /// @dev The last change of who votes at or below a block; 0 for none.
    function _changeUpTo(uint48 blockNumber) private view returns (uint256 at) {
        at = _changeVersion;
        while (at != 0 && _past[at].blockNumber > blockNumber) at = _past[at].previous;
    }

    /// @dev By delegatecall this is the registry, whose owners OpenZeppelin's contracts keep.
    function _self() private view returns (IOwners) {
        return IOwners(address(this));
    }
}
