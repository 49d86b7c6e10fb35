// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ICertificates} from "../src/ICertificates.sol";
import {CourtFixture} from "./CourtFixture.sol";

/// Epochs on chain: each is bound to the state of the registry that its boundary names.
contract EpochsTest is CourtFixture {
    /// The registry changes; epoch 1 begins with what it says after that.
    function turned() internal returns (bytes memory boundary, bytes memory body, Head memory h) {
        grant(wallet(5), 1);
        vm.roll(block.number + 5);
        enlist(5, wallet(5), secret(5), instance(5), 1);
        body = bodyOf(hex"90", 1, uint64(block.number), 5);
        Head memory end = head(0, 4, 9, 2);
        end.bodyHash = bodyHashOf(body);
        boundary = encode(end);
        h = head(1, 1, 0, 4);
        h.parent = hashOf(end);
        vm.roll(block.number + 3);
    }

    function test_a_later_epoch_is_bound_to_the_chain_block_that_its_boundary_names() public {
        crowd(4, true);
        (bytes memory boundary, bytes memory body, Head memory h) = turned();
        Head memory later = head(1, 1, 1, 4);
        later.parent = hashOf(h);
        bytes memory headers = bytes.concat(encode(h), encode(later));
        uint64 version = reg.version();
        bytes memory parts = finalization(later, 2, 5);
        court.openEpoch(boundary, body, headers, parts, version, 0);
        (uint64 bound, uint32 weight,) = court.snapshot(1);
        eq(bound, version, "version");
        eq(weight, 5, "weight");
        vm.expectRevert(abi.encodeWithSelector(ICertificates.EpochKnown.selector, 1));
        court.openEpoch(boundary, body, headers, parts, version, 0);
        // and its certificates count by it: three of five are no quorum, four are
        Head memory led = head(1, 2, 0, 5);
        parts = finalization(led, 1, 3);
        vm.expectRevert(abi.encodeWithSelector(ICertificates.NoQuorum.selector, 3, 5));
        court.recordLeader(encode(led), parts);
        court.recordLeader(encode(led), finalization(led, 2, 5));
    }

    function test_nobody_chooses_another_state_of_the_registry_for_an_epoch() public {
        crowd(4, true);
        uint64 old = reg.version();
        (bytes memory boundary, bytes memory body, Head memory h) = turned();
        uint64 version = reg.version();
        vm.prank(OWNER);
        reg.setWeight(1, 9);
        uint64 newer = reg.version();
        bytes memory parts = finalization(h, 2, 5);
        uint64[4] memory wrong = [old, newer, newer + 1, 0];
        for (uint256 i = 0; i < 4; ++i) {
            vm.expectRevert(abi.encodeWithSelector(ICertificates.BadChange.selector, wrong[i]));
            court.openEpoch(boundary, body, encode(h), parts, wrong[i], 0);
        }
        // the right one, but it is not the last of all, nor does that one follow it
        vm.expectRevert(abi.encodeWithSelector(ICertificates.BadChange.selector, version));
        court.openEpoch(boundary, body, encode(h), parts, version, 0);
        vm.expectRevert(abi.encodeWithSelector(ICertificates.BadChange.selector, version));
        court.openEpoch(boundary, body, encode(h), parts, version, old);
        court.openEpoch(boundary, body, encode(h), parts, version, newer);
        (, uint32 weight,) = court.snapshot(1);
        eq(weight, 5, "as it was at that block");
    }

    function test_of_two_changes_in_one_chain_block_the_last_one_counts() public {
        crowd(4, true);
        (bytes memory boundary,, Head memory h) = turned();
        vm.prank(OWNER);
        reg.setWeight(1, 2);
        uint64 first = reg.version();
        vm.prank(OWNER);
        reg.setWeight(2, 2);
        uint64 second = reg.version();
        bytes memory body = bodyOf(hex"90", 1, uint64(block.number), 5);
        Head memory end = head(0, 4, 9, 2);
        end.bodyHash = bodyHashOf(body);
        boundary = encode(end);
        h.parent = hashOf(end);
        bytes memory parts = finalization(h, 1, 5);
        vm.expectRevert(abi.encodeWithSelector(ICertificates.BadChange.selector, first));
        court.openEpoch(boundary, body, encode(h), parts, first, second);
        court.openEpoch(boundary, body, encode(h), parts, second, 0);
        (, uint32 weight,) = court.snapshot(1);
        eq(weight, 7, "weight");
    }

    function test_an_epoch_of_the_same_members_keeps_the_binding_of_the_launch() public {
        crowd(4, true);
        bytes memory body = bodyOf(hex"90", 1, 0, 4);
        Head memory end = head(0, 9, 0, 2);
        end.bodyHash = bodyHashOf(body);
        Head memory h = head(1, 1, 0, 1);
        h.parent = hashOf(end);
        court.openEpoch(encode(end), body, encode(h), finalization(h, 1, 3), 0, 0);
        (uint64 version, uint32 weight,) = court.snapshot(1);
        eq(version, reg.version(), "version");
        eq(weight, 4, "weight");
    }

    function test_a_boundary_must_be_whole_and_the_blocks_must_stand_on_it() public {
        crowd(4, true);
        (bytes memory boundary, bytes memory body, Head memory h) = turned();
        uint64 version = reg.version();
        bytes memory parts = finalization(h, 2, 5);
        bytes memory other = bodyOf(hex"90", 1, uint64(block.number), 5);
        vm.expectRevert(ICertificates.BadBoundary.selector);
        court.openEpoch(boundary, other, encode(h), parts, version, 0);
        vm.expectRevert(ICertificates.BadHeader.selector);
        court.openEpoch(hex"00", body, encode(h), parts, version, 0);
        vm.expectRevert(ICertificates.BadHeader.selector);
        court.openEpoch(boundary, body, "", "", version, 0);
        Head memory stray = head(1, 1, 0, 4);
        bytes memory strayParts = finalization(stray, 2, 5);
        vm.expectRevert(ICertificates.BadHeader.selector);
        court.openEpoch(boundary, body, encode(stray), strayParts, version, 0);
        // a block of the epoch before on top of the boundary is not of the new one
        Head memory old = head(0, 4, 10, 2);
        old.parent = h.parent;
        bytes memory oldParts = finalization(old, 2, 5);
        vm.expectRevert(ICertificates.BadHeader.selector);
        court.openEpoch(boundary, body, encode(old), oldParts, version, 0);
        // the record of an epoch that is not the next
        bytes memory far = bodyOf(hex"90", 3, uint64(block.number) - 3, 5);
        Head memory end = head(0, 4, 9, 2);
        end.bodyHash = bodyHashOf(far);
        bytes memory wrong = encode(end);
        vm.expectRevert(ICertificates.BadBoundary.selector);
        court.openEpoch(wrong, far, encode(h), parts, version, 0);
    }

    function test_a_record_inside_a_nullification_does_not_pose_as_the_record() public {
        crowd(4, true);
        (,, Head memory h) = turned();
        uint64 version = reg.version();
        uint64 chainBlock = uint64(block.number) - 3;
        // a nullification whose signature bytes read like the end of a body
        bytes memory bait = new bytes(65);
        bytes memory fake = hex"90960107c420";
        for (uint256 i = 0; i < fake.length; ++i) {
            bait[i] = fake[i];
        }
        bytes memory nullified =
            bytes.concat(hex"9196020004", hex"00c400", hex"91", hex"930101c441", bait);
        bytes memory body = bodyOf(nullified, 1, chainBlock, 5);
        Head memory end = head(0, 4, 0, 2);
        end.bodyHash = bodyHashOf(body);
        h.parent = hashOf(end);
        court.openEpoch(encode(end), body, encode(h), finalization(h, 2, 5), version, 0);
        (uint64 bound,,) = court.snapshot(1);
        eq(bound, version, "the record, not the bait");
    }

    function test_a_recovery_voids_what_was_opened_before_it() public {
        crowd(4, true);
        (bytes memory boundary, bytes memory body, Head memory h) = turned();
        court.openEpoch(boundary, body, encode(h), finalization(h, 2, 5), reg.version(), 0);
        uint256[] memory seats = new uint256[](3);
        for (uint256 i = 0; i < 3; ++i) {
            seats[i] = i + 1;
            vm.prank(wallet(i + 1));
            reg.voteRecovery(i + 1, 1, 50, B1);
        }
        reg.recover(1, 50, B1, seats);
        vm.warp(block.timestamp + RECOVERY_DELAY);
        vm.prank(wallet(5));
        reg.deactivate(5);
        reg.recover(1, 50, B1, seats);
        Head memory led = head(1, 2, 0, 3);
        bytes memory parts = finalization(led, 1, 4);
        vm.expectRevert(abi.encodeWithSelector(ICertificates.UnknownEpoch.selector, 1));
        court.recordLeader(encode(led), parts);
        eq(court.openFounding(), 1, "epoch 1 is the recovered one");
        (, uint32 weight, uint16 recoveries) = court.snapshot(1);
        eq(weight, 4, "weight");
        eq(recoveries, 1, "branch");
        court.recordLeader(encode(led), parts);
        // the branch that was left cannot be opened again, nor the launch
        Head memory first = head(0, 9, 9, 3);
        parts = finalization(first, 1, 4);
        vm.expectRevert(abi.encodeWithSelector(ICertificates.UnknownEpoch.selector, 0));
        court.depose(0, 9, 9, parts, encode(first), 0, 0);
    }

    function test_X01_who_came_first_binds_no_epoch_to_the_time_when_it_was_alone() public {
        crowd(1, false);
        uint64 first = reg.version();
        (uint64 alone,,) = reg.changeOf(first);
        vm.roll(alone + 1);
        for (uint256 i = 2; i <= 4; ++i) {
            grant(wallet(i), 1);
            enlist(i, wallet(i), secret(i), instance(i), 1);
        }
        uint64 second = first + 2;
        (uint64 chainBlock,,) = reg.changeOf(reg.version());
        launch();
        vm.roll(chainBlock + 1);
        // seat 1, a quorum of itself then, makes up a boundary and a block on it
        (bytes memory boundary, bytes memory body, Head memory h) = madeUp(alone);
        bytes memory parts = finalization(h, 1, 1);
        vm.expectRevert(ICertificates.NotOwner.selector);
        court.openEpoch(boundary, body, encode(h), parts, first, second);
        // the state of the founding is fair, also when it is over
        (boundary, body, h) = madeUp(chainBlock);
        uint64 version = reg.version();
        vm.prank(OWNER);
        reg.setWeight(4, 2);
        parts = finalization(h, 1, 1);
        vm.expectRevert(abi.encodeWithSelector(ICertificates.NoQuorum.selector, 1, 4));
        court.openEpoch(boundary, body, encode(h), parts, version, version + 1);
        court.openEpoch(boundary, body, encode(h), finalization(h, 1, 3), version, version + 1);
    }

    function test_X19_a_member_that_swept_all_others_away_binds_no_epoch_to_that_moment() public {
        crowd(4, true);
        vm.prank(GUARDIAN);
        reg.pause(); // so nobody could renew
        vm.warp(block.timestamp + LEASE);
        vm.roll(2000);
        uint256[] memory others = new uint256[](3);
        for (uint256 i = 0; i < 3; ++i) {
            others[i] = i + 2;
        }
        reg.sweep(others);
        uint64 version = reg.version();
        (uint64 chainBlock, uint32 left,) = reg.changeOf(version);
        eq(left, 1, "alone");
        (bytes memory boundary, bytes memory body, Head memory h) = madeUp(chainBlock);
        bytes memory parts = finalization(h, 1, 1);
        vm.expectRevert(ICertificates.NotOwner.selector);
        court.openEpoch(boundary, body, encode(h), parts, version, 0);
        // a cluster that really shrank so much since has the word of the owner, who counts anew from there
        vm.prank(OWNER);
        court.openEpoch(boundary, body, encode(h), parts, version, 0);
        (, uint32 weight,) = court.snapshot(1);
        eq(weight, 1, "bound");
    }

    function test_a_cluster_that_grew_is_not_bound_to_half_of_what_it_was_last() public {
        crowd(4, true);
        for (uint256 i = 5; i <= 9; ++i) {
            grant(wallet(i), 1);
            enlist(i, wallet(i), secret(i), instance(i), 1);
        }
        uint64 version = reg.version();
        (uint64 chainBlock,,) = reg.changeOf(version);
        (bytes memory boundary, bytes memory body, Head memory h) = madeUp(chainBlock);
        court.openEpoch(boundary, body, encode(h), finalization(h, 1, 7), version, 0);
        // four were enough of the founding's four, and are less than half of nine
        vm.roll(chainBlock + 1);
        for (uint256 i = 5; i <= 9; ++i) {
            vm.prank(wallet(i));
            reg.deactivate(i);
        }
        version = reg.version();
        (chainBlock,,) = reg.changeOf(version);
        (boundary, body, h) = madeUpFor(2, chainBlock);
        bytes memory parts = finalization(h, 1, 4);
        vm.expectRevert(ICertificates.NotOwner.selector);
        court.openEpoch(boundary, body, encode(h), parts, version, 0);
        enlist(5, wallet(5), secret(5), instance(5), 2);
        version = reg.version();
        (chainBlock,,) = reg.changeOf(version);
        (boundary, body, h) = madeUpFor(2, chainBlock);
        court.openEpoch(boundary, body, encode(h), finalization(h, 1, 4), version, 0);
    }

    function madeUp(uint64 chainBlock)
        private
        view
        returns (bytes memory boundary, bytes memory body, Head memory h)
    {
        return madeUpFor(1, chainBlock);
    }

    function madeUpFor(uint64 epoch, uint64 chainBlock)
        private
        view
        returns (bytes memory boundary, bytes memory body, Head memory h)
    {
        body = bodyOf(hex"90", epoch, chainBlock, 1);
        Head memory end = head(epoch - 1, 1, 0, 1);
        end.bodyHash = bodyHashOf(body);
        h = head(epoch, 1, 0, 1);
        h.parent = hashOf(end);
        return (encode(end), body, h);
    }
}
