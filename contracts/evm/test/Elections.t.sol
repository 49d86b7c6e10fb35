// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

import {ICertificates} from "../src/ICertificates.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {KeyClaims} from "../src/KeyClaims.sol";
import {CourtFixture} from "./CourtFixture.sol";

/// The ways in which an earlier contract's elections and votes of no confidence went wrong, by number.
contract ElectionsTest is CourtFixture {
    function test_O1_who_sold_the_seat_votes_no_more_and_the_buyer_does_from_the_next_epoch_on()
        public
    {
        crowd(4, true);
        sell(4, wallet(4), STRANGER);
        Head memory h = head(0, 1, 0, 1);
        bytes memory parts = finalization(h, 2, 4); // with the seller's node
        vm.expectRevert(abi.encodeWithSelector(ICertificates.NoQuorum.selector, 2, 4));
        court.recordLeader(encode(h), parts);
        // the buyer's node, with the key under which the seat now votes
        enlist(4, STRANGER, secret(4), instance(4), 2);
        vm.expectRevert(abi.encodeWithSelector(ICertificates.NoQuorum.selector, 2, 4));
        court.recordLeader(encode(h), parts);
        bytes memory body = bodyOf(hex"90", 1, uint64(block.number), 4);
        Head memory end = head(0, 1, 5, 1);
        end.bodyHash = bodyHashOf(body);
        h = head(1, 1, 0, 1);
        h.parent = hashOf(end);
        court.openEpoch(encode(end), body, encode(h), finalization(h, 2, 4), reg.version(), 0);
    }

    function test_O2_no_registration_goes_without_its_proofs() public {
        grant(alice, 1);
        Proof memory p = proof(1, 0x111, instance(1), 1);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(ECDSA.ECDSAInvalidSignatureLength.selector, 0));
        reg.register(p.r, "", p.nodeSignature, "");
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(ECDSA.ECDSAInvalidSignatureLength.selector, 0));
        reg.register(p.r, p.appSignature, "", "");
    }

    function test_O3_votes_name_their_term_and_depose_in_no_other() public {
        crowd(4, true);
        Head memory h = head(0, 2, 0, 2);
        court.recordLeader(encode(h), finalization(h, 1, 3));
        // all voted against term 1, whose leader was another
        bytes memory old = nullification(0, 1, 0, 1, 4, NO_PROPOSAL);
        vm.expectRevert(abi.encodeWithSelector(ICertificates.BadSignature.selector, 1));
        court.depose(0, 2, 0, old, "", 0, 0);
        vm.expectRevert(ICertificates.LeaderUnknown.selector);
        court.depose(0, 1, 0, old, "", 0, 0);
    }

    function test_O4_votes_are_never_stored_so_none_counts_again_or_for_another_view() public {
        crowd(6, true);
        Head memory h = head(0, 1, 0, 2);
        court.recordLeader(encode(h), finalization(h, 1, 5));
        bytes memory parts = nullification(0, 1, 3, 1, 4, NO_PROPOSAL);
        for (uint256 i = 0; i < 3; ++i) {
            vm.expectRevert(abi.encodeWithSelector(ICertificates.NoQuorum.selector, 4, 6));
            court.depose(0, 1, 3, parts, "", 0, 0);
        }
        parts = bytes.concat(parts, nullification(0, 1, 4, 5, 6, NO_PROPOSAL));
        vm.expectRevert(abi.encodeWithSelector(ICertificates.BadSignature.selector, 5));
        court.depose(0, 1, 3, parts, "", 0, 0);
    }

    function test_O5_a_seat_whose_node_was_taken_off_is_good_for_another() public {
        crowd(4, true);
        vm.prank(GUARDIAN);
        reg.deactivate(3);
        vm.warp(block.timestamp + LEASE);
        enlist(3, wallet(3), 0x999, bytes20(uint160(0x999)), 2);
        eq(reg.member(3).status, 1, "active");
        vm.prank(wallet(3));
        reg.deactivate(3);
        enlist(3, wallet(3), secret(3), instance(3), 3);
        eq(reg.member(3).status, 1, "active");
    }

    function test_O6_the_threshold_is_more_than_two_thirds_and_does_not_sink_as_members_leave()
        public
    {
        crowd(7, true);
        Head memory h = head(0, 1, 0, 2);
        bytes memory parts = finalization(h, 1, 4); // 4 of 7: a majority
        vm.expectRevert(abi.encodeWithSelector(ICertificates.NoQuorum.selector, 4, 7));
        court.recordLeader(encode(h), parts);
        for (uint256 seat = 5; seat <= 7; ++seat) {
            vm.prank(wallet(seat));
            reg.deactivate(seat);
        }
        eq(reg.activeWeight(), 4, "four are left");
        vm.expectRevert(abi.encodeWithSelector(ICertificates.NoQuorum.selector, 4, 7));
        court.recordLeader(encode(h), parts);
    }

    function testFuzz_O6_no_set_of_signers_counts_without_more_than_two_thirds(
        uint32[6] memory weights,
        uint8 who
    ) public {
        uint256 total = 0;
        uint256 signed = 0;
        crowd(6, false);
        Head memory h = head(0, 1, 0, 2);
        bytes memory parts;
        for (uint256 i = 0; i < 6; ++i) {
            uint32 weight = 1 + weights[i] % 1000;
            vm.prank(OWNER);
            reg.setWeight(i + 1, weight);
            total += weight;
            if (who >> i & 1 == 0) continue;
            signed += weight;
            parts = bytes.concat(parts, finalization(h, i + 1, i + 1));
        }
        launch();
        (bool done,) = address(court).call(abi.encodeCall(court.recordLeader, (encode(h), parts)));
        yes(done == (3 * signed > 2 * total), "counts exactly with a quorum");
    }

    function test_O7_nobody_becomes_leader_by_calling_first() public {
        crowd(4, true);
        Head memory h = head(0, 1, 0, 3);
        vm.prank(wallet(3));
        vm.expectRevert(abi.encodeWithSelector(ICertificates.NoQuorum.selector, 0, 4));
        court.recordLeader(encode(h), "");
        bytes memory own = finalization(h, 3, 3);
        vm.prank(wallet(3));
        vm.expectRevert(abi.encodeWithSelector(ICertificates.NoQuorum.selector, 1, 4));
        court.recordLeader(encode(h), own);
        (,,, uint32 seat,) = court.leader();
        eq(seat, 0, "nobody leads");
    }

    /// dstack's own test vector: app id of 20 bytes, compressed key, no "0x" in the hex.
    function test_O8_a_genuine_chain_of_dstack_verifies() public pure {
        bytes32 kms = KeyClaims.kmsClaim(
            bytes20(hex"a9019d1b2c3d4e5f60718293a4b5c6d7e8f90a1b"),
            0xf8669c2bf08c4deeb712b81d456cd1eadbf97872dfc5d5ca916edf605fc5b6fe,
            true
        );
        address root = ecrecover(
            kms,
            27,
            0x00ac321fbbe6817c5de0720644e936b20046ff1c9226e0558a9c86856e8a1dd0,
            0x6bb7a7efae1cf3ec522553c28627ea96c139d5dc9cdd5a1898c2406c074438d8
        );
        eq(root, 0xc4CfC07621383e38a109B72A570cd021989C439b, "kms root");
    }

    function test_O9_registering_costs_the_same_however_many_members_there_are() public {
        crowd(2, false);
        uint256 few = registering(3);
        for (uint256 i = 4; i <= 18; ++i) {
            grant(wallet(i), 1);
            enlist(i, wallet(i), secret(i), instance(i), 1);
        }
        uint256 many = registering(19);
        yes(many < few + few / 100, "as much as with few");
    }

    function registering(uint256 seat) private returns (uint256 used) {
        grant(wallet(seat), 1);
        Proof memory p = proof(seat, secret(seat), instance(seat), 1);
        vm.prank(wallet(seat));
        uint256 before = gasleft();
        send(p);
        used = before - gasleft();
    }
}
