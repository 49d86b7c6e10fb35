// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ICertificates} from "../src/ICertificates.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {CourtFixture} from "./CourtFixture.sol";

/// Who was deposed, who lied, and what becomes of them.
contract VerdictsTest is CourtFixture {
    // ------------------------------------------------------- deposed leaders

    function test_a_nullification_marks_the_leader_on_record_once() public {
        crowd(4, true);
        Head memory h = head(0, 1, 0, 2);
        court.recordLeader(encode(h), finalization(h, 1, 3));
        bytes memory parts = nullification(0, 1, 5, 1, 4, NO_PROPOSAL);
        court.depose(0, 1, 5, parts, "", 0, 0);
        (uint64 epoch, uint64 term) = court.lastDeposed(2);
        eq(epoch, 0, "epoch");
        eq(term, 1, "term");
        eq(reg.activeWeight(), 4, "a mark only");
        vm.expectRevert(ICertificates.AlreadyMarked.selector);
        court.depose(0, 1, 5, parts, "", 0, 0);
    }

    function test_a_leader_that_finalized_nothing_is_convicted_by_its_own_proposal() public {
        crowd(4, true);
        Head memory h = head(0, 6, 0, 3);
        bytes memory parts = nullification(0, 6, 0, 1, 3, NO_PROPOSAL);
        vm.expectRevert(ICertificates.LeaderUnknown.selector);
        court.depose(0, 6, 0, parts, "", 0, 0);
        bytes32 proposal = voteHash(NOTARIZE, 0, 6, 0, hashOf(h));
        // somebody else's signature under a header that names seat 3
        (bytes32 r, bytes32 vs) = compact(secret(1), proposal);
        vm.expectRevert(abi.encodeWithSelector(ICertificates.BadSignature.selector, 3));
        court.depose(0, 6, 0, parts, encode(h), r, vs);
        // its vote for another leader's block proves nothing against it
        Head memory other = head(0, 6, 0, 4);
        (r, vs) = compact(secret(3), voteHash(NOTARIZE, 0, 6, 0, hashOf(other)));
        vm.expectRevert(abi.encodeWithSelector(ICertificates.BadSignature.selector, 4));
        court.depose(0, 6, 0, parts, encode(other), r, vs);
        // nor does its proposal of another term
        Head memory earlier = head(0, 2, 0, 3);
        (r, vs) = compact(secret(3), voteHash(NOTARIZE, 0, 2, 0, hashOf(earlier)));
        vm.expectRevert(ICertificates.BadHeader.selector);
        court.depose(0, 6, 0, parts, encode(earlier), r, vs);
        (r, vs) = compact(secret(3), proposal);
        court.depose(0, 6, 0, parts, encode(h), r, vs);
        (, uint64 term) = court.lastDeposed(3);
        eq(term, 6, "marked");
    }

    function test_by_policy_the_seat_is_suspended_and_cannot_return_before_its_time() public {
        crowd(4, true);
        suspending();
        Head memory h = head(0, 1, 0, 2);
        court.recordLeader(encode(h), finalization(h, 1, 3));
        bytes memory parts = nullification(0, 1, 5, 1, 3, NO_PROPOSAL);
        court.depose(0, 1, 5, parts, "", 0, 0);
        eq(reg.member(2).status, 2, "inactive");
        eq(reg.activeWeight(), 3, "weight");
        uint40 until = uint40(block.timestamp + 1 days);
        Proof memory p = proof(2, secret(2), instance(2), 2);
        vm.prank(wallet(2));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.CoolingDown.selector, until));
        send(p);
        vm.warp(until);
        enlist(2, wallet(2), secret(2), instance(2), 2);
        // the certificate again: the row is not the one that it speaks of
        vm.expectRevert(abi.encodeWithSelector(ICertificates.NotSeated.selector, 2));
        court.depose(
            0,
            1,
            5,
            bytes.concat(
                nullification(0, 1, 5, 1, 1, NO_PROPOSAL), nullification(0, 1, 5, 3, 4, NO_PROPOSAL)
            ),
            "",
            0,
            0
        );
    }

    function test_the_last_ones_that_carry_a_quorum_are_not_suspended() public {
        crowd(4, true);
        suspending();
        Head memory h = head(0, 1, 0, 2);
        court.recordLeader(encode(h), finalization(h, 1, 3));
        court.depose(0, 1, 5, nullification(0, 1, 5, 1, 3, NO_PROPOSAL), "", 0, 0);
        vm.warp(block.timestamp + 1);
        // seat 3 leads next; with it gone two of four were left
        h = head(0, 2, 0, 3);
        bytes memory parts = bytes.concat(finalization(h, 1, 1), finalization(h, 3, 4));
        court.recordLeader(encode(h), parts);
        parts = bytes.concat(
            nullification(0, 2, 1, 1, 1, NO_PROPOSAL), nullification(0, 2, 1, 3, 4, NO_PROPOSAL)
        );
        vm.expectRevert(abi.encodeWithSelector(ICertificates.BelowMinimum.selector, 2, 2));
        court.depose(0, 2, 1, parts, "", 0, 0);
    }

    function test_who_stepped_down_is_not_deposed_by_those_who_followed() public {
        crowd(4, true);
        Head memory h = head(0, 1, 0, 2);
        court.recordLeader(encode(h), finalization(h, 1, 3));
        bytes memory parts = nullification(0, 1, 5, 1, 4, JOINED);
        vm.expectRevert(abi.encodeWithSelector(ICertificates.NotAccused.selector, 0, 4));
        court.depose(0, 1, 5, parts, "", 0, 0);
        // one accuser of four may be a liar
        parts = bytes.concat(
            nullification(0, 1, 5, 1, 1, NO_PROPOSAL),
            nullification(0, 1, 5, 2, 2, STEP_DOWN),
            nullification(0, 1, 5, 3, 4, JOINED)
        );
        vm.expectRevert(abi.encodeWithSelector(ICertificates.NotAccused.selector, 1, 4));
        court.depose(0, 1, 5, parts, "", 0, 0);
        parts = bytes.concat(
            nullification(0, 1, 5, 1, 2, NO_PROPOSAL), nullification(0, 1, 5, 3, 4, JOINED)
        );
        court.depose(0, 1, 5, parts, "", 0, 0);
    }

    // ------------------------------------------------------------ liars

    function test_each_of_the_three_pairs_convicts_in_either_order() public {
        for (uint256 i = 0; i < 6; ++i) {
            setUp();
            crowd(4, true);
            ICertificates.Vote memory a;
            ICertificates.Vote memory b;
            if (i < 2) {
                (a, b) = (vote(3, NOTARIZE, 0, 2, 4, B1), vote(3, NOTARIZE, 0, 2, 4, B2));
            } else if (i < 4) {
                (a, b) = (vote(3, FINALIZE, 5, 2, 4, B1), vote(3, FINALIZE, 5, 2, 4, B2));
            } else {
                (a, b) = (vote(3, NULLIFY, 0, 2, 4, 0), vote(3, FINALIZE, 0, 2, 9, B2));
            }
            if (i % 2 == 1) (a, b) = (b, a);
            court.proveConflict(3, a, b);
            yes(court.convicted(vm.addr(secret(3))), "convicted");
            eq(reg.member(3).status, 2, "put out");
            eq(reg.member(3).expiresAt, type(uint40).max, "until the owner lifts it");
        }
    }

    function test_pairs_that_a_correct_member_may_sign_convict_nobody() public {
        crowd(4, true);
        ICertificates.Vote[2][8] memory pairs = [
            [vote(3, NOTARIZE, 0, 2, 4, B1), vote(3, NOTARIZE, 0, 2, 4, B1)],
            [vote(3, NOTARIZE, 0, 2, 4, B1), vote(3, NOTARIZE, 0, 2, 5, B2)],
            [vote(3, NOTARIZE, 0, 2, 4, B1), vote(3, NOTARIZE, 1, 2, 4, B2)],
            [vote(3, FINALIZE, 0, 2, 4, B1), vote(3, FINALIZE, 0, 3, 4, B2)],
            [vote(3, NOTARIZE, 0, 2, 4, B1), vote(3, FINALIZE, 0, 2, 4, B2)],
            [vote(3, NULLIFY, 0, 2, 5, 0), vote(3, FINALIZE, 0, 2, 4, B1)],
            [vote(3, NULLIFY, 0, 2, 4, 0), vote(3, NULLIFY, 0, 2, 4, 0)],
            [vote(3, NULLIFY, 0, 2, 4, 0), vote(3, NOTARIZE, 0, 2, 4, B1)]
        ];
        pairs[6][1].blockHash = B1; // not part of what is signed
        for (uint256 i = 0; i < pairs.length; ++i) {
            vm.expectRevert(ICertificates.NoConflict.selector);
            court.proveConflict(3, pairs[i][0], pairs[i][1]);
            vm.expectRevert(ICertificates.NoConflict.selector);
            court.proveConflict(3, pairs[i][1], pairs[i][0]);
        }
        // an unknown kind is none
        pairs[0][0].kind = 4;
        pairs[0][1].kind = 4;
        pairs[0][1].blockHash = B2;
        vm.expectRevert(ICertificates.NoConflict.selector);
        court.proveConflict(3, pairs[0][0], pairs[0][1]);
    }

    function test_two_signers_are_no_conflict_and_no_other_seat_answers() public {
        crowd(4, true);
        ICertificates.Vote memory a = vote(3, NOTARIZE, 0, 2, 4, B1);
        ICertificates.Vote memory b = vote(2, NOTARIZE, 0, 2, 4, B2);
        vm.expectRevert(abi.encodeWithSelector(ICertificates.BadSignature.selector, 3));
        court.proveConflict(3, a, b);
        vm.expectRevert(abi.encodeWithSelector(ICertificates.BadSignature.selector, 2));
        court.proveConflict(2, a, b);
        b = vote(3, NOTARIZE, 0, 2, 4, B2);
        vm.expectRevert(abi.encodeWithSelector(ICertificates.NotSeated.selector, 9));
        court.proveConflict(9, a, b);
        vm.expectRevert(
            abi.encodeWithSelector(ICertificates.NotSeated.selector, 3 + (uint256(1) << 32))
        );
        court.proveConflict(3 + (uint256(1) << 32), a, b);
        vm.expectRevert(abi.encodeWithSelector(ICertificates.NotSeated.selector, 2));
        court.proveConflict(2, a, b);
        court.proveConflict(3, a, b);
    }

    function test_a_convicted_key_is_put_out_again_whenever_it_returns() public {
        crowd(4, true);
        ICertificates.Vote memory a = vote(3, NOTARIZE, 0, 2, 4, B1);
        ICertificates.Vote memory b = vote(3, NOTARIZE, 0, 2, 4, B2);
        court.proveConflict(3, a, b);
        vm.prank(OWNER);
        reg.liftSuspension(3);
        enlist(3, wallet(3), secret(3), instance(3), 2);
        court.proveConflict(3, a, b);
        eq(reg.member(3).status, 2, "out again");
    }

    function test_below_the_minimum_a_liar_is_marked_and_stays_for_the_owner_to_judge() public {
        crowd(3, true);
        ICertificates.Vote memory a = vote(3, NOTARIZE, 0, 2, 4, B1);
        ICertificates.Vote memory b = vote(3, NOTARIZE, 0, 2, 4, B2);
        court.proveConflict(3, a, b);
        yes(court.convicted(vm.addr(secret(3))), "marked");
        eq(reg.member(3).status, 1, "and not put out");
        vm.expectRevert(ICertificates.AlreadyMarked.selector);
        court.proveConflict(3, a, b);
    }

    function test_only_the_registrys_owner_sets_the_policy_and_no_part_of_it_is_zero() public {
        crowd(3, true);
        ICertificates.Policy memory p = court.policy();
        vm.prank(GUARDIAN);
        vm.expectRevert(ICertificates.NotOwner.selector);
        court.setPolicy(p);
        p.minSeats = 0;
        vm.prank(OWNER);
        vm.expectRevert(ICertificates.BadPolicy.selector);
        court.setPolicy(p);
    }
}
