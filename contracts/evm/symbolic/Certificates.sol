// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Certificates} from "../src/Certificates.sol";
import {ICertificates} from "../src/ICertificates.sol";
import {Base} from "./Base.sol";

/// Certificates on a registry that says anything: its rows, weights and totals are arguments of the
/// checks, and so is every signature. What a signature recovers to is any function of it.
contract CertificatesChecks is Base {
    uint8 private constant NOTARIZE = 1;
    uint8 private constant NULLIFY = 2;
    uint8 private constant FINALIZE = 3;
    uint8 private constant REASONS = 12;
    uint256 private constant ROWS_MAX = 3;

    Certificates private court = new Certificates(address(this));

    // ------------------------------------------------- this is the registry

    uint192[ROWS_MAX] private _rows;
    uint32 private _total;
    uint32 private _active;
    uint64 private _epoch;
    bool private _suspended;

    function electorate(bytes calldata list, uint256 stride, uint64)
        external
        view
        returns (uint256[] memory rows, uint32, uint16, uint16)
    {
        rows = new uint256[](list.length / stride);
        for (uint256 i = 0; i < rows.length && i < ROWS_MAX; ++i) {
            rows[i] = _rows[i];
        }
        return (rows, _active, type(uint16).max, 0);
    }

    function founding(uint256) external view returns (uint64 epoch, uint64, uint32 weight) {
        return (_epoch, 1, _total);
    }

    function answers(address)
        external
        view
        returns (uint32 seat, uint32 weight, bool holds, uint32 active, uint16 seatsActive)
    {
        return (1, uint32(_rows[0] >> 160), true, _active, type(uint16).max);
    }

    function owner() external view returns (address) {
        return address(this);
    }

    function suspend(uint256, uint40) external returns (bool) {
        _suspended = true;
        return true;
    }

    // ---------------------------------------------------------------- quorums

    function check_no_leader_goes_on_record_without_more_than_two_thirds(
        Part[3] calldata given,
        uint256 count,
        uint32 total,
        uint64 epoch,
        bytes32 rest
    ) public {
        bytes memory parts;
        uint256 weight = 0;
        for (uint256 i = 0; i < 3 && i < count; ++i) {
            parts = bytes.concat(parts, encode(given[i], 1));
            weight += given[i].row >> 160;
            _rows[i] = given[i].row;
        }
        vm.assume(recorded(header(epoch, 1, 0, 1, rest), parts, total));
        assert(3 * weight > 2 * uint256(total));
        // places ascend: who signs twice does not count twice
        assert(count < 2 || given[0].seat < given[1].seat);
        assert(count < 3 || given[1].seat < given[2].seat);
    }

    function check_two_quorums_of_an_epoch_share_more_than_a_third(
        Part calldata one,
        Part calldata other,
        uint32 total,
        uint32 both,
        bytes32 rest
    ) public {
        // what is in the one, the other or both is not more than there is
        vm.assume(both <= one.row >> 160 && both <= other.row >> 160);
        vm.assume((one.row >> 160) + (other.row >> 160) - uint256(both) <= total);
        _rows[0] = one.row;
        vm.assume(recorded(header(0, 1, 0, 1, rest), encode(one, 1), total));
        _rows[0] = other.row;
        vm.assume(recorded(header(0, 1, 1, 1, rest), encode(other, 1), total));
        assert(3 * uint256(both) > total);
    }

    // --------------------------------------------------------------- leaders

    function check_leaders_on_record_go_forward_only(
        uint64[3] calldata first,
        uint64[3] calldata second,
        bytes32 rest,
        Part calldata part,
        Part calldata next
    ) public {
        (uint64 epoch, uint64 term, uint64 index) = (first[0], first[1], first[2]);
        _rows[0] = part.row;
        vm.assume(recorded(header(epoch, term, index, 1, rest), encode(part, 1), 1));
        _rows[0] = next.row;
        bool again = recorded(header(second[0], second[1], second[2], 1, rest), encode(next, 1), 1);
        bool later = second[0] > epoch
            || (second[0] == epoch
                && (second[1] > term || (second[1] == term && second[2] > index)));
        assert(!again || later);
        (uint64 haveEpoch, uint64 haveTerm, uint64 haveIndex,,) = court.leader();
        assert(again || (haveEpoch == epoch && haveTerm == term && haveIndex == index));
    }

    // ------------------------------------------------------ deposed leaders

    function check_no_seat_is_suspended_without_accusers_or_below_a_quorum(
        Part calldata part,
        Part calldata accused,
        uint32 total,
        uint32 active,
        uint64 term,
        bytes32 rest
    ) public {
        court.setPolicy(
            ICertificates.Policy(
                ICertificates.Effect.SUSPEND, ICertificates.Effect.SUSPEND, 1 days, 1 days, 3
            )
        );
        vm.assume(active >= accused.row >> 160);
        (_rows[0], _rows[1], _active, _total) = (part.row, accused.row, active, total);
        bytes memory head = header(0, term, 0, accused.seat, rest);
        try court.depose(0, term, 0, encode(part, REASONS), head, accused.r, accused.vs) {
            assert(_suspended && accused.row != 0);
            assert(3 * uint256(part.row >> 160) > 2 * uint256(total));
            assert(3 * (active - uint256(accused.row >> 160)) > 2 * uint256(total));
            assert(part.reason != 0 && part.reason < 10);
        } catch {
            assert(!_suspended);
        }
    }

    // ----------------------------------------------------------------- liars

    function check_the_three_pairs_contradict_and_no_other(
        ICertificates.Vote calldata a,
        ICertificates.Vote calldata b
    ) public {
        bool pair = false;
        if (a.epoch == b.epoch && a.term == b.term) {
            bool same = a.kind == b.kind && a.index == b.index && a.blockHash != b.blockHash;
            bool early = a.kind == NULLIFY && b.kind == FINALIZE && b.index >= a.index;
            bool late = b.kind == NULLIFY && a.kind == FINALIZE && a.index >= b.index;
            pair = (same && (a.kind == NOTARIZE || a.kind == FINALIZE)) || early || late;
        }
        (bool done, bytes memory reason) =
            address(court).call(abi.encodeCall(court.proveConflict, (1, a, b)));
        bool refused = !done && bytes4(reason) == ICertificates.NoConflict.selector;
        assert(refused == !pair);
    }

    /// One signer's share of a certificate, and the row that the registry has of it.
    struct Part {
        uint32 seat;
        uint8 reason;
        bytes32 r;
        bytes32 vs;
        uint192 row;
    }

    /// The contract keeps a list by reasons, and halmos wants to know the place: each of the
    /// `known` is a case of its own, and one more stands for all the others.
    function encode(Part calldata part, uint8 known) private pure returns (bytes memory) {
        uint8 reason = known;
        for (uint8 i = 0; i < known; ++i) {
            if (part.reason == i) reason = i;
        }
        return abi.encodePacked(part.seat, reason, part.r, part.vs);
    }

    function recorded(bytes memory head, bytes memory parts, uint32 total)
        private
        returns (bool done)
    {
        (_epoch, _total) = (uint64(bytes8(head)), total);
        (done,) = address(court).call(abi.encodeCall(court.recordLeader, (head, parts)));
    }

    function header(uint64 epoch, uint64 term, uint64 index, uint64 proposer, bytes32 rest)
        private
        pure
        returns (bytes memory)
    {
        return abi.encodePacked(epoch, term, index, proposer, rest, rest, rest, bytes24(rest));
    }
}
