// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ICertificates} from "../src/ICertificates.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {CourtFixture} from "./CourtFixture.sol";

/// Leaving is no way out: a seat answers for a key that left it, for as long as evidence may take.
contract ExitsTest is CourtFixture {
    uint256 internal constant NEW = 0x999;
    uint256 internal constant NEWER = 0x99A;

    uint40 internal window;

    function setUp() public override {
        super.setUp();
        window = reg.evidenceWindow();
    }

    /// Shows two votes of a key that contradict each other.
    function show(uint256 seat, uint256 key) internal {
        (ICertificates.Vote memory a, ICertificates.Vote memory b) = pair(key);
        court.proveConflict(seat, a, b);
    }

    function refused(uint256 seat, uint256 key, bytes memory reason) internal {
        (ICertificates.Vote memory a, ICertificates.Vote memory b) = pair(key);
        vm.expectRevert(reason);
        court.proveConflict(seat, a, b);
    }

    function pair(uint256 key)
        internal
        view
        returns (ICertificates.Vote memory a, ICertificates.Vote memory b)
    {
        a = vote(1, NOTARIZE, 0, 2, 4, B1);
        b = vote(1, NOTARIZE, 0, 2, 4, B2);
        (a.r, a.vs) = compact(key, voteHash(NOTARIZE, 0, 2, 4, B1));
        (b.r, b.vs) = compact(key, voteHash(NOTARIZE, 0, 2, 4, B2));
    }

    function notSeated(uint256 seat) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(ICertificates.NotSeated.selector, seat);
    }

    function marked() internal pure returns (bytes memory) {
        return abi.encodeWithSelector(ICertificates.AlreadyMarked.selector);
    }

    function answering(uint256 key) internal view returns (uint32 seat) {
        (seat,,,,) = reg.answers(vm.addr(key));
    }

    function replace(uint256 seat, uint256 key, uint48 incarnation) internal {
        enlist(seat, wallet(seat), key, bytes20(uint160(key)), incarnation);
    }

    function leave(uint256 seat) internal {
        vm.prank(wallet(seat));
        reg.deactivate(seat);
    }

    // ---------------------------------------------------------- ways to leave

    function test_who_deactivates_is_suspended_as_if_it_were_there() public {
        crowd(4, true);
        leave(3);
        vm.warp(time() + window - 1);
        uint64 version = reg.version();
        show(3, secret(3));
        yes(court.convicted(vm.addr(secret(3))), "convicted");
        eq(reg.member(3).expiresAt, type(uint40).max, "until the owner lifts it");
        eq(reg.version(), version, "who votes did not change");
        Proof memory p = proof(3, NEW, instance(9), 2);
        vm.prank(wallet(3));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.CoolingDown.selector, type(uint40).max));
        send(p);
    }

    function test_after_the_window_nobody_answers_for_who_left() public {
        crowd(4, true);
        leave(3);
        vm.warp(time() + window);
        eq(answering(secret(3)), 0, "nobody");
        refused(3, secret(3), notSeated(3));
        // back on its key it answers for all that it ever signed
        enlist(3, wallet(3), secret(3), instance(3), 2);
        show(3, secret(3));
        eq(reg.member(3).status, 2, "put out");
    }

    function test_who_lets_the_lease_lapse_answers() public {
        crowd(4, true);
        vm.warp(time() + LEASE);
        uint256[] memory seats = new uint256[](1);
        seats[0] = 3;
        reg.sweep(seats);
        vm.warp(time() + window - 1);
        show(3, secret(3));
        eq(reg.member(3).expiresAt, type(uint40).max, "suspended");
    }

    function test_for_a_key_that_was_replaced_the_new_node_is_put_out() public {
        crowd(4, true);
        replace(3, NEW, 2);
        eq(answering(secret(3)), 3, "the seat answers");
        refused(2, secret(3), notSeated(2));
        vm.warp(time() + window - 1);
        show(3, secret(3));
        eq(reg.member(3).status, 2, "put out");
        eq(reg.member(3).signer, vm.addr(NEW), "whoever sits there");
        eq(reg.activeWeight(), 3, "weight");
        yes(!court.convicted(vm.addr(NEW)), "its own key lied to nobody");
    }

    function test_a_replaced_key_answers_for_the_window_and_no_longer() public {
        crowd(4, true);
        replace(3, NEW, 2);
        vm.warp(time() + window);
        refused(3, secret(3), notSeated(3));
        eq(reg.member(3).status, 1, "the new node stays");
    }

    function test_the_window_runs_from_when_the_key_lost_its_vote_not_from_its_replacement()
        public
    {
        crowd(4, true);
        leave(3);
        vm.warp(time() + window - 10);
        replace(3, NEW, 2);
        eq(answering(secret(3)), 3, "still");
        vm.warp(time() + 10);
        eq(answering(secret(3)), 0, "no longer");
    }

    function test_a_second_replacement_does_not_hide_the_first() public {
        crowd(4, true);
        replace(3, NEW, 2);
        replace(3, NEWER, 3);
        eq(answering(secret(3)), 3, "first");
        eq(answering(NEW), 3, "second");
        show(3, secret(3));
        eq(reg.member(3).status, 2, "put out");
        vm.prank(OWNER);
        reg.liftSuspension(3);
        replace(3, NEWER, 4);
        show(3, NEW);
        eq(reg.member(3).status, 2, "each lie once");
    }

    function test_a_key_that_comes_back_and_leaves_again_answers_from_then() public {
        crowd(4, true);
        replace(3, NEW, 2);
        vm.warp(time() + window - 10);
        replace(3, secret(3), 3);
        vm.warp(time() + 20);
        eq(answering(secret(3)), 3, "it sits there");
        replace(3, NEW, 4);
        vm.warp(time() + window - 1);
        eq(answering(secret(3)), 3, "from the second time");
        vm.warp(time() + 1);
        eq(answering(secret(3)), 0, "over");
    }

    function test_of_a_burnt_seat_the_key_is_marked_once() public {
        crowd(4, true);
        vm.prank(OWNER);
        reg.burnSeat(3);
        show(3, secret(3));
        yes(court.convicted(vm.addr(secret(3))), "marked");
        refused(3, secret(3), marked());
        vm.warp(time() + window);
        eq(answering(secret(3)), 0, "over");
    }

    // -------------------------------------------------------- no innocent pays

    function test_a_seat_is_not_sold_while_it_answers_and_its_buyer_answers_for_nothing() public {
        crowd(5, true);
        vm.prank(OWNER);
        reg.setTransfersAllowed(true);
        address buyer = STRANGER;
        stillAnswers(3, buyer, type(uint40).max);
        replace(3, NEW, 2);
        stillAnswers(3, buyer, type(uint40).max);
        vm.warp(time() + 100);
        leave(3);
        uint40 until = uint40(time()) + window;
        stillAnswers(3, buyer, until);
        vm.warp(until - 1);
        stillAnswers(3, buyer, until);
        eq(answering(NEW), 3, "until then the seller can be shown to have lied");
        vm.warp(until);
        vm.prank(wallet(3));
        reg.transferFrom(wallet(3), buyer, 3);
        eq(answering(NEW) + answering(secret(3)), 0, "nobody answers any more");
        enlist(3, buyer, NEWER, instance(9), 3);
        refused(3, secret(3), notSeated(3));
        refused(3, NEW, notSeated(3));
        eq(reg.member(3).status, 1, "the buyer's node stays");
    }

    function test_a_seat_that_never_had_a_node_is_free_at_once() public {
        crowd(4, true);
        grant(bob, 1);
        vm.prank(OWNER);
        reg.setTransfersAllowed(true);
        vm.prank(bob);
        reg.transferFrom(bob, STRANGER, 5);
        // and again after it had one, and changed hands without another
        enlist(5, STRANGER, NEW, instance(9), 1);
        sell(5, STRANGER, bob);
        vm.prank(bob);
        reg.transferFrom(bob, STRANGER, 5);
    }

    function stillAnswers(uint256 seat, address to, uint40 until) private {
        address from = reg.ownerOf(seat);
        vm.prank(from);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.StillAnswers.selector, until));
        reg.transferFrom(from, to, seat);
    }

    function test_what_the_owner_forgave_is_not_shown_again() public {
        crowd(5, true);
        show(3, secret(3));
        vm.prank(OWNER);
        reg.liftSuspension(3);
        // still out, then with another key: the lie was answered for
        refused(3, secret(3), marked());
        replace(3, NEW, 2);
        refused(3, secret(3), marked());
        eq(reg.member(3).status, 1, "the new node stays");
        // the key that lied is put out again whenever it returns
        replace(3, secret(3), 3);
        show(3, secret(3));
        eq(reg.member(3).status, 2, "out");
    }

    function test_keys_under_a_dead_root_or_of_a_forbidden_app_answer_for_nothing() public {
        crowd(4, true);
        replace(3, NEW, 2);
        vm.prank(OWNER);
        reg.allowApp(APP, false);
        eq(answering(secret(3)) + answering(NEW) + answering(secret(2)), 0, "app");
        vm.prank(OWNER);
        reg.allowApp(APP, true);
        eq(answering(secret(3)), 3, "again");
        // the node moves on to a new root; the old one breaks, and its keys are anybody's
        vm.prank(OWNER);
        reg.rotateRoot(vm.addr(0xBEEF), type(uint40).max);
        certify(reg, APP, appWallet, 0xBEEF, 2);
        replace(3, NEWER, 3);
        eq(answering(NEW), 3, "a rotation forgives nothing while the old root lasts");
        vm.prank(GUARDIAN);
        reg.revokeRoot(1);
        eq(answering(secret(3)) + answering(NEW) + answering(secret(2)), 0, "root");
        eq(answering(NEWER), 3, "under the new root");
        refused(3, NEW, notSeated(3));
        eq(answering(0x5EED), 0, "a key of nobody");
        (uint32 none,,,,) = reg.answers(address(0));
        eq(none, 0, "no key");
    }

    // ------------------------------------------------------------- the minimum

    function test_the_new_node_stays_where_the_cluster_needs_it_and_may_go_later() public {
        crowd(3, true);
        replace(3, NEW, 2);
        show(3, secret(3));
        yes(court.convicted(vm.addr(secret(3))), "marked");
        eq(reg.member(3).status, 1, "and needed");
        refused(3, secret(3), marked());
        grant(wallet(4), 1);
        enlist(4, wallet(4), secret(4), instance(4), 1);
        show(3, secret(3));
        eq(reg.member(3).status, 2, "not needed any more");
        refused(3, secret(3), marked());
    }

    function test_by_policy_who_left_is_marked_only() public {
        crowd(4, true);
        policy(ICertificates.Effect.MARK);
        leave(3);
        show(3, secret(3));
        yes(court.convicted(vm.addr(secret(3))), "marked");
        eq(reg.member(3).expiresAt, 0, "free to return");
        refused(3, secret(3), marked());
    }

    function test_a_longer_cool_down_stays() public {
        crowd(4, true);
        vm.prank(OWNER);
        court.setPolicy(
            ICertificates.Policy(
                ICertificates.Effect.MARK, ICertificates.Effect.SUSPEND, 1, 1 days, 3
            )
        );
        vm.prank(GUARDIAN);
        reg.deactivate(3);
        uint40 until = reg.member(3).expiresAt;
        show(3, secret(3));
        eq(reg.member(3).expiresAt, until, "a lease, not a day");
    }
}
