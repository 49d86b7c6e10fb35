// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IAnnex} from "../src/IAnnex.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Fixture} from "./Fixture.sol";

/// Seats 1 to 4 weigh 4, 3, 2, 1 and belong to wallets of that number; the cluster was launched.
contract BreakGlassTest is Fixture {
    bytes32 internal constant BLOCK = keccak256("the block that the survivors have");
    uint64 internal constant EPOCH = 7;
    uint64 internal constant HEIGHT = 4711;

    function setUp() public override {
        super.setUp();
        for (uint256 seat = 1; seat <= 4; ++seat) {
            grant(wallet(seat), uint32(5 - seat));
            enlist(seat, wallet(seat), 0x100 + seat, bytes20(uint160(0x100 + seat)), 1);
        }
        launch();
    }

    // ------------------------------------------------------------------ the way it goes

    function test_a_majority_names_the_block_waits_and_opens_the_epoch() public {
        vm.prank(GUARDIAN);
        reg.deactivate(2); // the lost machine leaves the set that goes on
        vote(1);
        vote(3);
        (uint64 round,,, uint64 readyAt,, uint256 opened) = reg.pendingRecovery();
        eq(round + readyAt + opened, 0, "votes alone announce nothing");

        vm.expectEmit(address(reg));
        emit IAnnex.RecoveryAnnounced(
            0, EPOCH, HEIGHT, BLOCK, uint64(block.timestamp + RECOVERY_DELAY)
        );
        recover(seats(1, 3)); // by anybody: 6 of 10
        vm.warp(block.timestamp + RECOVERY_DELAY);
        vm.roll(block.number + 5);
        vm.expectEmit(address(reg));
        emit IAnnex.RecoveryOpened(0, EPOCH, HEIGHT, BLOCK, reg.version(), reg.digest());
        recover(seats(1, 3));

        IAnnex.Recovery memory r = reg.recovery(0);
        eq(r.epoch, EPOCH, "epoch");
        eq(r.height, HEIGHT, "height");
        eq(r.blockHash, BLOCK, "hash");
        eq(r.blockNumber, block.number, "block");
        eq(r.version, reg.version(), "version");
        eq(r.digest, reg.digest(), "digest");
        (round,,, readyAt,, opened) = reg.pendingRecovery();
        eq(round, 1, "a new round");
        eq(readyAt, 0, "nothing waits");
        eq(opened, 1, "one recovery");
    }

    function test_what_waits_can_be_seen() public {
        announce();
        (, uint64 epoch, uint64 height, uint64 readyAt, bytes32 hash,) = reg.pendingRecovery();
        eq(epoch, EPOCH, "epoch");
        eq(height, HEIGHT, "height");
        eq(hash, BLOCK, "hash");
        eq(readyAt, block.timestamp + reg.recoveryDelay(), "end of the time for objections");
    }

    function test_a_pause_does_not_stop_it_and_a_seat_without_a_node_votes_too() public {
        vm.prank(GUARDIAN);
        reg.pause();
        vm.prank(GUARDIAN);
        reg.deactivate(1);
        announce();
        vm.warp(block.timestamp + RECOVERY_DELAY);
        recover(seats(1, 3));
        eq(reg.recovery(0).epoch, EPOCH, "opened");
    }

    function test_X20_a_set_that_came_about_in_the_last_moment_waits_anew() public {
        announce();
        vm.warp(block.timestamp + RECOVERY_DELAY);
        // one member and whoever has the guardian's key
        for (uint256 seat = 1; seat <= 3; ++seat) {
            vm.prank(GUARDIAN);
            reg.deactivate(seat);
        }
        recover(seats(1, 3));
        (,,, uint64 readyAt,, uint256 opened) = reg.pendingRecovery();
        eq(opened, 0, "nothing was opened");
        eq(readyAt, block.timestamp + RECOVERY_DELAY, "announced anew");
        vm.expectRevert(abi.encodeWithSelector(IAnnex.TooEarly.selector, readyAt));
        recover(seats(1, 3));
        // nobody objected to what could be seen for the whole time
        vm.warp(readyAt);
        recover(seats(1, 3));
        (,, uint32 weight) = reg.founding(1);
        eq(weight, 1, "that set");
    }

    function test_half_of_what_was_announced_is_enough_to_open() public {
        announce();
        vm.prank(GUARDIAN);
        reg.deactivate(1);
        vm.prank(GUARDIAN);
        reg.deactivate(4);
        vm.warp(block.timestamp + RECOVERY_DELAY);
        recover(seats(1, 3)); // 5 of 10
        eq(reg.recovery(0).epoch, EPOCH, "opened");
    }

    // ---------------------------------------------------------------------- attacks

    function test_half_of_the_weight_is_no_majority() public {
        vote(1);
        vote(4); // 5 of 10
        refused(seats(1, 4), noMajority(5));
        vm.prank(OWNER);
        reg.setWeight(4, 2); // 6 of 11
        recover(seats(1, 4));
    }

    function test_seats_without_a_node_count_in_the_whole() public {
        // else whoever switches the others' machines off decides alone
        for (uint256 seat = 2; seat <= 4; ++seat) {
            vm.prank(GUARDIAN);
            reg.deactivate(seat);
        }
        vote(1);
        refused(seats(1), noMajority(4));
    }

    function test_a_seat_counts_once_however_often_it_is_named_or_votes() public {
        vote(1);
        vote(1);
        refused(seats(1, 1), abi.encodeWithSelector(IAnnex.NotAscending.selector));
        refused(seats(3, 1), abi.encodeWithSelector(IAnnex.NotAscending.selector));
        refused(seats(0, 1), abi.encodeWithSelector(IAnnex.NotAscending.selector));
        refused(seats(1), noMajority(4));
    }

    function test_seats_that_did_not_vote_or_voted_for_something_else_do_not_count() public {
        vote(1);
        vm.prank(wallet(2));
        reg.voteRecovery(2, EPOCH, HEIGHT, keccak256("another block"));
        vm.prank(wallet(3));
        reg.voteRecovery(3, EPOCH, HEIGHT - 1, BLOCK);
        vm.prank(wallet(4));
        reg.voteRecovery(4, EPOCH + 1, HEIGHT, BLOCK);
        refused(seats(1, 2, 3, 4), noMajority(4));
        refused(seats(1, 99), noMajority(4));
    }

    function test_only_the_seat_owner_votes() public {
        address[4] memory others = [OWNER, GUARDIAN, STRANGER, wallet(2)];
        for (uint256 i = 0; i < others.length; ++i) {
            vm.prank(others[i]);
            vm.expectRevert(IRegistry.NotSeatOwner.selector);
            reg.voteRecovery(1, EPOCH, HEIGHT, BLOCK);
        }
        vm.expectRevert(IRegistry.NoSuchSeat.selector);
        reg.voteRecovery(99, EPOCH, HEIGHT, BLOCK);
    }

    function test_nobody_shortens_the_time_for_objections_or_draws_it_out() public {
        announce();
        uint64 readyAt = uint64(block.timestamp + RECOVERY_DELAY);
        vm.warp(readyAt - 1);
        refused(seats(1, 3), abi.encodeWithSelector(IAnnex.TooEarly.selector, readyAt));
        (,,, uint64 waits,,) = reg.pendingRecovery();
        eq(waits, readyAt, "saying it again moves nothing");
        vm.warp(readyAt);
        recover(seats(1, 3));
    }

    function test_a_vote_withdrawn_while_it_waits_is_missing_at_the_end() public {
        announce();
        vm.prank(wallet(3));
        reg.voteRecovery(3, 0, 0, 0);
        vm.warp(block.timestamp + RECOVERY_DELAY);
        refused(seats(1, 3), noMajority(4));
    }

    function test_a_majority_that_changes_its_mind_waits_anew() public {
        announce();
        vm.warp(block.timestamp + RECOVERY_DELAY);
        bytes32 other = keccak256("a later block, found on one more survivor");
        for (uint256 seat = 1; seat <= 2; ++seat) {
            vm.prank(wallet(seat));
            reg.voteRecovery(seat, EPOCH, HEIGHT + 1, other);
        }
        reg.recover(EPOCH, HEIGHT + 1, other, seats(1, 2));
        (,,, uint64 readyAt, bytes32 hash, uint256 opened) = reg.pendingRecovery();
        eq(opened, 0, "not yet");
        eq(hash, other, "the new one");
        eq(readyAt, block.timestamp + RECOVERY_DELAY, "its own time");
        refused(seats(1, 3), noMajority(2)); // seat 3 alone stands by the first
    }

    function test_a_veto_voids_every_vote() public {
        announce();
        vm.prank(STRANGER);
        vm.expectRevert(IRegistry.NotGuardian.selector);
        reg.vetoRecovery();
        vm.prank(GUARDIAN);
        reg.vetoRecovery();
        vm.warp(block.timestamp + RECOVERY_DELAY);
        refused(seats(1, 3), noMajority(0));
        announce(); // who still wants it votes again
    }

    function test_votes_are_no_use_after_the_recovery_that_they_opened() public {
        open();
        refused(seats(1, 3), abi.encodeWithSelector(IAnnex.StaleEpoch.selector, EPOCH));
        vm.prank(wallet(1));
        vm.expectRevert(abi.encodeWithSelector(IAnnex.StaleEpoch.selector, EPOCH));
        reg.voteRecovery(1, EPOCH - 1, HEIGHT, BLOCK);
        // a vote for a later epoch that was cast in an earlier round does not count either
        vm.prank(wallet(1));
        reg.voteRecovery(1, EPOCH + 1, HEIGHT, BLOCK);
        vm.prank(OWNER);
        reg.vetoRecovery();
        vm.prank(wallet(3));
        reg.voteRecovery(3, EPOCH + 1, HEIGHT, BLOCK);
        vm.expectRevert(noMajority(2));
        reg.recover(EPOCH + 1, HEIGHT, BLOCK, seats(1, 3));
    }

    function test_a_sold_seat_comes_without_the_sellers_vote() public {
        vote(1);
        vote(3);
        sell(3, wallet(3), STRANGER);
        refused(seats(1, 3), noMajority(4));
    }

    function test_a_burnt_seat_weighs_nothing_on_either_side() public {
        vote(3);
        vote(4);
        refused(seats(3, 4), noMajority(3));
        vm.prank(OWNER);
        reg.burnSeat(1); // 3 of 6: still no majority
        vm.expectRevert(abi.encodeWithSelector(IAnnex.NoMajority.selector, 3, 6));
        reg.recover(EPOCH, HEIGHT, BLOCK, seats(3, 4));
        vm.prank(OWNER);
        reg.burnSeat(2);
        recover(seats(3, 4));
    }

    function test_there_is_nothing_to_recover_before_the_launch_or_without_nodes() public {
        for (uint256 seat = 1; seat <= 4; ++seat) {
            vm.prank(GUARDIAN);
            reg.deactivate(seat);
        }
        announce();
        vm.warp(block.timestamp + RECOVERY_DELAY);
        refused(seats(1, 3), abi.encodeWithSelector(IRegistry.NothingToLaunch.selector));

        reg = deploy();
        grant(wallet(1), 1);
        vm.prank(wallet(1));
        reg.voteRecovery(1, EPOCH, HEIGHT, BLOCK);
        refused(seats(1), abi.encodeWithSelector(IRegistry.NothingToLaunch.selector));
    }

    // ----------------------------------------------------------------------- helpers

    function wallet(uint256 seat) private pure returns (address) {
        return address(uint160(0x3000 + seat));
    }

    function vote(uint256 seat) private {
        vm.prank(wallet(seat));
        reg.voteRecovery(seat, EPOCH, HEIGHT, BLOCK);
    }

    function recover(uint256[] memory who) private {
        reg.recover(EPOCH, HEIGHT, BLOCK, who);
    }

    function refused(uint256[] memory who, bytes memory reason) private {
        vm.expectRevert(reason);
        recover(who);
    }

    function noMajority(uint256 weight) private view returns (bytes memory) {
        return abi.encodeWithSelector(IAnnex.NoMajority.selector, weight, reg.grantedWeight());
    }

    /// Seats 1 and 3: 6 of 10.
    function announce() private {
        vote(1);
        vote(3);
        recover(seats(1, 3));
    }

    function open() private {
        announce();
        vm.warp(block.timestamp + RECOVERY_DELAY);
        recover(seats(1, 3));
    }

    function seats(uint256 a) private pure returns (uint256[] memory list) {
        list = new uint256[](1);
        list[0] = a;
    }

    function seats(uint256 a, uint256 b) private pure returns (uint256[] memory list) {
        list = new uint256[](2);
        (list[0], list[1]) = (a, b);
    }

    function seats(uint256 a, uint256 b, uint256 c, uint256 d)
        private
        pure
        returns (uint256[] memory list)
    {
        list = new uint256[](4);
        (list[0], list[1], list[2], list[3]) = (a, b, c, d);
    }
}
