// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ICertificates} from "../src/ICertificates.sol";
import {CourtFixture} from "./CourtFixture.sol";

/// The cluster's certificates on chain: who leads, by which votes, and what it costs.
contract CertificatesTest is CourtFixture {
    // -------------------------------------------------------------- leaders

    function test_a_finalized_header_makes_its_proposer_the_leader_on_record() public {
        crowd(4, true);
        Head memory h = head(0, 3, 7, 2);
        court.recordLeader(encode(h), finalization(h, 1, 3));
        (uint64 epoch, uint64 term, uint64 index, uint32 seat, bytes32 hash) = court.leader();
        eq(epoch, 0, "epoch");
        eq(term, 3, "term");
        eq(index, 7, "index");
        eq(seat, 2, "seat");
        eq(hash, hashOf(h), "hash");
        (uint64 version, uint32 weight,) = court.snapshot(0);
        eq(version, reg.version(), "epoch 0 is bound to the launch");
        eq(weight, 4, "its weight");
    }

    function test_leaderships_on_record_only_go_forward() public {
        crowd(4, true);
        Head memory h = head(0, 3, 7, 2);
        court.recordLeader(encode(h), finalization(h, 1, 3));
        Head[3] memory older = [head(0, 3, 7, 2), head(0, 3, 6, 2), head(0, 2, 9, 1)];
        for (uint256 i = 0; i < 3; ++i) {
            bytes memory parts = finalization(older[i], 1, 3);
            vm.expectRevert(ICertificates.StaleLeader.selector);
            court.recordLeader(encode(older[i]), parts);
        }
        h = head(0, 3, 8, 2);
        court.recordLeader(encode(h), finalization(h, 2, 4));
        h = head(0, 4, 0, 3);
        court.recordLeader(encode(h), finalization(h, 2, 4));
    }

    function test_two_thirds_are_not_enough_and_no_signer_counts_twice() public {
        crowd(6, true);
        Head memory h = head(0, 1, 0, 1);
        bytes memory parts = finalization(h, 1, 4);
        vm.expectRevert(abi.encodeWithSelector(ICertificates.NoQuorum.selector, 4, 6));
        court.recordLeader(encode(h), parts);
        parts = bytes.concat(finalization(h, 1, 4), finalization(h, 4, 4));
        vm.expectRevert(ICertificates.BadParts.selector);
        court.recordLeader(encode(h), parts);
        parts = bytes.concat(finalization(h, 2, 5), finalization(h, 1, 1));
        vm.expectRevert(ICertificates.BadParts.selector);
        court.recordLeader(encode(h), parts);
        // strangers weigh nothing
        parts = finalization(h, 3, 9);
        vm.expectRevert(abi.encodeWithSelector(ICertificates.NoQuorum.selector, 4, 6));
        court.recordLeader(encode(h), parts);
        parts = bytes.concat(finalization(h, 1, 5), hex"00");
        vm.expectRevert(ICertificates.BadParts.selector);
        court.recordLeader(encode(h), parts);
        court.recordLeader(encode(h), finalization(h, 2, 6));
    }

    function testFuzz_a_changed_byte_of_a_certificate_spoils_it(uint256 at, uint8 change) public {
        crowd(4, true);
        Head memory h = head(0, 1, 0, 1);
        bytes memory header = encode(h);
        bytes memory parts = finalization(h, 1, 3);
        vm.assume(change != 0);
        at = at % (header.length + parts.length);
        if (at < header.length) header[at] ^= bytes1(change);
        else parts[at - header.length] ^= bytes1(change);
        (bool done,) = address(court).call(abi.encodeCall(court.recordLeader, (header, parts)));
        yes(!done, "accepted");
    }

    function test_the_high_s_twin_of_a_vote_is_refused() public {
        crowd(4, true);
        Head memory h = head(0, 1, 0, 1);
        bytes memory parts = finalization(h, 1, 3);
        uint256 order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        uint256 at = 37; // vs of the first part
        uint256 vs;
        assembly {
            vs := mload(add(add(parts, 32), at))
        }
        // n - s always has its top bit set, which here means another parity: no form for it is left
        uint256 s = vs & (type(uint256).max >> 1);
        uint256 twinned = order - s;
        assembly {
            mstore(add(add(parts, 32), at), twinned)
        }
        vm.expectRevert(abi.encodeWithSelector(ICertificates.BadSignature.selector, 1));
        court.recordLeader(encode(h), parts);
    }

    function test_votes_of_another_kind_chain_or_contract_do_not_finalize() public {
        crowd(4, true);
        Head memory h = head(0, 1, 0, 1);
        bytes32 notarized = voteHash(NOTARIZE, 0, 1, 0, hashOf(h));
        bytes memory parts =
            bytes.concat(part(1, 0, notarized), part(2, 0, notarized), part(3, 0, notarized));
        vm.expectRevert(abi.encodeWithSelector(ICertificates.BadSignature.selector, 1));
        court.recordLeader(encode(h), parts);
        parts = finalization(h, 1, 3);
        vm.chainId(31338);
        (bool done,) = address(court).call(abi.encodeCall(court.recordLeader, (encode(h), parts)));
        yes(!done, "another chain");
        vm.chainId(31337);
        court.recordLeader(encode(h), parts);
    }

    function test_a_signer_counts_only_while_its_row_is_that_of_the_snapshot() public {
        crowd(4, true);
        Head memory h = head(0, 1, 0, 1);
        bytes memory parts = finalization(h, 1, 3);
        vm.prank(OWNER);
        reg.setWeight(3, 5);
        vm.expectRevert(abi.encodeWithSelector(ICertificates.NoQuorum.selector, 2, 4));
        court.recordLeader(encode(h), parts);
        // put out and registered again with the same key: not the row of then
        vm.prank(wallet(2));
        reg.deactivate(2);
        enlist(2, wallet(2), secret(2), instance(2), 2);
        vm.expectRevert(abi.encodeWithSelector(ICertificates.NoQuorum.selector, 1, 4));
        court.recordLeader(encode(h), parts);
        // an announcement changes nothing, nor does a registration of the same node
        announceAs(secret(1), 1, 2, ENDPOINT);
        enlist(1, wallet(1), secret(1), instance(1), 3);
        vm.expectRevert(abi.encodeWithSelector(ICertificates.NoQuorum.selector, 1, 4));
        court.recordLeader(encode(h), parts);
        vm.prank(GUARDIAN);
        reg.revokeRoot(1);
        vm.expectRevert(abi.encodeWithSelector(ICertificates.NoQuorum.selector, 0, 4));
        court.recordLeader(encode(h), parts);
    }

    function test_nothing_is_certified_before_the_launch() public {
        crowd(4, false);
        Head memory h = head(0, 1, 0, 1);
        bytes memory parts = finalization(h, 1, 4);
        vm.expectRevert(abi.encodeWithSelector(ICertificates.UnknownEpoch.selector, 0));
        court.recordLeader(encode(h), parts);
    }

    // ------------------------------------------------------------------ gas

    function test_gas_of_certificates_of_10() public {
        crowd(10, true);
        // suspending writes seat, weights, history and digest as well: decision 12 has it by parts
        measured(10, "10", 140_000, 160_000);
    }

    function test_gas_of_certificates_of_100() public {
        crowd(100, true);
        measured(100, "100", 650_000, 650_000);
    }

    function measured(uint256 n, string memory name, uint256 limit, uint256 suspendLimit) private {
        Head memory h = head(0, 1, 0, uint64(n));
        court.recordLeader(encode(h), finalization(h, 1, quorum(n)));
        h = head(0, 2, 3, uint64(n));
        bytes memory parts = finalization(h, 1, quorum(n));
        court.recordLeader(encode(h), parts);
        uint256 used = vm.snapshotGasLastCall(string.concat("recordLeader", name));
        yes(used < limit, "recordLeader");

        parts = nullification(0, 2, 4, 1, quorum(n), NO_PROPOSAL);
        court.depose(0, 2, 4, parts, "", 0, 0);
        used = vm.snapshotGasLastCall(string.concat("deposeMark", name));
        yes(used < limit, "depose, marking");
        policy(ICertificates.Effect.MARK);
        convict(n - 2);
        used = vm.snapshotGasLastCall(string.concat("proveConflictMark", name));
        yes(used < 140_000, "proveConflict, marking");

        policy(ICertificates.Effect.SUSPEND);
        court.depose(0, 2, 4, parts, "", 0, 0);
        used = vm.snapshotGasLastCall(string.concat("deposeSuspend", name));
        yes(used < suspendLimit, "depose, suspending");
        convict(n - 1);
        used = vm.snapshotGasLastCall(string.concat("proveConflictSuspend", name));
        yes(used < 140_000, "proveConflict, suspending");

        bytes memory body = bodyOf(hex"90", 1, 0, n);
        Head memory end = head(0, 9, 0, 2);
        end.bodyHash = bodyHashOf(body);
        h = head(1, 1, 0, 1);
        h.parent = hashOf(end);
        court.openEpoch(encode(end), body, encode(h), finalization(h, 1, quorum(n)), 0, 0);
        vm.snapshotGasLastCall(string.concat("openEpoch", name));
        (bool done,) = address(reg).staticcall(abi.encodeCall(reg.page, (1, n)));
        yes(done, "page");
        used = vm.snapshotGasLastCall(string.concat("page", name));
        yes(used < 2_000_000, "page of 100");
    }

    function convict(uint256 seat) private {
        court.proveConflict(
            seat, vote(seat, NOTARIZE, 0, 2, 4, B1), vote(seat, NOTARIZE, 0, 2, 4, B2)
        );
    }
}
