// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

import {IAnnex} from "../src/IAnnex.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Fixture, IDeployed} from "./Fixture.sol";

/// What becomes of seats: weights, leases, suspensions, burnt ones, and the last change of who votes.
contract SeatsTest is Fixture {
    function test_sweep_takes_expired_nodes_out_and_they_may_come_back() public {
        uint256 seat = grant(alice, 4);
        uint256 second = grant(bob, 1);
        enlist(seat, alice, NODE1, INSTANCE1, 1);
        vm.warp(block.timestamp + LEASE - 1);
        enlist(second, bob, NODE2, INSTANCE2, 1);
        uint256[] memory all = new uint256[](5);
        (all[0], all[1], all[2], all[3], all[4]) = (seat, seat, second, 0, 99);
        reg.sweep(all);
        eq(reg.activeWeight(), 5, "one second left");
        vm.warp(block.timestamp + 1);
        vm.roll(block.number + 10);
        uint64 version = reg.version();
        reg.sweep(all);
        eq(reg.version(), version + 1, "one change, though listed twice");
        eq(reg.activeWeight(), 1, "weight out");
        eq(reg.member(seat).status, 2, "inactive");
        eq(reg.weightAt(seat, uint48(block.number - 1)), 4, "history stays");
        eq(reg.weightAt(seat, uint48(block.number)), 0, "now");
        uint64 deadline = uint64(block.timestamp + 60);
        bytes memory signature = signAnnounce(reg, NODE1, seat, 2, deadline, ENDPOINT);
        vm.expectRevert(IRegistry.NoNode.selector);
        reg.announce(seat, 2, deadline, ENDPOINT, signature);
        enlist(seat, alice, NODE1, INSTANCE1, 2);
        eq(reg.activeWeight(), 5, "back");
    }

    function test_deactivate_is_for_seat_owner_guardian_and_contract_owner() public {
        uint256 seat = grant(alice, 1);
        address[3] memory may = [alice, GUARDIAN, OWNER];
        for (uint48 i = 0; i < 3; ++i) {
            enlist(seat, alice, NODE1, INSTANCE1, i + 1);
            vm.prank(STRANGER);
            vm.expectRevert(IRegistry.NotSeatOwner.selector);
            reg.deactivate(seat);
            vm.prank(may[i]);
            reg.deactivate(seat);
            eq(reg.member(seat).status, 2, "inactive");
            eq(reg.activeWeight(), 0, "weight");
            vm.warp(reg.member(seat).expiresAt > 0 ? reg.member(seat).expiresAt : block.timestamp);
        }
        vm.prank(alice);
        vm.expectRevert(IRegistry.NoNode.selector);
        reg.deactivate(seat);
    }

    function test_a_node_that_others_put_out_stays_out_for_a_lease_unless_the_owner_lifts_it()
        public
    {
        uint256 seat = grant(alice, 1);
        enlist(seat, alice, NODE1, INSTANCE1, 1);
        vm.prank(GUARDIAN);
        reg.deactivate(seat);
        uint40 until = uint40(block.timestamp) + LEASE;
        eq(reg.member(seat).expiresAt, until, "until");
        bytes memory reason = abi.encodeWithSelector(IRegistry.CoolingDown.selector, until);
        Proof memory p = proof(seat, NODE2, INSTANCE2, 2);
        vm.prank(alice);
        vm.expectRevert(reason);
        send(p);
        // selling the seat does not help
        vm.prank(OWNER);
        reg.setLease(30 days);
        vm.warp(until);
        enlist(seat, alice, NODE1, INSTANCE1, 2);
        vm.prank(GUARDIAN);
        reg.deactivate(seat);
        sell(seat, alice, STRANGER);
        reason = abi.encodeWithSelector(IRegistry.CoolingDown.selector, until + 30 days);
        p = proof(seat, NODE2, INSTANCE2, 3);
        vm.prank(STRANGER);
        vm.expectRevert(reason);
        send(p);
        vm.prank(GUARDIAN);
        vm.expectRevert(
            abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, GUARDIAN)
        );
        reg.liftSuspension(seat);
        vm.prank(OWNER);
        reg.liftSuspension(seat);
        vm.prank(STRANGER);
        send(p);
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.NoNode.selector);
        reg.liftSuspension(seat);
        // her own decision is hers to take back at once
        vm.prank(STRANGER);
        reg.deactivate(seat);
        enlist(seat, STRANGER, NODE1, INSTANCE1, 4);
    }

    function test_a_minter_grants_light_seats_only() public {
        address minter = address(0x3117);
        vm.prank(OWNER);
        reg.setMinter(minter, 2);
        vm.prank(minter);
        reg.grantSeat(alice, 2);
        vm.prank(minter);
        vm.expectRevert(IRegistry.NotMinter.selector);
        reg.grantSeat(bob, 3);
        vm.prank(minter);
        vm.expectRevert(IRegistry.BadWeight.selector);
        reg.grantSeat(bob, 0);
        vm.prank(OWNER);
        reg.setMinter(address(0), 0);
        vm.prank(minter);
        vm.expectRevert(IRegistry.NotMinter.selector);
        reg.grantSeat(bob, 1);
        (address named, uint32 most) = reg.minter();
        eq(named, address(0), "minter");
        eq(most, 0, "weight");
    }

    function test_only_the_contract_of_certificates_suspends() public {
        uint256 seat = grant(alice, 3);
        enlist(seat, alice, NODE1, INSTANCE1, 1);
        address court = address(0xC0);
        address rules = reg.rules();
        vm.prank(OWNER);
        reg.setCompanions(rules, court);
        eq(reg.certificates(), court, "named");
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.NotCertificates.selector);
        reg.suspend(seat, type(uint40).max);
        vm.prank(court);
        reg.suspend(seat, type(uint40).max);
        eq(reg.activeWeight() + reg.activeSeats(), 0, "no weight");
        // a cool-down is never shortened, nor begun where there is no seat any more
        vm.prank(court);
        yes(reg.suspend(seat, 1), "there is such a seat");
        eq(reg.member(seat).expiresAt, type(uint40).max, "until");
        vm.prank(OWNER);
        reg.burnSeat(seat);
        vm.prank(court);
        yes(!reg.suspend(seat, 1), "burnt");
    }

    function test_the_annex_does_nothing_on_its_own_and_hides_nothing() public {
        IDeployed annex = IDeployed(reg.annex());
        vm.expectRevert(IRegistry.NoSuchSeat.selector);
        annex.voteRecovery(1, 1, 1, bytes32(uint256(1)));
        (bool done,) = address(reg).call(hex"deadbeef");
        yes(!done, "what neither half knows is refused");
        (done,) = address(reg).call("");
        yes(!done, "and so is an empty call");
        eq(reg.recoveryDelay(), RECOVERY_DELAY, "an immutable of the annex");
    }

    function test_deactivate_withdraws_the_binding_so_the_node_cannot_return_by_itself() public {
        uint256 seat = grant(alice, 1);
        vm.prank(alice);
        reg.bindInstance(seat, INSTANCE1);
        send(proof(seat, NODE1, INSTANCE1, 1));
        vm.prank(alice);
        reg.deactivate(seat);
        Proof memory again = proof(seat, NODE1, INSTANCE1, 2);
        vm.expectRevert(IRegistry.NotAuthorized.selector);
        send(again);
    }

    function test_weights_change_at_once_and_history_remembers() public {
        uint256 seat = grant(alice, 2);
        enlist(seat, alice, NODE1, INSTANCE1, 1);
        vm.roll(2000);
        vm.prank(OWNER);
        reg.setWeight(seat, 9);
        eq(reg.activeWeight(), 9, "active");
        eq(reg.grantedWeight(), 9, "granted");
        eq(reg.weightAt(seat, 1999), 2, "before");
        eq(reg.weightAt(seat, 2000), 9, "after");
        eq(reg.totalWeightAt(1999), 2, "total before");
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.BadWeight.selector);
        reg.setWeight(seat, 0);
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.NoSuchSeat.selector);
        reg.setWeight(7, 1);
    }

    function test_the_sum_of_weights_fits_32_bits() public {
        uint256 seat = grant(alice, type(uint32).max - 1);
        grant(bob, 1);
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.BadWeight.selector);
        reg.grantSeat(STRANGER, 1);
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.BadWeight.selector);
        reg.setWeight(seat, type(uint32).max);
        enlist(seat, alice, NODE1, INSTANCE1, 1);
        enlist(2, bob, NODE2, INSTANCE2, 1);
        eq(reg.activeWeight(), type(uint32).max, "all");
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.BadWeight.selector);
        reg.grantSeat(STRANGER, 0);
    }

    function test_a_burnt_seat_leaves_the_pages_and_its_number_is_not_used_again() public {
        uint256 seat = grant(alice, 5);
        grant(bob, 1);
        enlist(seat, alice, NODE1, INSTANCE1, 1);
        vm.prank(OWNER);
        reg.burnSeat(seat);
        eq(reg.activeWeight(), 0, "active");
        eq(reg.grantedWeight(), 1, "granted");
        eq(reg.seatCount(), 2, "count");
        (IRegistry.Member[] memory rows,) = reg.page(1, 10);
        eq(rows.length, 1, "rows");
        eq(rows[0].seat, 2, "row");
        eq(grant(alice, 1), 3, "next number");
        enlist(3, alice, NODE2, INSTANCE1, 1);
        vm.prank(OWNER);
        vm.expectRevert(IRegistry.NoSuchSeat.selector);
        reg.burnSeat(seat);
    }

    /// Each version is read by all who come later: nobody may make them for next to nothing.
    function test_an_empty_seat_that_is_passed_on_makes_no_version_and_is_the_new_owners() public {
        uint256 seat = grant(alice, 5);
        enlist(seat, alice, NODE1, INSTANCE1, 3);
        sell(seat, alice, bob); // with which its node leaves the row
        (uint64 version, bytes32 digest) = (reg.version(), reg.digest());
        vm.prank(bob);
        reg.bindInstance(seat, INSTANCE2);
        vm.prank(bob);
        reg.voteRecovery(seat, 7, 1, bytes32(uint256(1)));
        vm.prank(bob);
        reg.transferFrom(bob, alice, seat);
        eq(reg.version(), version, "version");
        eq(reg.digest(), digest, "digest");
        eq(reg.boundInstance(seat), bytes20(0), "bob's binding is gone");
        yes(!reg.expectsInstance(INSTANCE2), "for the boot rules too");
        uint256[] memory seats = new uint256[](1);
        seats[0] = seat;
        grant(bob, 1);
        enlist(2, bob, NODE2, INSTANCE2, 1);
        launch();
        vm.expectRevert(abi.encodeWithSelector(IAnnex.NoMajority.selector, 0, 6));
        reg.recover(7, 1, bytes32(uint256(1)), seats);
        eq(reg.member(seat).owner, alice, "owner");
        eq(reg.member(seat).weight, 5, "weight");
        eq(reg.member(seat).incarnation, 3, "an old machine still cannot come back");
        enlist(seat, alice, NODE1, INSTANCE1, 4);
        eq(reg.activeWeight(), 6, "it votes");
    }

    function test_pages_cover_every_seat_once() public {
        for (uint160 i = 1; i <= 7; ++i) {
            grant(address(0x1000 + i), uint32(i));
        }
        vm.prank(OWNER);
        reg.burnSeat(4);
        uint256 from = 1;
        uint256 sum = 0;
        for (uint256 turn = 0; from != 0; ++turn) {
            yes(turn < 4, "ends");
            (IRegistry.Member[] memory rows, uint256 next) = reg.page(from, 3);
            for (uint256 i = 0; i < rows.length; ++i) {
                sum += rows[i].seat;
                eq(rows[i].weight, rows[i].seat, "weight");
            }
            from = next;
        }
        eq(sum, 1 + 2 + 3 + 5 + 6 + 7, "all");
        (IRegistry.Member[] memory none, uint256 end) = reg.page(8, 3);
        eq(none.length + end, 0, "past the end");
        (none, end) = reg.page(0, type(uint256).max);
        eq(none.length, 6, "from zero, any count");
        eq(end, 0, "end");
        (none, end) = reg.page(5, 3);
        eq(end, 0, "exactly at the end");
        (none, end) = reg.page(type(uint256).max, type(uint256).max);
        eq(none.length + end, 0, "far past the end");
    }

    // ----------------------------------------------------- the last change of the set

    function test_the_last_change_names_the_newest_change_of_who_votes_and_no_other() public {
        lastChangeIs(0, 0, 0);
        grant(alice, 3);
        grant(bob, 2);
        lastChangeIs(0, 0, 0);
        changes(true);
        enlist(1, alice, NODE1, INSTANCE1, 1);
        lastChangeIs(_block, reg.version(), reg.digest());
        changes(false); // the same key again
        enlist(1, alice, NODE1, INSTANCE1, 2);
        stays();
        announceAs(NODE1, 1, 3, ENDPOINT);
        stays();
        vm.prank(OWNER);
        reg.setWeight(2, 9); // nobody sits there
        stays();
        vm.prank(OWNER);
        reg.setWeight(1, 3); // as it was
        stays();
        changes(true); // another key on a seat that votes, though no weight moved
        enlist(1, alice, NODE2, INSTANCE2, 4);
        lastChangeIs(_block, reg.version(), reg.digest());
        changes(true);
        vm.prank(OWNER);
        reg.setWeight(1, 4);
        lastChangeIs(_block, reg.version(), reg.digest());
        changes(true);
        vm.prank(alice);
        reg.deactivate(1);
        lastChangeIs(_block, reg.version(), reg.digest());
        changes(false);
        vm.prank(OWNER);
        reg.burnSeat(1); // its node had no say any more
        stays();
        changes(true);
        enlist(2, bob, 0x333, INSTANCE1, 1);
        changes(true);
        vm.prank(OWNER);
        reg.burnSeat(2);
        lastChangeIs(_block, reg.version(), reg.digest());
    }

    bytes32 private _digestBefore;
    uint256 private _block = 1000; // the compiler takes block.number for a constant

    /// A new block, in which the next call does or does not change who votes.
    function changes(bool) private {
        (,, _digestBefore) = reg.lastChange();
        _block += 10;
        vm.roll(_block);
    }

    function stays() private view {
        (uint64 blockNumber,, bytes32 digest) = reg.lastChange();
        eq(digest, _digestBefore, "the last change");
        yes(blockNumber < _block, "an earlier block");
    }

    function lastChangeIs(uint256 number, uint64 version, bytes32 digest) private view {
        (uint64 haveBlock, uint64 haveVersion, bytes32 haveDigest) = reg.lastChange();
        eq(haveBlock, number, "block");
        eq(haveVersion, version, "version");
        eq(haveDigest, digest, "digest");
    }
}
