// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Boundary} from "./Boundary.sol";
import {Domain} from "./Domain.sol";
import {ICertificates} from "./ICertificates.sol";

/// What the court asks of the registry, and the one thing that it may do there.
interface IRegistryForCertificates {
    function owner() external view returns (address);
    function electorate(bytes calldata list, uint256 stride, uint64 version)
        external
        view
        returns (uint256[] memory rows, uint32 active, uint16 seatsActive, uint16 recoveries);
    function founding(uint256 recoveries)
        external
        view
        returns (uint64 epoch, uint64 version, uint32 weight);
    function changeOf(uint64 version)
        external
        view
        returns (uint64 blockNumber, uint32 total, uint64 previous);
    function lastChange() external view returns (uint64 blockNumber, uint64 version, bytes32 digest);
    function answers(address key)
        external
        view
        returns (uint32 seat, uint32 weight, bool holds, uint32 active, uint16 seatsActive);
    function suspend(uint256 seat, uint40 until) external returns (bool);
}

/// @title What the cluster says about itself, checked on chain: leaders, deposed leaders, liars.
/// @notice Whose votes count, and how much, is never the submitter's choice. An epoch is bound to one
///         state of the registry: epoch 0 by the launch, a recovered one by the recovery, any other by
///         `openEpoch`. A signer counts with the weight that it had there, and only while its row still
///         says the same: a key that was replaced since, on a seat that was sold, put out or weighed
///         anew, counts nothing, and the total stays what it was. So changes make a quorum harder to
///         reach and never easier. docs/decisions tells why, and what cannot be attributed.
contract Certificates is ICertificates {
    bytes32 private constant NOTARIZE_TYPEHASH =
        keccak256("Notarize(uint64 epoch,uint64 term,uint64 index,bytes32 blockHash)");
    bytes32 private constant NULLIFY_TYPEHASH =
        keccak256("Nullify(uint64 epoch,uint64 term,uint64 index,uint8 reason)");
    bytes32 private constant FINALIZE_TYPEHASH =
        keccak256("Finalize(uint64 epoch,uint64 term,uint64 index,bytes32 blockHash)");
    uint8 private constant NOTARIZE = 1;
    uint8 private constant NULLIFY = 2;
    uint8 private constant FINALIZE = 3;

    /// From this reason on a member did not accuse by itself: 10 it stepped down, 11 others complained.
    uint256 private constant REASON_STEP_DOWN = 10;
    uint256 private constant REASONS = 12;
    uint256 private constant PART_BYTES = 69;
    uint256 private constant PARTS_MAX = 256;
    uint256 private constant HALF_ORDER =
        0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    struct Snapshot {
        uint64 version;
        uint32 weight; // of all who voted then; 0: not known
        uint16 recoveries;
    }

    struct Leadership {
        uint64 epoch;
        uint64 term;
        uint64 index;
        uint32 seat;
        bytes32 blockHash;
    }

    /// @dev What followed for the seat of a key that signed a conflicting pair.
    enum Verdict {
        NONE,
        MARKED,
        SUSPENDED
    }

    /// @dev What the votes of a certificate are for.
    struct Voted {
        bytes32 domain;
        bytes32 typehash;
        uint64 epoch;
        uint64 term;
        uint64 index;
        bytes32 blockHash; // zero for a nullification
    }

    /// @dev What the registry knows of the signers of a certificate, and of one seat more.
    struct Tally {
        uint256 weight;
        uint256 accusing;
        uint256 row; // of that one seat
        uint256 active;
        uint256 seats;
    }

    /// @notice The registry whose cluster this is.
    IRegistryForCertificates public immutable registry;

    Policy private _policy;
    Leadership private _leader;
    mapping(uint64 epoch => Snapshot) private _snapshots;
    uint256 private _bound; // by a boundary last: recoveries + 1 << 32, weight
    mapping(address key => Verdict) private _verdicts;
    mapping(uint256 seat => uint256 token) private _deposed;

    constructor(address registry_) {
        registry = IRegistryForCertificates(registry_);
        // A network that failed deposes honest leaders too; two votes that contradict each other do not
        // happen to anybody.
        _setPolicy(Policy(Effect.MARK, Effect.SUSPEND, 1 days, type(uint40).max, 3));
    }

    // -------------------------------------------------------------- anybody

    /// @inheritdoc ICertificates
    function openFounding() public returns (uint64 epoch) {
        Snapshot memory s;
        s.recoveries = _recoveries();
        (epoch, s.version, s.weight) = registry.founding(s.recoveries);
        if (s.weight == 0) revert UnknownEpoch(epoch);
        _snapshots[epoch] = s;
        emit EpochOpened(epoch, s.version, s.weight);
    }

    /// @inheritdoc ICertificates
    function openEpoch(
        bytes calldata boundary,
        bytes calldata body,
        bytes calldata headers,
        bytes calldata parts,
        uint64 version,
        uint64 next
    ) external {
        bytes32 domain = Domain.separator(address(registry));
        (uint64 epoch, uint64 chainBlock) = _record(boundary, body);
        uint16 recoveries = _recoveries();
        Snapshot memory s = _snapshots[epoch];
        if (s.weight != 0 && s.recoveries == recoveries) revert EpochKnown(epoch);
        uint64 founded;
        (founded, s.version, s.weight) = registry.founding(recoveries);
        if (epoch <= founded || s.weight == 0) revert UnknownEpoch(epoch);
        s.recoveries = recoveries;
        // no chain block: the members that launch or recovery named go on
        if (chainBlock != 0) {
            // In some states of the registry a few are a quorum of themselves: before the founding, when
            // seats came one by one, or after leases ran out and those few swept all others. Whoever has
            // less than a third of the weight that was bound last is no quorum of half of it.
            uint256 branch = uint256(recoveries) + 1 << 32;
            uint256 last = _bound;
            if (last < branch) last = s.weight;
            (s.version, s.weight) = _change(chainBlock, version, next);
            if (2 * uint256(s.weight) < uint32(last)) {
                if (msg.sender != registry.owner()) revert NotOwner();
            }
            _bound = branch | s.weight;
        }

        Voted memory v = _descent(domain, epoch, Boundary.blockHash(domain, boundary), headers);
        _requireQuorum(_tally(s, v, parts, 0), s);
        _snapshots[epoch] = s;
        emit EpochOpened(epoch, s.version, s.weight);
    }

    /// @inheritdoc ICertificates
    function recordLeader(bytes calldata header, bytes calldata parts) external {
        if (header.length != Boundary.HEADER_BYTES) revert BadHeader();
        (uint64 epoch, uint64 term, uint64 index, uint64 seat) = Boundary.position(header);
        if (seat > type(uint32).max) revert BadHeader();
        (uint256 token, uint256 last) = (_token(epoch, term), _token(_leader.epoch, _leader.term));
        if (token < last || (token == last && index <= _leader.index)) revert StaleLeader();
        bytes32 domain = Domain.separator(address(registry));
        bytes32 hash = Boundary.blockHash(domain, header);
        Snapshot memory s = _snapshotOf(epoch);
        Voted memory v = Voted(domain, FINALIZE_TYPEHASH, epoch, term, index, hash);
        _requireQuorum(_tally(s, v, parts, 0), s);
        _leader = Leadership(epoch, term, index, uint32(seat), hash);
        emit LeaderRecorded(epoch, term, seat, index, hash);
    }

    /// @inheritdoc ICertificates
    function depose(
        uint64 epoch,
        uint64 term,
        uint64 index,
        bytes calldata parts,
        bytes calldata header,
        bytes32 r,
        bytes32 vs
    ) external {
        bytes32 domain = Domain.separator(address(registry));
        Snapshot memory s = _snapshotOf(epoch);
        (uint32 seat, bytes32 proposal) = _accused(domain, epoch, term, header);
        Voted memory v = Voted(domain, NULLIFY_TYPEHASH, epoch, term, index, 0);
        Tally memory t = _tally(s, v, parts, seat);
        _requireQuorum(t, s);
        if (3 * t.accusing <= s.weight) revert NotAccused(t.accusing, s.weight);
        if (t.row == 0) revert NotSeated(seat);
        if (proposal != 0 && _recover(proposal, r, vs, seat) != address(uint160(t.row))) {
            revert BadSignature(seat);
        }

        Policy memory p = _policy;
        bool suspends = p.deposal == Effect.SUSPEND;
        if (suspends) {
            uint256 left = t.active - (t.row >> 160);
            // a suspended seat changes its row: no certificate of this epoch counts against it again
            if (3 * left <= 2 * uint256(s.weight) || t.seats <= p.minSeats) {
                revert BelowMinimum(left, t.seats - 1);
            }
            registry.suspend(seat, _until(p.deposalSeconds));
        } else {
            if (_token(epoch, term) <= _deposed[seat]) revert AlreadyMarked();
            _deposed[seat] = _token(epoch, term);
        }
        emit LeaderDeposed(epoch, term, seat, index, suspends);
    }

    /// @inheritdoc ICertificates
    function proveConflict(uint256 seat, Vote calldata first, Vote calldata second) external {
        if (!_contradict(first, second)) revert NoConflict();
        bytes32 domain = Domain.separator(address(registry));
        address key = _signer(domain, first, seat);
        if (_signer(domain, second, seat) != key) revert BadSignature(seat);
        (uint32 its, uint32 weight, bool holds, uint32 active, uint16 seatsActive) =
            registry.answers(key);
        if (its == 0 || its != seat) revert NotSeated(seat);
        Verdict before = _verdicts[key];
        // A key that returns is put out again. For one that is gone its seat is put out once: it is
        // another key's now, or the owner's who may have lifted the suspension.
        if (before == Verdict.SUSPENDED && !holds) revert AlreadyMarked();

        Policy memory p = _policy;
        uint256 left = active - weight;
        bool enough = weight == 0 || (3 * left > 2 * uint256(active) && seatsActive > p.minSeats);
        bool suspends = p.conflict == Effect.SUSPEND && enough;
        // a burnt seat has nothing to lose
        if (suspends) suspends = registry.suspend(seat, _until(p.conflictSeconds));
        if (!suspends && before != Verdict.NONE) revert AlreadyMarked();
        _verdicts[key] = suspends ? Verdict.SUSPENDED : Verdict.MARKED;
        emit ConflictProven(seat, key, first.epoch, first.term, suspends);
    }

    // ------------------------------------------------------ registry's owner

    /// @inheritdoc ICertificates
    function setPolicy(Policy calldata policy_) external {
        if (msg.sender != registry.owner()) revert NotOwner();
        _setPolicy(policy_);
    }

    // ---------------------------------------------------------------- views

    /// @inheritdoc ICertificates
    function policy() external view returns (Policy memory) {
        return _policy;
    }

    /// @inheritdoc ICertificates
    function leader() external view returns (uint64, uint64, uint64, uint32, bytes32) {
        Leadership memory l = _leader;
        return (l.epoch, l.term, l.index, l.seat, l.blockHash);
    }

    /// @inheritdoc ICertificates
    function snapshot(uint64 epoch) external view returns (uint64, uint32, uint16) {
        Snapshot memory s = _snapshots[epoch];
        return (s.version, s.weight, s.recoveries);
    }

    /// @inheritdoc ICertificates
    function lastDeposed(uint256 seat) external view returns (uint64 epoch, uint64 term) {
        return (uint64(_deposed[seat] >> 64), uint64(_deposed[seat]));
    }

    /// @inheritdoc ICertificates
    function convicted(address key) external view returns (bool) {
        return _verdicts[key] != Verdict.NONE;
    }

    // ------------------------------------------------------- what was signed

    function _digest(
        bytes32 domain,
        bytes32 typehash,
        uint64 epoch,
        uint64 term,
        uint64 index,
        bytes32 last
    ) private pure returns (bytes32) {
        return Domain.digest(domain, keccak256(abi.encode(typehash, epoch, term, index, last)));
    }

    function _signer(bytes32 domain, Vote calldata v, uint256 seat) private pure returns (address) {
        bytes32 typehash = NULLIFY_TYPEHASH;
        if (v.kind == NOTARIZE) typehash = NOTARIZE_TYPEHASH;
        else if (v.kind == FINALIZE) typehash = FINALIZE_TYPEHASH;
        bytes32 last = v.kind == NULLIFY ? bytes32(uint256(v.reason)) : v.blockHash;
        bytes32 digest = _digest(domain, typehash, v.epoch, v.term, v.index, last);
        return _recover(digest, v.r, v.vs, seat);
    }

    /// @dev The three pair rules.
    function _contradict(Vote calldata a, Vote calldata b) private pure returns (bool) {
        if (a.epoch != b.epoch || a.term != b.term) return false;
        if (a.kind == b.kind) {
            return (a.kind == NOTARIZE || a.kind == FINALIZE) && a.index == b.index
                && a.blockHash != b.blockHash;
        }
        if (a.kind == NULLIFY && b.kind == FINALIZE) return a.index <= b.index;
        if (a.kind == FINALIZE && b.kind == NULLIFY) return b.index <= a.index;
        return false;
    }

    /// @dev Who is accused, and what must carry the accused's own signature (zero: nothing more).
    function _accused(bytes32 domain, uint64 epoch, uint64 term, bytes calldata header)
        private
        view
        returns (uint32 seat, bytes32 proposal)
    {
        if (header.length == 0) {
            if (_token(epoch, term) != _token(_leader.epoch, _leader.term)) revert LeaderUnknown();
            return (_leader.seat, 0);
        }
        if (header.length != Boundary.HEADER_BYTES) revert BadHeader();
        (uint64 e, uint64 t, uint64 index, uint64 proposer) = Boundary.position(header);
        if (e != epoch || t != term || proposer > type(uint32).max) revert BadHeader();
        bytes32 hash = Boundary.blockHash(domain, header);
        return (uint32(proposer), _digest(domain, NOTARIZE_TYPEHASH, epoch, term, index, hash));
    }

    // ----------------------------------------------------- what an epoch is

    function _snapshotOf(uint64 epoch) private returns (Snapshot memory s) {
        s = _snapshots[epoch];
        if (s.weight != 0) return s;
        if (openFounding() != epoch) revert UnknownEpoch(epoch);
        return _snapshots[epoch];
    }

    function _recoveries() private view returns (uint16 recoveries) {
        (,,, recoveries) = registry.electorate("", 1, 0);
    }

    function _record(bytes calldata boundary, bytes calldata body)
        private
        pure
        returns (uint64 epoch, uint64 chainBlock)
    {
        if (boundary.length != Boundary.HEADER_BYTES) revert BadHeader();
        if (Boundary.bodyHash(body) != Boundary.bodyHashOf(boundary)) revert BadBoundary();
        (epoch, chainBlock) = Boundary.record(body);
        (uint64 before,,,) = Boundary.position(boundary);
        if (epoch == 0 || epoch - 1 != before) revert BadBoundary();
    }

    /// @dev The registry as the record names it: at the end of that chain block.
    function _change(uint64 chainBlock, uint64 version, uint64 next)
        private
        view
        returns (uint64, uint32)
    {
        (uint64 blockNumber, uint32 total,) = registry.changeOf(version);
        if (blockNumber != chainBlock || total == 0) revert BadChange(version);
        if (next == 0) {
            (, uint64 last,) = registry.lastChange();
            if (last != version) revert BadChange(version);
        } else {
            (uint64 after_,, uint64 previous) = registry.changeOf(next);
            if (previous != version || after_ == chainBlock) revert BadChange(version);
        }
        return (version, total);
    }

    /// @dev The last of blocks that stand on one another, all of the epoch, as what was voted for.
    function _descent(bytes32 domain, uint64 epoch, bytes32 parent, bytes calldata headers)
        private
        pure
        returns (Voted memory)
    {
        uint256 count = headers.length / Boundary.HEADER_BYTES;
        if (count == 0 || headers.length != count * Boundary.HEADER_BYTES) revert BadHeader();
        (uint64 term, uint64 index) = (0, 0);
        for (uint256 i = 0; i < count; ++i) {
            bytes calldata header =
                headers[i * Boundary.HEADER_BYTES:(i + 1) * Boundary.HEADER_BYTES];
            uint64 its;
            (its, term, index,) = Boundary.position(header);
            if (its != epoch || Boundary.parentOf(header) != parent) revert BadHeader();
            parent = Boundary.blockHash(domain, header);
        }
        return Voted(domain, FINALIZE_TYPEHASH, epoch, term, index, parent);
    }

    // ------------------------------------------------------- who signed it

    /// @dev Checks each part and adds up what counts at the snapshot. A signer whose row changed since
    ///      counts nothing and is not checked; a signature that is not its seat's is an error.
    /// @param v what was voted for; of a nullification each part has its own reason
    /// @param also one seat more whose row is wanted; 0 for none
    function _tally(Snapshot memory s, Voted memory v, bytes calldata parts, uint32 also)
        private
        view
        returns (Tally memory t)
    {
        uint256 count = parts.length / PART_BYTES;
        if (count > PARTS_MAX || parts.length != count * PART_BYTES) revert BadParts();
        uint256[] memory rows;
        (rows, t.active, t.seats) = _rows(s, v.epoch, parts, also);
        t.row = rows[count];
        bytes32[] memory digests = new bytes32[](v.typehash == NULLIFY_TYPEHASH ? REASONS : 1);
        unchecked {
            // weights fit 32 bits, places are below the length of calldata
            uint256 at = 0;
            uint256 previous = 0;
            for (uint256 i = 0; i < count; ++i) {
                uint256 row = rows[i];
                uint256 word = _word(parts, at);
                if (word >> 224 <= previous) revert BadParts();
                previous = word >> 224;
                if (row != 0) {
                    uint256 reason = word >> 216 & 0xff;
                    if (reason >= digests.length) revert BadParts();
                    bytes32 digest = digests[reason];
                    if (digest == 0) {
                        bytes32 last = digests.length == 1 ? v.blockHash : bytes32(reason);
                        digest = _digest(v.domain, v.typehash, v.epoch, v.term, v.index, last);
                        digests[reason] = digest;
                    }
                    bytes32 r = bytes32(_word(parts, at + 5));
                    address signer = _recover(digest, r, bytes32(_word(parts, at + 37)), previous);
                    if (signer != address(uint160(row))) revert BadSignature(previous);
                    t.weight += row >> 160;
                    if (reason != 0 && reason < REASON_STEP_DOWN) t.accusing += row >> 160;
                }
                at += PART_BYTES;
            }
        }
    }

    /// @dev The rows of the signers, and of one seat more.
    function _rows(Snapshot memory s, uint64 epoch, bytes calldata parts, uint32 also)
        private
        view
        returns (uint256[] memory rows, uint256 active, uint256 seatsActive)
    {
        uint16 recoveries;
        bytes memory list = bytes.concat(parts, bytes4(also), bytes32(0), bytes32(0), hex"00");
        (rows, active, seatsActive, recoveries) = registry.electorate(list, PART_BYTES, s.version);
        // a recovery voids what was opened before it
        if (recoveries != s.recoveries) revert UnknownEpoch(epoch);
    }

    /// @dev 32 bytes of the parts, without a check of bounds: callers stay below `parts.length`, and
    ///      what lies beyond the last byte of calldata reads as zero.
    function _word(bytes calldata parts, uint256 at) private pure returns (uint256 word) {
        assembly ("memory-safe") {
            word := calldataload(add(parts.offset, at))
        }
    }

    function _requireQuorum(Tally memory t, Snapshot memory s) private pure {
        if (3 * t.weight <= 2 * uint256(s.weight)) revert NoQuorum(t.weight, s.weight);
    }

    /// @dev Never zero; one signature for each text and key (low s).
    function _recover(bytes32 digest, bytes32 r, bytes32 vs, uint256 seat)
        private
        pure
        returns (address signer)
    {
        uint256 s = uint256(vs) & type(uint256).max >> 1;
        if (s > HALF_ORDER) revert BadSignature(seat);
        signer = ecrecover(digest, uint8(27 + (uint256(vs) >> 255)), r, bytes32(s));
        if (signer == address(0)) revert BadSignature(seat);
    }

    // -------------------------------------------------------------- numbers

    function _token(uint64 epoch, uint64 term) private pure returns (uint256) {
        return uint256(epoch) << 64 | term;
    }

    function _until(uint40 seconds_) private view returns (uint40) {
        uint256 until = block.timestamp + seconds_;
        return until > type(uint40).max ? type(uint40).max : uint40(until);
    }

    function _setPolicy(Policy memory p) private {
        if (p.deposalSeconds == 0 || p.conflictSeconds == 0 || p.minSeats == 0) revert BadPolicy();
        _policy = p;
        emit PolicySet(p);
    }
}
